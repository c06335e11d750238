"""Memory follows the length, not its square, and stays flat over a long job."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlx_jina
from mlx_jina import device
from mlx_jina.cpu import attention as cpu_attention
from mlx_jina.cpu import cores, steady
from mlx_jina.cpu.layers import adapt
from mlx_jina.engine import pipeline
from mlx_jina.models.jina_bert import Config, JinaBert
from mlx_jina.nn import alibi, attention, pieces, ragged
from mlx_jina.nn.alibi import Alibi
from mlx_jina.nn.ragged import Bucket, Ragged
from mlx_jina.weights import budget
from tests.support import blocks, checkpoints
from tests.support.tolerance import bound

MB = 1e6


def v2_small(layers: int) -> JinaBert:
    """jina-embeddings-v2-small-en's shape with random weights."""
    raw = checkpoints.jina_bert_config(
        "original", hidden=512, layers=layers, heads=8, intermediate=2048, vocab=1000
    )
    model = JinaBert(Config.read(raw, "original"))
    if not device.on_gpu():
        adapt(model)
    mx.eval(model.parameters())
    return model


def peak_above_weights(model: JinaBert, length: int) -> tuple[float, np.ndarray]:
    """MB that one text of `length` tokens needs, and its vector."""
    ids = np.random.default_rng(0).integers(0, 1000, length).astype(np.int32)
    batch = ragged.flatten([ids], np.zeros(1, dtype=np.intp))
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    vector = np.array(model(mx.array(batch.ids), batch.ragged))
    return (mx.get_peak_memory() - before) / MB, vector


# One layer frees what it used before the next begins: the peak does not depend on how many there are.
@pytest.mark.parametrize(
    ("layers", "length", "limit"),
    [
        (1, 8192, 400),
        pytest.param(4, 8192, 400, marks=pytest.mark.slow),
        pytest.param(4, 32768, 1200, marks=pytest.mark.slow),
    ],
)
def test_one_long_text(layers: int, length: int, limit: float) -> None:
    model = v2_small(layers)
    peak, vector = peak_above_weights(model, length)
    assert np.isfinite(vector).all()
    assert peak <= (budget.token_bytes(model, mx.float32) * length / MB if device.on_gpu() else limit)


def dense_alibi(q: mx.array, k: mx.array, v: mx.array, slopes: mx.array) -> mx.array:
    """Attention with the bias written out."""
    length = q.shape[2]
    positions = mx.arange(length)
    bias = -slopes[:, None, None] * mx.abs(positions[:, None] - positions[None, :])
    scores = (q * q.shape[-1] ** -0.5) @ k.swapaxes(-1, -2) + bias
    return mx.softmax(scores, axis=-1) @ v


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("block_bytes", [1, 5000, 1 << 18, 1 << 30])
@pytest.mark.parametrize(("texts", "heads", "length"), [(1, 8, 301), (3, 12, 33), (2, 4, 1)])
def test_the_hankel_view_equals_the_dense_bias(
    texts: int, heads: int, length: int, block_bytes: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks.small(monkeypatch, block_bytes)
    monkeypatch.setattr(cores, "MIN_ROWS", 8)
    q, k, v = (mx.random.normal((texts, heads, length, 16)) for _ in range(3))
    slopes = mx.array(alibi.slopes(heads))
    (bias,) = Alibi.of(heads, mx.float32, Ragged((Bucket(0, texts, length),))).biases
    with cores.using(count):
        got = alibi.attend(q, k, v, bias)
    np.testing.assert_allclose(np.array(got), np.array(dense_alibi(q, k, v, slopes)), rtol=0, atol=bound(5e-6))


@pytest.mark.parametrize("count", [1, 3])
def test_heads_skip_what_is_out_of_sight_and_nothing_else(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last text's first token looks for its last one: some heads see so far, or all of them."""
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    monkeypatch.setattr(cpu_attention, "LONG", 300)
    monkeypatch.setattr(cpu_attention, "LONG_QUERIES", 50)
    monkeypatch.setattr(cores, "MIN_ROWS", 8)
    heads, length, width = 8, 601, 64
    widest: list[int] = []
    attend = cpu_attention._attend

    def spy(q: mx.array, k: mx.array, v: mx.array, mask: mx.array) -> mx.array:
        widest.append(k.shape[2])
        return attend(q, k, v, mask)

    monkeypatch.setattr(cpu_attention, "_attend", spy)
    slopes = mx.array(alibi.slopes(heads))
    for texts, extra in ((1, 0.0), (2, 15.0), (2, 60.0)):
        q, k, v = (np.random.default_rng(i).normal(0, 0.5, (texts, heads, length, width)) for i in range(3))
        q[-1, :, 0, 0] = k[-1, :, -1, 0] = extra
        q[-1, :, 1, 0] = -extra
        queries, keys, values = (mx.array(x.astype(np.float32)) for x in (q, k, v))
        (bias,) = Alibi.of(heads, mx.float32, Ragged((Bucket(0, texts, length),))).biases
        widest.clear()
        with cores.using(count):
            got = alibi.attend(queries, keys, values, bias)
        assert min(widest) < length if extra < 60 else min(widest) == length
        expected = dense_alibi(queries, keys, values, slopes)
        np.testing.assert_allclose(np.array(got), np.array(expected), rtol=0, atol=bound(5e-6))


@pytest.mark.parametrize("score_bytes", [1, 5000, 1 << 21])
@pytest.mark.parametrize("sight", [1, 100, 2000, 5000])
def test_scores_of_what_is_in_sight_fit(score_bytes: int, sight: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    monkeypatch.setattr(cpu_attention, "SCORE_BYTES", score_bytes)
    for length in (2048, 5001):
        block = cpu_attention._visible_block(2, length, sight)
        assert 1 <= block <= length
        assert block == 1 or block * min(block + 2 * sight, length) * 2 * 4 <= score_bytes


def test_a_head_without_numbers_sees_everything() -> None:
    q, k = mx.zeros((1, 2, 5, 4)), mx.full((1, 2, 5, 4), float("nan"))
    assert cpu_attention.visible_ranges(q, k, alibi.slopes(2)) == [5, 5]
    assert cpu_attention.visible_ranges(q, mx.full((1, 2, 5, 4), float("inf")), alibi.slopes(2)) == [5, 5]


@pytest.mark.parametrize(
    ("texts", "groups"),
    [
        ([(1, 9), (2, 7), (3, 1)], [26]),
        ([(1, 96), (1, 2), (2, 1)], [96, 4]),
        ([(4, 30), (1, 29), (2, 28), (1, 12)], [120, 85, 12]),
    ],
)
def test_short_neighbours_are_run_together_and_stay_apart(
    texts: list[tuple[int, int]], groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lengths of texts and how many there are of each; tokens that a CPU runs at a time."""
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    heads = 4
    starts = np.cumsum([0, *(count * length for count, length in texts)]).tolist()
    buckets = tuple(Bucket(start, *own) for start, own in zip(starts, texts, strict=False))
    q, k, v = (mx.random.normal((starts[-1], heads, 16)) for _ in range(3))
    slopes = mx.array(alibi.slopes(heads))
    together = Alibi.of(heads, mx.float32, Ragged(buckets))
    assert [bucket.stop - bucket.start for bucket in together.batch.buckets] == groups
    expected = attention.ragged(dense_alibi, q, k, v, Ragged(buckets), [slopes] * len(buckets))
    np.testing.assert_allclose(np.array(together.attend(q, k, v)), np.array(expected), rtol=0, atol=bound(5e-6))


@pytest.mark.parametrize("length", [1, 31, 32, 33, 44, 45])
def test_a_text_alone_is_as_beside_others_where_scores_are_compared(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With heads so few that other rows of its length would have another bias (`few`)."""
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    buckets = (Bucket(0, 1, length), Bucket(length, 2, 40))
    q, k, v = (mx.random.normal((length + 80, 2, 16)) for _ in range(3))
    with steady.rows():
        beside = Alibi.of(2, mx.float32, Ragged(buckets)).attend(q, k, v)[:length]
        alone = Alibi.of(2, mx.float32, Ragged(buckets[:1])).attend(q[:length], k[:length], v[:length])
    assert mx.array_equal(alone, beside)


@pytest.mark.parametrize("length", [1, 255, 256, 257, 300, 1023])
@pytest.mark.parametrize("heads", [1, 3])
def test_the_largest_score_of_each_row(heads: int, length: int) -> None:
    scores = mx.random.normal((2, heads, 5, length))
    assert mx.array_equal(cpu_attention._largest(scores), scores.max(axis=-1, keepdims=True))


def test_the_bias_is_never_written_out() -> None:
    length = 4096
    values = alibi.hankel_values(mx.array(alibi.slopes(8)), length)
    mx.eval(values)
    before = mx.get_active_memory()
    bias = alibi.hankel_bias(values)
    mx.eval(bias)
    assert bias.shape == (1, 8, length, length)
    assert mx.get_active_memory() - before < 1 * MB
    row = np.array(bias[0, 2, 100])
    np.testing.assert_allclose(row[::-1], -(2.0**-3) * np.abs(np.arange(length) - 100))


def test_rows_computed_in_pieces_are_the_same() -> None:
    model = v2_small(1)
    ids = np.arange(23, dtype=np.int32)
    batch = ragged.flatten([ids], np.zeros(1, dtype=np.intp))
    with pieces.at_most(5):
        in_pieces = np.array(model(mx.array(batch.ids), batch.ragged))
    np.testing.assert_allclose(
        np.array(model(mx.array(batch.ids), batch.ragged)), in_pieces, rtol=0, atol=bound(2e-6)
    )


@pytest.mark.parametrize(("total", "most", "count"), [(100, 512, 1), (600, 512, 4), (300, 512, 3), (260, 64, 8)])
def test_cores_get_the_same_share(total: int, most: int, count: int) -> None:
    with cores.using(4):
        length = cores.share(total, most)
    starts = range(0, total, length)
    assert len(starts) == count
    assert length <= most


@pytest.mark.skipif(device.on_gpu(), reason="a GPU has no cores to share")
def test_pieces_run_on_streams_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    def double(x: mx.array) -> mx.array:
        used.append(str(mx.default_stream(mx.default_device())))
        return 2 * x

    x = mx.arange(5 * cores.MIN_ROWS)
    turns: list[int] = []
    with cores.using(3), pieces.interruptible(lambda: turns.append(len(used))):
        np.testing.assert_array_equal(np.array(pieces.by_rows(double, x)), 2 * np.array(x))
    assert len(set(used)) == 3
    assert turns == [3]
    used.clear()
    pieces.by_rows(double, x)
    assert set(used) == {str(mx.default_stream(mx.default_device()))}


@pytest.mark.parametrize("count", [1_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_memory_stays_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Every length from 1 to 600 meets every neighbour: nothing may pile up per shape."""
    monkeypatch.setattr("mlx_jina.engine.pipeline.WINDOW_TEXTS", 256)
    # What a GPU's cache may hold by default is more than this job fills at its beginning.
    mlx_jina.limit_cache(64 << 20 if device.on_gpu() else None)
    model = mlx_jina.load(checkpoints.tiny_jina_bert(tmp_path, heads=2, layers=1))
    used: list[int] = []
    step = pipeline.Pipeline._step

    def measured(*arguments: Any) -> object:
        result = step(*arguments)
        used.append(mx.get_active_memory() + mx.get_cache_memory())
        return result

    monkeypatch.setattr(pipeline.Pipeline, "_step", measured)
    lengths = np.random.default_rng(0).integers(1, 600, count)
    words = " ".join(["fox"] * 600)
    for _ in model.encode_stream((words[: 4 * n - 1] for n in lengths.tolist()), batch_tokens=4096):
        pass
    start = len(used) // 10
    assert len(used) > count // 20
    assert max(used[start:]) <= 1.05 * max(used[:start])


# Encodes texts of many lengths, with MLX's cache or without, and prints by how many bytes the process grew.
MANY_LENGTHS = """
import sys
from pathlib import Path
import mlx_jina

def peak():
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

if sys.argv[1] == "limited":
    mlx_jina.limit_cache()
model = mlx_jina.load("pocket")
model.encode(["a short text"])
before = peak()
for count in range(1, 600, 10):
    model.encode(" ".join(["word"] * count))
print(peak() - before)
"""


@pytest.mark.skipif(
    device.on_gpu() or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="a GPU's memory, or a malloc that takes no options",
)
def test_many_lengths_leave_less_behind_than_in_mlx_s_cache() -> None:
    command = [sys.executable, "-c", MANY_LENGTHS]
    started = [subprocess.Popen([*command, kind], stdout=subprocess.PIPE) for kind in ("limited", "left alone")]
    limited, alone = (int(process.communicate()[0]) for process in started)
    assert limited < 0.85 * alone
