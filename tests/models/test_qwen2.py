"""The code models' Qwen2 against float64 NumPy and transformers; every plausible mistake must show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest

import mlx_jina
from mlx_jina import catalog, models
from mlx_jina.cli import info
from mlx_jina.errors import CheckpointError, InputError
from mlx_jina.models.base import EncoderModel
from mlx_jina.weights import convert
from tests.support import bare, checkpoints, decoder_checkpoints, reference, torch_reference
from tests.support.bare import TEXTS
from tests.support.tolerance import bound

pytestmark = pytest.mark.filterwarnings("ignore:.*SwigPy.*:DeprecationWarning")

CONFIG = decoder_checkpoints.code_config(**decoder_checkpoints.CODE_TINY)
WEIGHTS = decoder_checkpoints.code_weights(CONFIG)
TASKS = ("nl2code", "qa", "code2code", "code2nl", "code2completion")
PREFIXES = {
    "nl2code.query": "Find the most relevant code snippet given the following query:\n",
    "nl2code.passage": "Candidate code snippet:\n",
    "qa.query": "Find the most relevant answer given the following question:\n",
    "qa.passage": "Candidate answer:\n",
    "code2code.query": "Find an equivalent code snippet given the following code snippet:\n",
    "code2code.passage": "Candidate code snippet:\n",
    "code2nl.query": "Find the most relevant comment given the following code snippet:\n",
    "code2nl.passage": "Candidate comment:\n",
    "code2completion.query": "Find the most relevant completion given the following start of code snippet:\n",
    "code2completion.passage": "Candidate completion:\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decoder_checkpoints.code(tmp_path_factory.mktemp("code") / "jina-code-embeddings-0.5b")


@pytest.fixture(scope="module")
def model(folder: Path) -> mlx_jina.Encoder:
    return mlx_jina.load(folder)


def tiny(dtype: mx.Dtype = mx.float32, **changes: Any) -> EncoderModel:
    return bare.build(CONFIG | changes, WEIGHTS, dtype)


def random_ids(lengths: list[int]) -> list[bare.Ids]:
    return bare.random_ids(lengths, CONFIG["vocab_size"])


def expected(texts: list[bare.Ids], weights: dict[str, Any] = WEIGHTS) -> npt.NDArray[np.float64]:
    return np.stack([reference.unit(reference.qwen3(weights, CONFIG, ids)[-1]) for ids in texts])


@pytest.mark.parametrize("task", PREFIXES)
def test_every_task_and_side_equals_float64(model: mlx_jina.Encoder, task: str) -> None:
    texts = TEXTS[list(PREFIXES).index(task) % 3 :: 3]
    ids = [np.array(x) for x in model.tokenize([PREFIXES[task] + text for text in texts])]
    np.testing.assert_allclose(model.encode(texts, task=task), expected(ids), atol=bound(2e-6), rtol=0)


def test_every_task_and_side_equals_transformers(folder: Path, model: mlx_jina.Encoder) -> None:
    theirs = torch_reference.qwen2(folder)
    for index, (task, prompt) in enumerate(PREFIXES.items()):
        texts = TEXTS[index % 3 :: 3]
        ids = [np.array(x) for x in model.tokenize([prompt + text for text in texts])]
        wanted = torch_reference.last_token(theirs, ids)
        np.testing.assert_allclose(model.encode(texts, task=task), wanted, atol=bound(5e-6))


def test_mixed_lengths_equal_transformers(folder: Path) -> None:
    texts = random_ids([1, 2, 3, 17, 127, 128, 129, 129, 333, 600])
    wanted = torch_reference.last_token(torch_reference.qwen2(folder), texts)
    np.testing.assert_allclose(bare.pooled(tiny(), texts), wanted, atol=bound(5e-6))


@pytest.mark.slow
def test_the_real_size_equals_transformers(tmp_path: Path) -> None:
    """24 layers of 896, bfloat16 files of 1 GB; takes 5 GB of memory."""
    folder = decoder_checkpoints.code(tmp_path, decoder_checkpoints.CODE_05B, dtype=mx.bfloat16)
    kept = mlx_jina.load(folder)
    ids = [np.array(x) for x in kept.tokenize([PREFIXES["nl2code.query"] + text for text in TEXTS])]
    wanted = torch_reference.last_token(torch_reference.qwen2(folder), ids)
    np.testing.assert_allclose(kept.encode(TEXTS), wanted, atol=bound(5e-6))


def test_mistakes_show() -> None:
    texts = random_ids([140])
    right = expected(texts)
    assert abs(bare.pooled(tiny(), texts) - right).max() < bound(2e-6)
    unbiased = {name: value * 0 if name.endswith(".bias") else value for name, value in WEIGHTS.items()}
    for wrong in (
        bare.pooled(bare.build(CONFIG, unbiased), texts),
        bare.pooled(tiny(rope_theta=10000.0), texts),
        bare.pooled(tiny(rms_norm_eps=1e-2), texts),
        bare.pooled(tiny(), [np.append(texts[0], np.int32(2))]),
        bare.pooled(tiny(), [texts[0][:-1]]),
    ):
        assert abs(wrong - right).max() > 1e-4


class TestPrompts:
    def test_the_model_knows_its_tasks_and_dimensions(self, model: mlx_jina.Encoder) -> None:
        assert (model.tasks, model.max_length) == (TASKS, 32768)
        assert model.truncate_dims == (64, 128, 256, 512, 896)
        assert len(model.prompts) == 10

    @pytest.mark.parametrize(
        ("options", "task"),
        [
            ({}, "nl2code.query"),
            ({"prompt_name": "query"}, "nl2code.query"),
            ({"prompt_name": "passage"}, "nl2code.passage"),
            ({"prompt_name": "qa_document"}, "qa.passage"),
            ({"task": "qa"}, "qa.query"),
            ({"task": "qa", "prompt_name": "document"}, "qa.passage"),
            ({"task": "qa", "prompt_name": "passage"}, "qa.passage"),
            ({"task": "qa", "prompt_name": "qa_query"}, "qa.query"),
            ({"task": "code2nl.document"}, "code2nl.passage"),
        ],
    )
    def test_each_name_means_one_prompt(self, model: mlx_jina.Encoder, options: dict[str, Any], task: str) -> None:
        wanted = model.encode([PREFIXES[task] + text for text in TEXTS], prompt="")
        assert np.array_equal(model.encode(TEXTS, **options), wanted)

    @pytest.mark.parametrize("task", TASKS)
    def test_queries_and_documents(self, model: mlx_jina.Encoder, task: str) -> None:
        query, passage = (model.encode(TEXTS, task=f"{task}.{side}") for side in ("query", "passage"))
        assert np.array_equal(model.encode_query(TEXTS, task=task), query)
        assert np.array_equal(model.encode_document(TEXTS, task=task), passage)
        assert abs(query - passage).max() > 1e-3

    def test_without_a_task_it_is_the_first(self, model: mlx_jina.Encoder) -> None:
        assert np.array_equal(model.encode_query(TEXTS), model.encode(TEXTS, task="nl2code.query"))
        assert np.array_equal(model.encode_document(TEXTS), model.encode(TEXTS, task="nl2code.passage"))

    def test_a_load_for_one_task_means_that_task(self, folder: Path, model: mlx_jina.Encoder) -> None:
        one = mlx_jina.load(folder, task="code2nl.passage")
        assert one.tasks == ("code2nl",)
        assert np.array_equal(one.encode(TEXTS), model.encode(TEXTS, task="code2nl.passage"))
        assert np.array_equal(one.encode_query(TEXTS), model.encode(TEXTS, task="code2nl.query"))
        assert one.fingerprint() == model.fingerprint() == model.fingerprint("qa")
        with pytest.raises(InputError, match=r"'qa' is unknown to this model \(known: code2nl\)"):
            one.encode("x", task="qa")

    def test_contradictions_are_errors(self, model: mlx_jina.Encoder) -> None:
        for task, name in (("qa", "nl2code_query"), ("qa.query", "passage")):
            with pytest.raises(InputError, match="contradict"):
                model.encode("x", task=task, prompt_name=name)
        with pytest.raises(InputError, match="contradict"):
            model.encode_query("x", task="qa.passage")
        with pytest.raises(InputError, match=r"'retrieval' is unknown to this model \(known: nl2code, qa"):
            model.encode("x", task="retrieval")
        with pytest.raises(InputError, match=r"prompt_name='instruct' is unknown"):
            model.encode("x", prompt_name="instruct")

    @pytest.mark.parametrize("bring", [True, False])
    def test_a_folder_of_any_name(self, tmp_path: Path, model: mlx_jina.Encoder, bring: bool) -> None:
        """Its own prompts say which tasks there are; without them there are none."""
        other = decoder_checkpoints.code(tmp_path / "mine")
        if not bring:
            (other / "config_sentence_transformers.json").unlink()
        mine = mlx_jina.load(other)
        assert mine.tasks == (TASKS if bring else ())
        wanted = model.encode(TEXTS[:2], task="nl2code.query") if bring else model.encode(TEXTS[:2], prompt="")
        assert np.array_equal(mine.encode(TEXTS[:2]), wanted)

    def test_the_catalog_stands_in_for_a_missing_file(self, tmp_path: Path, model: mlx_jina.Encoder) -> None:
        known = decoder_checkpoints.code(tmp_path / "jina-code-embeddings-0.5b-mlx")
        (known / "config_sentence_transformers.json").unlink()
        found = mlx_jina.load(known).encode(TEXTS, task="qa.passage")
        assert np.array_equal(found, model.encode(TEXTS, task="qa.passage"))


def test_the_catalog_has_both_sizes() -> None:
    for size, dimension, dims in (
        ("0.5b", 896, (64, 128, 256, 512, 896)),
        ("1.5b", 1536, (128, 256, 512, 1024, 1536)),
    ):
        for name in (
            f"code-{size}",
            f"jinaai/jina-code-embeddings-{size}",
            f"jinaai/jina-code-embeddings-{size}-mlx",
        ):
            entry = catalog.find(name)
            assert entry is not None
            assert (entry.dimension, entry.truncate_dims, entry.license) == (dimension, dims, "cc-by-nc-4.0")
            assert entry.tasks == TASKS
            sides = ("_query", "_document")
            assert [entry.prompts[f"{task}{side}"] for task in TASKS for side in sides] == list(PREFIXES.values())
    assert {"code-0.5b", "code-1.5b"} <= set(catalog.short_names())


def test_nothing_is_appended(model: mlx_jina.Encoder) -> None:
    assert model.tokenize("a b") == [model._tokenizer.fast.encode("a b", add_special_tokens=False).ids]


def test_an_empty_text_without_prompt_is_refused(model: mlx_jina.Encoder) -> None:
    assert np.array_equal(model.encode(""), model.encode(PREFIXES["nl2code.query"], prompt=""))
    with pytest.raises(InputError, match="text 1 is empty"):
        model.encode(["x", ""], prompt="")


def test_neighbours_change_nothing() -> None:
    texts = random_ids([5, 300, 17, 1, 128, 128, 128, 64, 3, 2, 1, 511])
    together = bare.pooled(tiny(), texts)
    alone = np.concatenate([bare.pooled(tiny(), [ids]) for ids in texts])
    np.testing.assert_allclose(together, alone, atol=bound(1e-6), rtol=0)


def test_the_last_layer_computes_what_hidden_holds() -> None:
    found, states = bare.last_states(tiny(), random_ids([9, 9, 40, 1]))
    np.testing.assert_allclose(found, states, atol=bound(2e-5))


def test_bfloat16_stays_close(folder: Path) -> None:
    half = mlx_jina.load(folder, dtype="bfloat16").encode(TEXTS)
    full = mlx_jina.load(folder).encode(TEXTS)
    assert (half * full).sum(axis=-1).min() >= 0.9995


def test_float16_is_refused_because_it_overflows(folder: Path) -> None:
    texts = random_ids([200])
    weights = bare.massive(WEIGHTS)
    assert np.isnan(bare.pooled(bare.build(CONFIG, weights, mx.float16), texts)).all()
    found = bare.pooled(bare.build(CONFIG, weights, mx.bfloat16), texts)
    assert (found * expected(texts, weights)).sum() > 0.999
    with pytest.raises(InputError, match=r"float16.*65504.*bfloat16"):
        mlx_jina.load(folder, dtype="float16")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_theta": None}, "'rope_theta' should be float, found None"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"attention_bias": False}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"num_key_value_heads": None}, "num_key_value_heads"),
    ],
)
def test_other_configs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        models.build(CONFIG | changes, WEIGHTS)


def test_a_checkpoint_without_biases_is_refused(tmp_path: Path) -> None:
    weights = {name: value for name, value in WEIGHTS.items() if not name.endswith(".bias")}
    checkpoints.write_folder(tmp_path, CONFIG, weights, checkpoints.qwen_tokenizer())
    with pytest.raises(CheckpointError, match=r"lacks layers\.0\.self_attn\.k_proj\.bias"):
        mlx_jina.load(tmp_path)


def test_info_has_one_fingerprint_for_tasks_of_one_space(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info.run(str(folder), {})
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fingerprint")]
    assert line.split() == ["fingerprint", mlx_jina.load(folder).fingerprint()]


def test_a_language_head_is_not_converted(tmp_path: Path) -> None:
    source = decoder_checkpoints.code(tmp_path / "code")
    tensors = checkpoints.read_tensors(source)
    mx.eval(tensors)
    head = {"lm_head.weight": mx.zeros((CONFIG["vocab_size"], CONFIG["hidden_size"]))}
    mx.save_safetensors(str(source / "model.safetensors"), {**tensors, **head})
    convert.to_mlx(source, tmp_path / "mlx")
    assert not any("lm_head" in name for name in checkpoints.read_tensors(tmp_path / "mlx"))
    assert np.array_equal(mlx_jina.load(tmp_path / "mlx").encode(TEXTS), mlx_jina.load(source).encode(TEXTS))
