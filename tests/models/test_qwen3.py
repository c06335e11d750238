"""v5-small's Qwen3 against float64 NumPy and transformers + peft; every plausible mistake must show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest

import mlx_jina
from mlx_jina import models
from mlx_jina.errors import CheckpointError, InputError
from mlx_jina.models.qwen3 import Qwen3
from mlx_jina.nn import attention, ragged
from tests.support import blocks, checkpoints, reference, torch_reference
from tests.support.bare import TEXTS, build, pooled
from tests.support.tolerance import bound

pytestmark = pytest.mark.filterwarnings("ignore:.*SwigPy.*:DeprecationWarning")

CONFIG = checkpoints.v5_small_config(**checkpoints.V5_TINY)
WEIGHTS = checkpoints.v5_small_weights(CONFIG)
PROMPTS = {"query": "Query: ", "document": "Document: "}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.v5_small(tmp_path_factory.mktemp("v5") / "small")


@pytest.fixture(scope="module")
def model(folder: Path) -> mlx_jina.Encoder:
    return mlx_jina.load(folder)


def tiny(weights: dict[str, Any] = WEIGHTS, dtype: mx.Dtype = mx.float32, **changes: Any) -> Qwen3:
    """The bare model, with a config that may lie."""
    built = models.build(CONFIG | changes, weights)
    assert isinstance(built, Qwen3)
    built.load_weights([(name, mx.array(value).astype(dtype)) for name, value in weights.items()])
    return built


def random_ids(lengths: Sequence[int], seed: int = 0) -> list[npt.NDArray[np.int32]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, CONFIG["vocab_size"], length).astype(np.int32) for length in lengths]


def expected(texts: Sequence[npt.NDArray[np.int32]], weights: dict[str, Any] = WEIGHTS) -> npt.NDArray[np.float64]:
    return np.stack([reference.unit(reference.qwen3(weights, CONFIG, ids)[-1]) for ids in texts])


@pytest.mark.parametrize("prompt_name", PROMPTS)
@pytest.mark.parametrize("task", checkpoints.V5_TASKS)
def test_every_task_and_prompt_equals_float64(model: mlx_jina.Encoder, task: str, prompt_name: str) -> None:
    adapter = checkpoints.v5_adapter_weights(CONFIG, 4, 1 + checkpoints.V5_TASKS.index(task))
    ids = [np.array(x) for x in model.tokenize([PROMPTS[prompt_name] + text for text in TEXTS])]
    fused = reference.with_adapter(WEIGHTS, adapter, 1.0)
    found = model.encode(TEXTS, task=task, prompt_name=prompt_name)
    np.testing.assert_allclose(found, expected(ids, fused), atol=bound(2e-6), rtol=0)


@pytest.mark.parametrize("task", checkpoints.V5_TASKS)
def test_every_task_equals_transformers_and_peft(folder: Path, model: mlx_jina.Encoder, task: str) -> None:
    theirs = torch_reference.qwen3(folder, task)
    fused = mlx_jina.load(folder, task=task)
    texts = [*TEXTS, "how do i bake bread " * 180] if task == "retrieval" else TEXTS
    for prompt_name, prompt in list(PROMPTS.items())[: 2 if task == "retrieval" else 1]:
        ids = [np.array(x) for x in model.tokenize([prompt + text for text in texts])]
        wanted = torch_reference.last_token(theirs, ids)
        np.testing.assert_allclose(
            model.encode(texts, task=task, prompt_name=prompt_name), wanted, atol=bound(5e-6)
        )
        np.testing.assert_allclose(fused.encode(texts, prompt_name=prompt_name), wanted, atol=bound(5e-6))


@pytest.mark.slow
def test_the_real_size_equals_transformers_and_peft(tmp_path: Path) -> None:
    """28 layers of 1024, bfloat16 files of 1.4 GB; takes 8 GB of memory."""
    folder = checkpoints.v5_small(
        tmp_path, checkpoints.V5_SMALL, rank=32, tasks=checkpoints.V5_TASKS[:2], dtype=mx.bfloat16
    )
    checkpoints.write_json(
        folder / "config.json",
        checkpoints.read_json(folder / "config.json") | {"task_names": list(checkpoints.V5_TASKS[:2])},
    )
    kept = mlx_jina.load(folder)
    for task in checkpoints.V5_TASKS[:2]:
        ids = [np.array(x) for x in kept.tokenize(["Document: " + text for text in TEXTS])]
        wanted = torch_reference.last_token(torch_reference.qwen3(folder, task), ids)
        np.testing.assert_allclose(kept.encode(TEXTS, task=task), wanted, atol=bound(5e-6))
    del kept
    # MLX's half-precision products on a CPU are slow: a few short texts.
    short = ["how fast is light?", "Licht", "光の速さ"]
    for fused in (None, checkpoints.V5_TASKS[0]):
        exact, half = (
            mlx_jina.load(folder, task=fused, dtype=dtype).encode(short, task=checkpoints.V5_TASKS[0])
            for dtype in ("float32", "bfloat16")
        )
        cosines = (exact * half).sum(axis=1)
        print(f"bfloat16, {'fused' if fused else 'kept'}: cosine {cosines.min():.6f}")
        assert cosines.min() >= 0.9995


@pytest.mark.slow
def test_up_to_4096_tokens_equals_transformers(folder: Path) -> None:
    theirs = torch_reference.qwen3(folder)
    texts = random_ids([1, 2, 3, 127, 128, 129, 700, 700, 2048, 4095, 4096])
    np.testing.assert_allclose(pooled(tiny(), texts), torch_reference.last_token(theirs, texts), atol=bound(5e-6))


@dataclass(frozen=True)
class Mutation:
    """A plausible mistake: a wrong config, or wrong ids."""

    name: str
    config: dict[str, Any]
    change: Callable[[npt.NDArray[np.int32]], npt.NDArray[np.int32]]


MUTATIONS = (
    Mutation("theta of Qwen3-0.6B", {"rope_theta": 1000000}, lambda ids: ids),
    Mutation("an EOS appended", {}, lambda ids: np.append(ids, np.int32(2))),
    Mutation("last token off by one", {}, lambda ids: ids[:-1]),
    Mutation("eps of another family", {"rms_norm_eps": 1e-2}, lambda ids: ids),
)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_mistakes_show(mutation: Mutation) -> None:
    texts = random_ids([140])
    right = expected(texts)
    assert abs(pooled(tiny(), texts) - right).max() < bound(2e-6)
    wrong = pooled(tiny(**mutation.config), [mutation.change(ids) for ids in texts])
    assert abs(wrong - right).max() > 1e-4


def test_nothing_is_appended(model: mlx_jina.Encoder) -> None:
    assert model.tokenize("Query: a") == [model._tokenizer.fast.encode("Query: a", add_special_tokens=False).ids]
    specials = {model._tokenizer.fast.token_to_id(token) for token in checkpoints.QWEN_SPECIALS}
    assert not specials & set(model.tokenize("bread " * 50)[0])


def test_neighbours_change_nothing() -> None:
    texts = random_ids([5, 300, 17, 1, 128, 128, 128, 64, 3, 2, 1, 511])
    together = pooled(tiny(), texts)
    alone = np.concatenate([pooled(tiny(), [ids]) for ids in texts])
    np.testing.assert_allclose(together, alone, atol=bound(1e-6), rtol=0)


def test_the_last_layer_computes_what_hidden_holds() -> None:
    built = tiny()
    (batch,) = ragged.batches(random_ids([9, 9, 40, 1]), 1 << 30)
    states = np.array(built.hidden(mx.array(batch.ids), batch.ragged))
    np.testing.assert_allclose(
        np.array(built(mx.array(batch.ids), batch.ragged)), states[np.array(batch.ragged.last_rows)], atol=2e-5
    )


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = random_ids([333, 333, 90])
    whole = pooled(tiny(), texts)
    blocks.small(monkeypatch, 2 * 4 * 333 * 4 * 7, rows=50)
    np.testing.assert_allclose(pooled(tiny(), texts), whole, atol=bound(1e-6), rtol=0)


@pytest.mark.parametrize(("count", "length"), [(1, 1), (1, 40), (40, 40), (13, 40)])
@pytest.mark.parametrize("block_bytes", [1, 4 * 4 * 2 * 41, 32 << 20])
def test_causal_attention_equals_its_definition(
    monkeypatch: pytest.MonkeyPatch, count: int, length: int, block_bytes: int
) -> None:
    blocks.small(monkeypatch, block_bytes)
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, heads, n, 32)) for heads, n in ((4, count), (2, length), (2, length)))
    scores = q @ np.repeat(k, 2, axis=1).swapaxes(2, 3) / 32**0.5
    later = np.arange(length)[None, :] > np.arange(length - count, length)[:, None]
    wanted = reference.softmax(np.where(later, -np.inf, scores)) @ np.repeat(v, 2, axis=1)
    found = attention.causal(*(mx.array(x.astype(np.float32)) for x in (q, k, v)))
    np.testing.assert_allclose(np.array(found), wanted, atol=bound(1e-6))


def test_bfloat16_stays_close(folder: Path) -> None:
    texts = TEXTS[:4]
    half = mlx_jina.load(folder, dtype="bfloat16", task="retrieval").encode(texts)
    full = mlx_jina.load(folder, task="retrieval").encode(texts)
    assert (half * full).sum(axis=-1).min() >= 0.9995


def massive(gain: float = 400.0) -> dict[str, Any]:
    """Weights with one feed-forward neuron that fires strongly, as Qwen3's do on some tokens."""
    weights = {name: value.copy() for name, value in WEIGHTS.items()}
    for part in ("gate", "up"):
        weights[f"layers.0.mlp.{part}_proj.weight"][7] *= gain
    weights["layers.0.mlp.down_proj.weight"][:, 7] /= gain
    return weights


def test_float16_is_refused_because_it_overflows(folder: Path) -> None:
    texts = random_ids([200])
    weights = massive()
    right = expected(texts, weights)
    assert np.isnan(pooled(tiny(weights, mx.float16), texts)).all()
    assert (pooled(tiny(weights, mx.bfloat16), texts) * right).sum() > 0.999
    with pytest.raises(InputError, match=r"float16.*65504.*bfloat16"):
        mlx_jina.load(folder, dtype="float16", task="retrieval")


def test_config_of_transformers_5() -> None:
    changes = {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 3500000}}
    texts = random_ids([140])
    nested = {key: value for key, value in (CONFIG | changes).items() if value is not None}
    np.testing.assert_allclose(pooled(build(nested, WEIGHTS), texts), expected(texts), atol=bound(2e-6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_theta": None}, "'rope_theta' should be float, found None"),
        ({"rope_parameters": {"rope_theta": 1e6}}, "3500000 beside 1000000.0"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 3500000}}, "'rope_type' is 'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"layer_types": ["sliding_attention"]}, "sliding_attention"),
        ({"head_dim": None}, "'head_dim' should be int"),
        ({"is_decoder": False}, "is not EuroBERT"),
        ({"model_type": "llama"}, "not one that mlx-jina runs"),
    ],
)
def test_other_configs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        models.build(CONFIG | changes, WEIGHTS)


def test_a_causal_checkpoint_without_query_norms_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"without layers\.0\.self_attn\.q_norm"):
        models.build(CONFIG, [name for name in WEIGHTS if "q_norm" not in name])
