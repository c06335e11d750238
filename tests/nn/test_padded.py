"""On a GPU, texts of similar lengths share calls of attention, and no text feels its neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from bench.texts import mixed_lengths
from mlx_jina import device
from mlx_jina.models.rerankers import Qwen3Reranker
from mlx_jina.nn import attention, pooling, ragged, steady
from mlx_jina.nn.alibi import Alibi
from mlx_jina.nn.ragged import Batch, Bucket, Padded, Ragged
from mlx_jina.weights import checkpoint, folder, rerankers
from tests.nn.test_pieces import MODELS, SHAPE
from tests.support import bare, reranker_checkpoints
from tests.support.tolerance import bound

# Of every step of the grid, at its ends, and beyond it.
LENGTHS = (600, 257, 256, 225, 130, 100, 97, 65, 40, 33, 17, 16, 9, 9, 2, 1)


@pytest.fixture(params=["metal", "cuda"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    monkeypatch.setattr(device, "backend", lambda: request.param)
    return str(request.param)


@pytest.fixture
def metal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    monkeypatch.setattr(device, "backend", lambda: "metal")


def batch_of(lengths: Sequence[int]) -> Batch:
    return ragged.flatten(bare.random_ids(lengths, SHAPE["vocab"]), np.arange(len(lengths)))


def alone(batch: Batch) -> list[Batch]:
    """Each text of a batch as a batch of its own."""
    texts = np.split(batch.ids, batch.ragged.starts[1:])
    unseen = [bucket.unseen for bucket in batch.ragged.buckets for _ in range(bucket.texts)]
    return [
        Batch(ids, Ragged((Bucket(0, 1, len(ids), hidden),)), np.zeros(1, dtype=np.intp))
        for ids, hidden in zip(texts, unseen, strict=True)
    ]


def assert_as_alone(run: Callable[[mx.array, Ragged], mx.array], batch: Batch) -> None:
    together = np.array(run(mx.array(batch.ids), batch.ragged))
    apart = np.concatenate([np.array(run(mx.array(text.ids), text.ragged)) for text in alone(batch)])
    np.testing.assert_allclose(together, apart, rtol=0, atol=bound(2e-6) * np.abs(apart).max())


@pytest.mark.parametrize("name", MODELS)
def test_mixed_lengths_agree_with_each_text_alone(name: str, backend: str) -> None:
    model = MODELS[name]()
    assert_as_alone(model.hidden, batch_of(LENGTHS))
    assert_as_alone(model, batch_of(LENGTHS[4::2]))


@pytest.mark.parametrize("name", ["colbert-v1", "colbert-v2"])
def test_hidden_tokens_of_queries(name: str, backend: str) -> None:
    buckets = (Bucket(0, 2, 32, 20), Bucket(64, 1, 32, 3), Bucket(96, 3, 12, 0), Bucket(132, 1, 9, 8))
    ids = bare.random_ids([141], SHAPE["vocab"])[0]
    assert_as_alone(MODELS[name](), Batch(ids, Ragged(buckets), np.arange(7)))


RERANKERS: dict[str, Callable[[Path], Path]] = {
    "v1": reranker_checkpoints.v1,
    "v2": reranker_checkpoints.v2,
    "qwen": reranker_checkpoints.qwen,
}


@pytest.mark.parametrize("name", RERANKERS)
def test_rerankers(name: str, backend: str, tmp_path: Path) -> None:
    """Whose last layer has one query for each text, of texts that may continue another."""
    files = rerankers.translate(folder.read(RERANKERS[name](tmp_path), encoder=False), name)
    model = checkpoint.build(files.path, files.config, files.tensors)
    checkpoint.assign(model, files.without(model.unused).tensors, files.path)
    # Of 40 tokens there are two, which fill what they would be padded to.
    batch = batch_of([70, 69, 40, 40, 30, 29, 12, 1])
    batch = Batch(batch.ids % model.vocab_size, batch.ragged, batch.order)
    assert_as_alone(model, batch)
    if isinstance(model, Qwen3Reranker):
        assert_as_alone(partial(model.continued, model.beginning(mx.arange(7))), batch)


def attends(name: str, queries: mx.array, keys: mx.array, values: mx.array, batch: Ragged) -> mx.array:
    if name == "alibi":
        return Alibi.of(queries.shape[1], queries.dtype, batch).attend(queries, keys, values)
    attend = attention.causal if name == "causal" else attention.bidirectional
    return attention.ragged(attend, queries, keys, values, batch)


@pytest.mark.parametrize("name", ["causal", "bidirectional", "alibi"])
def test_neighbours_change_no_bit(name: str, backend: str) -> None:
    """Nor does it matter what they hold."""
    rows = mx.random.normal((300, 2, 64))
    strangers = mx.full((1000, 2, 64), float("nan"))

    def own(lengths: Sequence[int], first: int) -> mx.array:
        """Attention of texts of 120 and 90 tokens, which begin at the row `first` of a batch."""
        total = sum(lengths)
        x = mx.concatenate([strangers[:first], rows[:210], strangers[: total - first - 210]])
        batch = ragged.flatten([np.zeros(n, dtype=np.int32) for n in lengths], np.arange(len(lengths)))
        return attends(name, x, x, x, batch.ragged)[first : first + 210]

    found = [own([120, 90, 9], 0), own([128, 120, 90], 128), own([300, 127, 120, 90, 89, 89], 427)]
    assert mx.all(mx.isfinite(found[0]))
    assert mx.array_equal(found[0], found[1])
    assert mx.array_equal(found[0], found[2])


@pytest.mark.parametrize("name", ["original", "qwen3", "eurobert"])
def test_calls_of_a_mixed_batch(name: str, metal: None, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = sorted(mixed_lengths(224), reverse=True)
    calls: list[tuple[int, ...]] = []
    fused = attention.fused

    def spy(queries: mx.array, keys: mx.array, values: mx.array, *mask: mx.array) -> mx.array:
        calls.append(queries.shape)
        return fused(queries, keys, values, *mask)

    monkeypatch.setattr(attention, "fused", spy)
    batch = batch_of(lengths)
    long = {length for length in lengths if length > ragged.PADDED}
    assert len(batch.ragged.buckets) > 90
    # Built, and not computed.
    MODELS[name]().hidden(mx.array(batch.ids), batch.ragged)
    assert len(calls) <= SHAPE["layers"] * (15 + len(long))
    assert len(calls) < SHAPE["layers"] * len(batch.ragged.buckets) / 3


def test_means_of_spans(backend: str) -> None:
    """Of any lengths, also where they overlap, in their own order."""
    hidden = mx.random.normal((500, 8))
    spans = [(0, 500), (3, 4), (100, 130), (90, 290), (5, 35), (499, 500), (1, 18)]
    found = np.array(pooling.span_means(hidden, spans))
    wanted = [np.array(hidden)[start:stop].mean(axis=0) for start, stop in spans]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=bound(1e-6))


@pytest.mark.parametrize("lengths", [[12], [100, 100], [40, 40]])
def test_texts_whose_scores_are_compared_are_padded_also_alone(lengths: list[int], backend: str) -> None:
    padded = steady.independent(batch_of(lengths)).ragged.padded
    assert padded is not None
    assert [call.length for call in padded.calls] == [ragged._padded(lengths[0])]


def test_one_text_and_equal_texts_are_not_padded(backend: str) -> None:
    for lengths in ([12], [100] * 9, [3000, 2000]):
        assert batch_of(lengths).ragged.padded is None


def test_a_cpu_pads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    assert batch_of(LENGTHS).ragged.padded is None


@pytest.mark.parametrize("fewer_counts", [False, True])
def test_the_padded_row(fewer_counts: bool) -> None:
    lengths = [700, 300, 300, *[100] * 17, 99, 16, 9, 1]
    texts = [np.full(n, i, dtype=np.int32) for i, n in enumerate(lengths)]
    batch = ragged.flatten(texts, np.arange(len(texts)))
    padded = Padded(batch.ragged.buckets, 256, fewer_counts=fewer_counts)
    row = batch.ids[np.array(padded.tokens)]
    assert padded.calls[-1].stop == len(row)
    np.testing.assert_array_equal(row[np.array(padded.of_tokens)], batch.ids)
    np.testing.assert_array_equal(np.array(padded.texts)[np.array(padded.of_texts)], np.arange(len(texts)))
    assert [(call.length, call.texts) for call in padded.calls] == [
        (16, 3), (112, 20 if fewer_counts else 18), (300, 2), (700, 1)
    ]  # fmt: skip
    sums = np.zeros(len(texts))
    np.add.at(sums, row, np.array(padded.shares)[:, 0])
    repeated = 2 if fewer_counts else 0
    np.testing.assert_allclose(sums, [3 if repeated and i == 20 else 1 for i in range(len(texts))], rtol=1e-5)


@pytest.mark.parametrize("length", [1, 9, 16, 17, 64, 65, 100, 128, 129, 255, 256, 1024])
def test_padding_is_less_than_an_eighth_of_the_next_power_of_two(length: int) -> None:
    padded = ragged._padded(length)
    assert length <= padded < max(17, length + max(8, 2 ** math.ceil(math.log2(length)) / 8))
    assert padded % 8 == 0
    assert ragged._padded(padded) == padded


@pytest.mark.parametrize(("backend", "most"), [("metal", 950), ("cuda", 200)], indirect=["backend"])
def test_shapes_of_a_long_job(backend: str, most: int) -> None:
    """Of attention, over 20,000 mixed texts in windows of 4,096; one call for each length would make 1,900."""
    lengths = mixed_lengths(20_000)
    shapes, before = set(), set()
    for start in range(0, len(lengths), 4096):
        texts = [np.zeros(n, dtype=np.int32) for n in lengths[start : start + 4096]]
        for batch in ragged.batches(texts, 16_384):
            shapes |= {(call.texts, call.length) for call in batch.ragged.calls}
            before |= {(bucket.texts, bucket.length) for bucket in batch.ragged.buckets}
    assert len(before) > 1_800
    assert len(shapes) <= most
