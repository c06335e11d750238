"""On a GPU nothing waits inside a batch, and only a text longer than a batch is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
import pytest

import mlx_jina
from mlx_jina import device
from mlx_jina.engine import multi_vectors, pipeline, token_vectors
from mlx_jina.models.base import EncoderModel
from mlx_jina.nn import pieces, ragged
from mlx_jina.nn.ragged import Batch
from mlx_jina.text.late_interaction import ColBERT
from mlx_jina.text.tokenizer import Tokenizer
from tests.support import bare, blocks, checkpoints, colbert_checkpoints, decoder_checkpoints, v3_checkpoints
from tests.support.tolerance import bound, no_cuda

T = TypeVar("T")

# One head is 64 wide, as in the published models, so that attention is fused.
SHAPE = {"hidden": 128, "layers": 3, "heads": 2, "intermediate": 96, "vocab": 320}


def jina_bert(layout: str) -> EncoderModel:
    config = checkpoints.jina_bert_config(layout, **SHAPE)
    weights = checkpoints.jina_bert_weights(layout, config)
    return bare.build(config, {name: x for name, x in weights.items() if not name.startswith("pooler.")})


def qwen3() -> EncoderModel:
    config = checkpoints.v5_small_config(**SHAPE, kv_heads=1, head_dim=64)
    return bare.build(config, checkpoints.v5_small_weights(config))


def qwen2() -> EncoderModel:
    config = decoder_checkpoints.code_config(**SHAPE, kv_heads=1)
    return bare.build(config, decoder_checkpoints.code_weights(config))


def eurobert() -> EncoderModel:
    config = decoder_checkpoints.nano_config(**SHAPE)
    return bare.build(config, decoder_checkpoints.nano_weights(config))


def xlm_roberta() -> EncoderModel:
    config = v3_checkpoints.native_config(**SHAPE)
    weights = v3_checkpoints.native_weights(config)
    return bare.build(config, {name: x for name, x in weights.items() if not name.startswith("pooler.")})


MODELS: dict[str, Callable[[], EncoderModel]] = {
    **{layout: partial(jina_bert, layout) for layout in checkpoints.LAYOUTS},
    **{make.__name__: make for make in (qwen3, qwen2, eurobert, xlm_roberta)},
    "colbert-v1": partial(colbert_checkpoints.built, "v1", SHAPE),
    "colbert-v2": partial(colbert_checkpoints.built, "v2", SHAPE),
}


def recorded(calls: list[str], name: str, function: Callable[..., T]) -> Callable[..., T]:
    def call(*arguments: Any) -> T:
        calls.append(name)
        return function(*arguments)

    return call


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of MLX's functions that evaluate, in the order of their calls, as on a GPU."""
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    calls: list[str] = []
    for name in ("eval", "async_eval", "synchronize"):
        monkeypatch.setattr(mx, name, recorded(calls, name, getattr(mx, name)))
    mx.disable_compile()
    yield calls
    mx.enable_compile()


def batch_of(lengths: list[int]) -> Batch:
    return ragged.flatten(bare.random_ids(lengths, SHAPE["vocab"]), np.arange(len(lengths)))


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_evaluated_inside_a_batch(name: str, evaluations: list[str]) -> None:
    batch = batch_of([512] * 4 + [129] * 36 + [128] * 72 + [7] * 36 + [1])
    assert 16_000 < len(batch.ids) <= device.default_batch_tokens()
    model = MODELS[name]()
    evaluations.clear()
    model(mx.array(batch.ids), batch.ragged)
    # The table of rotations, which all batches share, and nothing else.
    assert evaluations in ([], ["eval"])
    pools = [pipeline.whole, token_vectors._every_token] if model.pooling == "mean" else [pipeline.whole]
    evaluations.clear()
    for pool in pools:
        pool(model, batch)
    assert evaluations == []


def test_nothing_is_evaluated_inside_a_batch_of_queries(evaluations: list[str]) -> None:
    """Whose last tokens no token attends to."""
    fast, settings = colbert_checkpoints.tokenizer("v1"), colbert_checkpoints.metadata("v1")
    texts = ColBERT(Tokenizer(fast), settings)
    uncut = texts.uncut("query", ["bread", "what is it", "fox"] * 99)
    queries = texts.cut("query", uncut, range(297), 32, True)
    batch = multi_vectors.hide(ragged.flatten(queries, np.arange(297)), texts)
    assert {bucket.unseen for bucket in batch.ragged.buckets} == {25, 28}
    model = MODELS["colbert-v1"]()
    evaluations.clear()
    pipeline.whole(model, batch)
    assert evaluations == []


@pytest.mark.parametrize("name", MODELS)
def test_a_text_longer_than_a_batch_is_cut_and_computed_one_piece_ahead(name: str, evaluations: list[str]) -> None:
    batch, model = batch_of([1000]), MODELS[name]()
    whole = np.array(model(mx.array(batch.ids), batch.ragged))
    evaluations.clear()
    with pieces.at_most(300):
        cut = model(mx.array(batch.ids), batch.ragged)
    assert evaluations.count("eval") >= 3 * (SHAPE["layers"] - 1)
    # Each piece is started before anyone waits for the one before.
    assert evaluations.count("async_eval") > evaluations.count("eval")
    assert "async_eval eval eval" not in " ".join(evaluations)
    np.testing.assert_allclose(np.array(cut), whole, atol=bound(1e-5))


def test_kept_adapters_change_nothing_of_that(tmp_path: Path, evaluations: list[str]) -> None:
    shape = {**SHAPE, "kv_heads": 1, "head_dim": 64}
    encoder = mlx_jina.load(checkpoints.v5_small(tmp_path, shape))
    model, batch = encoder.loaded.model_for("retrieval"), batch_of([100] * 3 + [9])
    model(mx.array(batch.ids), batch.ragged)
    evaluations.clear()
    model(mx.array(batch.ids), batch.ragged)
    assert evaluations == []


def test_a_batch_is_queued_before_the_one_before_is_read(
    tmp_path: Path, evaluations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = mlx_jina.load(checkpoints.v5_small(tmp_path), task="retrieval")
    monkeypatch.setattr(pipeline, "evaluated", recorded(evaluations, "read", pipeline.evaluated))
    encoder.encode(["light travels fast in vacuum"] * 8, batch_tokens=16)
    evaluations.clear()
    encoder.encode(["light travels fast in vacuum"] * 8, batch_tokens=16)
    events = [event for event in evaluations if event != "eval"]
    batches = events.count("read")
    assert batches == 8
    assert events == ["async_eval", *["async_eval", "read"] * (batches - 1), "read"]


@no_cuda
def test_unfused_attention_of_a_batch_runs_block_after_block(
    evaluations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scores would otherwise exist side by side; heads of 16 are nowhere fused."""
    config = checkpoints.jina_bert_config("original", hidden=64, layers=1, heads=4, intermediate=96, vocab=320)
    weights = checkpoints.jina_bert_weights("original", config)
    model = bare.build(config, {name: x for name, x in weights.items() if not name.startswith("pooler.")})
    batch = batch_of([900] * 8)
    blocks.small(monkeypatch, 1 << 20)
    evaluations.clear()
    out = model(mx.array(batch.ids), batch.ragged)
    assert evaluations == []
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(out)
    # Scores of 8 texts and 4 heads at once would take 104 MB, more than once.
    assert mx.get_peak_memory() - before < 8 * 4 * 900 * 900 * 4 / 2
