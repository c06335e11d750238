"""v5-nano's EuroBERT against float64 NumPy and transformers + peft; every plausible mistake must show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest

import mlx_jina
from mlx_jina import models
from mlx_jina.errors import CheckpointError, InputError
from mlx_jina.models.base import EncoderModel
from mlx_jina.models.eurobert import EuroBert
from mlx_jina.nn import attention
from mlx_jina.weights import lora
from tests.support import bare, blocks, checkpoints, decoder_checkpoints, reference, torch_reference
from tests.support.bare import TEXTS
from tests.support.tolerance import bound

pytestmark = pytest.mark.filterwarnings("ignore:.*SwigPy.*:DeprecationWarning")

CONFIG = decoder_checkpoints.nano_config(**decoder_checkpoints.NANO_TINY)
WEIGHTS = decoder_checkpoints.nano_weights(CONFIG)
TASKS = checkpoints.V5_TASKS
PROMPTS = {"query": "Query: ", "document": "Document: "}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decoder_checkpoints.v5_nano(tmp_path_factory.mktemp("v5") / "nano")


@pytest.fixture(scope="module")
def model(folder: Path) -> mlx_jina.Encoder:
    return mlx_jina.load(folder)


def tiny(dtype: mx.Dtype = mx.float32, **changes: Any) -> EncoderModel:
    return bare.build(CONFIG | changes, WEIGHTS, dtype)


def random_ids(lengths: list[int]) -> list[bare.Ids]:
    return bare.random_ids(lengths, CONFIG["vocab_size"])


def expected(
    texts: list[bare.Ids], weights: dict[str, Any] = WEIGHTS, causal: bool = False
) -> npt.NDArray[np.float64]:
    return np.stack([reference.unit(reference.qwen3(weights, CONFIG, ids, causal)[-1]) for ids in texts])


@pytest.mark.parametrize("prompt_name", PROMPTS)
@pytest.mark.parametrize("task", TASKS)
def test_every_task_and_prompt_equals_float64(model: mlx_jina.Encoder, task: str, prompt_name: str) -> None:
    adapter = decoder_checkpoints.nano_adapter_weights(CONFIG, 4, 1 + TASKS.index(task))
    ids = [np.array(x) for x in model.tokenize([PROMPTS[prompt_name] + text for text in TEXTS])]
    fused = reference.with_adapter(WEIGHTS, adapter, 1.0)
    found = model.encode(TEXTS, task=task, prompt_name=prompt_name)
    np.testing.assert_allclose(found, expected(ids, fused), atol=bound(2e-6), rtol=0)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_equals_transformers_and_peft(folder: Path, model: mlx_jina.Encoder, task: str) -> None:
    theirs = torch_reference.eurobert(folder, task)
    fused = mlx_jina.load(folder, task=task)
    for prompt_name, prompt in PROMPTS.items():
        ids = [np.array(x) for x in model.tokenize([prompt + text for text in TEXTS])]
        wanted = torch_reference.last_token(theirs, ids)
        np.testing.assert_allclose(
            model.encode(TEXTS, task=task, prompt_name=prompt_name), wanted, atol=bound(5e-6)
        )
        np.testing.assert_allclose(fused.encode(TEXTS, prompt_name=prompt_name), wanted, atol=bound(5e-6))


def test_mixed_lengths_equal_transformers(folder: Path) -> None:
    texts = random_ids([1, 2, 3, 17, 127, 128, 129, 129, 333, 600])
    wanted = torch_reference.last_token(torch_reference.eurobert(folder), texts)
    np.testing.assert_allclose(bare.pooled(tiny(), texts), wanted, atol=bound(5e-6))


@pytest.mark.slow
def test_the_real_size_equals_transformers_and_peft(tmp_path: Path) -> None:
    """12 layers of 768, bfloat16 files of 0.5 GB; takes 3 GB of memory."""
    tasks = TASKS[:2]
    folder = decoder_checkpoints.v5_nano(
        tmp_path, decoder_checkpoints.NANO, rank=32, tasks=tasks, dtype=mx.bfloat16
    )
    kept = mlx_jina.load(folder)
    for task in tasks:
        ids = [np.array(x) for x in kept.tokenize(["Document: " + text for text in TEXTS])]
        wanted = torch_reference.last_token(torch_reference.eurobert(folder, task), ids)
        np.testing.assert_allclose(kept.encode(TEXTS, task=task), wanted, atol=bound(5e-6))


@pytest.mark.slow
def test_up_to_8192_tokens_equals_transformers(folder: Path) -> None:
    texts = random_ids([1, 129, 2048, 4097, 8192])
    wanted = torch_reference.last_token(torch_reference.eurobert(folder), texts)
    np.testing.assert_allclose(bare.pooled(tiny(), texts), wanted, atol=bound(5e-6))


def test_mistakes_show() -> None:
    texts = random_ids([140])
    right = expected(texts)
    assert abs(bare.pooled(tiny(), texts) - right).max() < bound(2e-6)
    for wrong in (
        expected(texts, causal=True),
        bare.pooled(tiny(rope_theta=250000), texts),
        bare.pooled(tiny(rms_norm_eps=1e-2), texts),
        bare.pooled(tiny(), [texts[0][:-1]]),
    ):
        assert abs(wrong - right).max() > 1e-4
    # Of the published size, which no vector of this test's magnitudes could tell from Qwen3's 1e-6.
    built = tiny()
    assert isinstance(built, EuroBert)
    assert {built.norm.eps, built.layers[1].input_layernorm.eps} == {1e-5}


class TestTheClosingToken:
    def test_it_alone_is_added(self, model: mlx_jina.Encoder) -> None:
        fast = model._tokenizer.fast
        end = fast.token_to_id("<|end_of_text|>")
        for text in ("Query: a", "", "bread " * 50):
            assert model.tokenize(text) == [[*fast.encode(text, add_special_tokens=False).ids, end]]

    def test_truncation_keeps_it(self, model: mlx_jina.Encoder) -> None:
        text = "light travels fast in vacuum " * 20
        (ids,) = model.tokenize("Document: " + text)
        with pytest.warns(mlx_jina.TruncationWarning):
            cut = model.encode(text, task="retrieval", max_length=12)
        adapter = decoder_checkpoints.nano_adapter_weights(CONFIG, 4, 1 + TASKS.index("retrieval"))
        kept = [np.array([*ids[:11], ids[-1]])]
        fused = reference.with_adapter(WEIGHTS, adapter, 1.0)
        np.testing.assert_allclose(cut, expected(kept, fused)[0], atol=bound(2e-6))

    def test_an_empty_text_with_its_prompt_is_a_text(self, model: mlx_jina.Encoder) -> None:
        same = model.encode("Document: ", task="clustering", prompt="")
        assert np.array_equal(model.encode("", task="clustering"), same)


class TestSwitching:
    def test_any_sequence_gives_the_bits_of_a_fresh_load(self, folder: Path, model: mlx_jina.Encoder) -> None:
        fresh = {task: mlx_jina.load(folder).encode(TEXTS, task=task) for task in TASKS}
        for index in np.random.default_rng(0).integers(0, 4, 12):
            assert np.array_equal(model.encode(TEXTS, task=TASKS[index]), fresh[TASKS[index]])

    def test_tasks_differ(self, model: mlx_jina.Encoder) -> None:
        first, *others = (model.encode(TEXTS, task=task) for task in TASKS)
        assert all((first * other).sum(axis=-1).max() < 0.9 for other in others)

    def test_the_model_knows_its_tasks_and_dimensions(self, model: mlx_jina.Encoder) -> None:
        assert (model.tasks, model.max_length) == (TASKS, 8192)
        assert model.truncate_dims == (32, 64, 128, 256, 512, 768)
        with pytest.raises(InputError, match="needs a task"):
            model.encode("x")


def test_neighbours_change_nothing() -> None:
    texts = random_ids([5, 300, 17, 1, 128, 128, 128, 64, 3, 2, 1, 511])
    together = bare.pooled(tiny(), texts)
    alone = np.concatenate([bare.pooled(tiny(), [ids]) for ids in texts])
    np.testing.assert_allclose(together, alone, atol=bound(1e-6), rtol=0)


def test_the_last_layer_computes_what_hidden_holds() -> None:
    found, states = bare.last_states(tiny(), random_ids([9, 9, 40, 1]))
    np.testing.assert_allclose(found, states, atol=bound(2e-5))


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = random_ids([333, 333, 90])
    whole = bare.pooled(tiny(), texts)
    blocks.small(monkeypatch, 2 * 2 * 333 * 4 * 7, rows=50)
    np.testing.assert_allclose(bare.pooled(tiny(), texts), whole, atol=bound(1e-6), rtol=0)


@pytest.mark.parametrize(("count", "length"), [(1, 1), (1, 40), (40, 40), (13, 40)])
@pytest.mark.parametrize("block_bytes", [1, 2 * 4 * 40 * 4 * 7, 32 << 20])
def test_bidirectional_attention_equals_its_definition(
    monkeypatch: pytest.MonkeyPatch, count: int, length: int, block_bytes: int
) -> None:
    blocks.small(monkeypatch, block_bytes)
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, heads, n, 32)) for heads, n in ((4, count), (2, length), (2, length)))
    scores = q @ np.repeat(k, 2, axis=1).swapaxes(2, 3) / 32**0.5
    found = attention.bidirectional(*(mx.array(x.astype(np.float32)) for x in (q, k, v)))
    np.testing.assert_allclose(
        np.array(found), reference.softmax(scores) @ np.repeat(v, 2, axis=1), atol=bound(1e-6)
    )


def test_bfloat16_stays_close(folder: Path) -> None:
    half = mlx_jina.load(folder, dtype="bfloat16", task="retrieval").encode(TEXTS)
    full = mlx_jina.load(folder, task="retrieval").encode(TEXTS)
    assert (half * full).sum(axis=-1).min() >= 0.9995


def test_float16_is_refused_because_it_overflows(folder: Path) -> None:
    texts = random_ids([200])
    weights = bare.massive(WEIGHTS)
    right = expected(texts, weights)
    assert np.isnan(bare.pooled(bare.build(CONFIG, weights, mx.float16), texts)).all()
    assert (bare.pooled(bare.build(CONFIG, weights, mx.bfloat16), texts) * right).sum() > 0.999
    with pytest.raises(InputError, match=r"float16.*65504.*bfloat16"):
        mlx_jina.load(folder, dtype="float16", task="retrieval")


class TestLayouts:
    @pytest.mark.parametrize(
        "changes",
        [
            {"model_type": "eurobert", "architectures": ["EuroBertModel"]},
            {"head_dim": 32},
            {"rope_scaling": {"rope_type": "linear", "factor": 1.0}},
            {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
            {"rope_theta": None, "rope_parameters": {"rope_type": "linear", "factor": 1, "rope_theta": 1e6}},
        ],
    )
    def test_other_ways_to_say_the_same(self, changes: dict[str, Any]) -> None:
        config = {key: value for key, value in (CONFIG | changes).items() if value is not None}
        texts = random_ids([140])
        assert np.array_equal(bare.pooled(bare.build(config, WEIGHTS), texts), bare.pooled(tiny(), texts))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"rope_theta": None}, "'rope_theta' should be float, found None"),
            ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling"),
            ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1000000}}, "'rope_type' is 'yarn'"),
            ({"rope_parameters": {"rope_theta": 250000}}, "1000000 beside 250000"),
            ({"hidden_act": "gelu"}, "hidden_act"),
            ({"attention_bias": True}, "attention_bias"),
            ({"rms_norm_eps": None}, "rms_norm_eps"),
            ({"model_type": "eurobert", "is_decoder": True}, "is_decoder"),
            ({"is_decoder": None}, r"not Qwen3; v5-nano.*is_decoder"),
        ],
    )
    def test_other_configs_are_refused(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            models.build(CONFIG | changes, WEIGHTS)

    def test_a_merged_repository_is_known_by_its_name(self, folder: Path, tmp_path: Path) -> None:
        tensors = lora.fuse(checkpoints.read_tensors(folder), lora.read(folder / "adapters/retrieval"), mx.float32)
        weights = {name: np.array(x) for name, x in tensors.items()}
        config = CONFIG | {"model_type": "eurobert", "architectures": ["EuroBertModel"]}
        path = tmp_path / "jina-embeddings-v5-text-nano-retrieval"
        path.mkdir()
        checkpoints.write_folder(path, config, weights, decoder_checkpoints.llama_tokenizer())
        merged = mlx_jina.load(path)
        assert merged.tasks == ("retrieval",)
        wanted = mlx_jina.load(folder, task="retrieval").encode_query(TEXTS)
        assert np.array_equal(merged.encode(TEXTS, task="retrieval.query"), wanted)
