"""Attention over ragged batches, with memory that grows with the length and not with its square."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import mlx.core as mx
import numpy as np

from mlx_jina import device
from mlx_jina.nn import activations, pieces
from mlx_jina.nn.ragged import Run

# Head widths of MLX's fused attention, for short and long queries alike, from `has_fused_kernel` in
# mlx/backend/metal/scaled_dot_product_attention.cpp.
FUSED_WIDTHS = (64, 96, 128)
# Queries of an unfused causal block: fewer compute fewer scores in vain, more make better matrix products.
CAUSAL_BLOCK = 64
# On a CPU blocks have fewer heads rather than fewer queries than this: BLAS rearranges the keys for each block.
CPU_QUERIES = 128
# Tokens of neighbouring runs that a CPU takes as one text.
TOGETHER = 96
# Added to scores that do not count.
MASKED = -1e30
# From how many tokens on a CPU asks how far a head with ALiBi sees.
FAR = 2048
# Queries that then look together, at most: fewer see less in vain, more are fewer products.
FAR_QUERIES = 256
# From how many scores on the largest is found in two steps, and of how many parts.
LONG_ROW = 256
ROW_PARTS = 8


def alibi_slopes(heads: int) -> list[float]:
    """One slope per head: powers of 2^(-8/n); for other counts, odd powers of the next level appended.

    Press et al. 2022, "Train Short, Test Long" (arXiv 2108.12409), reference implementation.
    """
    power = 1 << (heads.bit_length() - 1)
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    return slopes + [2 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)]


def hankel_values(slopes: mx.array, length: int) -> mx.array:
    """ALiBi's -m|i-j| for keys in reverse order: (H, 2L-1) numbers that hold every entry of (H, L, L).

    With the keys reversed the distance depends on i+j alone, so each row of the bias is the one above moved
    by one. `hankel_bias` views them as a matrix.
    """
    distances = mx.abs(mx.arange(2 * length - 1) - (length - 1))
    return mx.contiguous(-slopes[:, None] * distances.astype(slopes.dtype))


def hankel_bias(values: mx.array, start: int, stop: int) -> mx.array:
    """Rows `start` to `stop` of the bias, (1, H, stop-start, L), without writing them out.

    MLX's fused kernel takes any row stride and asks only that the last one be 1.
    """
    heads, span = values.shape
    length = (span + 1) // 2
    return mx.as_strided(values, (1, heads, stop - start, length), (0, span, 1, 1), offset=start)


@dataclass(frozen=True)
class AlibiSpan:
    """Neighbours in the flat row that are attended to side by side, and what `alibi` adds to their scores.

    That is what `hankel_values` returned, or (H, L, L) written out. On a CPU it is times LOG2_E.
    """

    run: Run
    bias: mx.array


def alibi_spans(heads: int, dtype: mx.Dtype, runs: Sequence[Run]) -> list[AlibiSpan]:
    """What `alibi` takes at a time: each run, and on a CPU several short ones as one text, kept apart by its bias.

    There an operation takes some microseconds before it computes anything, and each run has dozens.
    """
    if device.on_gpu():
        slopes = mx.array(alibi_slopes(heads), dtype=dtype)
        return [AlibiSpan(run, hankel_values(slopes, run.length)) for run in runs]
    slopes = mx.array(alibi_slopes(heads)) * activations.LOG2_E
    return [
        AlibiSpan(group[0], hankel_values(slopes, group[0].length))
        if len(group) == 1
        else AlibiSpan(Run(group[0].start, 1, group[-1].stop - group[0].start), _apart(slopes, group))
        for group in _neighbours(runs)
    ]


def _neighbours(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Runs in groups of at most `TOGETHER` tokens; a longer one is a group of its own."""
    group: list[Run] = []
    for run in runs:
        if group and run.stop - group[0].start > TOGETHER:
            yield group
            group = []
        group.append(run)
    yield group


def _apart(slopes: mx.array, runs: Sequence[Run]) -> mx.array:
    """ALiBi's bias (H, L, L) for runs as one text, in which no text's tokens attend to another's."""
    lengths = [run.length for run in runs for _ in range(run.texts)]
    owners = mx.array(np.repeat(np.arange(len(lengths)), lengths))
    places = mx.arange(sum(lengths))
    distances = mx.abs(places[:, None] - places)
    return mx.where(owners[:, None] == owners, -slopes[:, None, None] * distances, MASKED)


def _attend(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | str | None = None) -> mx.array:
    """Softmax attention of (b, H, n, d) to keys and values (b, H', L, d); H' divides H.

    The mask, on a CPU times LOG2_E, is added to the scores; "causal" aligns the last query with the last key.
    """
    texts, heads, count, width = queries.shape
    if device.on_gpu():
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=width**-0.5, mask=mask)
    # On a CPU nothing is fused: this is what MLX does, with a faster exponential, divided after the second product
    # instead of before, and with the queries of all heads that share a key in one matrix.
    kv_heads, length = keys.shape[1:3]
    queries = queries.astype(mx.float32) * (activations.LOG2_E * width**-0.5)
    grouped = queries.reshape(texts, kv_heads, -1, width)
    scores = (grouped @ keys.swapaxes(-1, -2)).reshape(texts, heads, count, length)
    if mask == "causal":
        mask = mx.where(mx.arange(length) > mx.arange(length - count, length)[:, None], MASKED, 0.0)
    if isinstance(mask, mx.array):
        scores = scores + mask
    shares = activations.exp2(scores - _largest(scores))
    # A product with ones takes a fifth of the time of MLX's sum.
    total = shares @ mx.ones((length, 1))
    grouped = shares.astype(values.dtype).reshape(texts, kv_heads, -1, length) @ values
    return (grouped.reshape(texts, heads, count, width) / total).astype(values.dtype)


def _largest(scores: mx.array) -> mx.array:
    """The largest of each row of a contiguous array, (b, H, n, 1).

    MLX's CPU backend goes through a row number by number, but takes the larger numbers of whole rows at once. So a
    long row is seen as several.
    """
    *outer, length = scores.shape
    if length < LONG_ROW:
        return scores.max(axis=-1, keepdims=True)
    width = length // ROW_PARTS
    parts = mx.as_strided(scores, (math.prod(outer), ROW_PARTS, width), (length, width, 1)).max(axis=1)
    largest = parts.max(axis=-1).reshape(*outer, 1)
    if rest := length % ROW_PARTS:
        largest = mx.maximum(largest, scores[..., -rest:].max(axis=-1, keepdims=True))
    return largest


def _piece(queries: mx.array, keys: mx.array) -> tuple[int, int]:
    """Key heads and queries to run at a time: all of them, as long as their scores are fused away or small."""
    texts, heads, count, width = queries.shape
    kv_heads, length = keys.shape[1:3]
    if device.on_gpu() and width in FUSED_WIDTHS:
        return kv_heads, min(count, pieces.ROWS)
    cells = pieces.score_bytes() // (texts * heads // kv_heads * length * 4)
    together = kv_heads if device.on_gpu() else min(kv_heads, max(1, cells // CPU_QUERIES))
    return together, pieces.share(count, max(1, min(count, cells // together)))


def _run(blocks: Sequence[Sequence[Callable[[], mx.array]]], *inputs: mx.array) -> mx.array:
    """Blocks of queries, one after the other, for each group of heads."""
    done = iter(pieces.side_by_side([block for group in blocks for block in group], *inputs))
    groups = [_concatenated(list(islice(done, len(group))), axis=2) for group in blocks]
    return _concatenated(groups, axis=1)


def _concatenated(parts: list[mx.array], axis: int) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=axis)


def alibi(queries: mx.array, keys: mx.array, values: mx.array, bias: mx.array) -> mx.array:
    """Bidirectional attention of (b, H, L, d) with symmetric ALiBi; `bias` is that of an `AlibiSpan`."""
    texts, heads, length, _ = queries.shape
    if bias.ndim == 3:
        return pieces.settle(_attend(queries, keys, values, bias), long=False)
    # A GPU would have to be waited for, in each layer.
    sights = [length] if device.on_gpu() or length < FAR else _sights(queries, keys)
    # The order of keys is free; the fused kernel wants their last stride to be 1, which a copy keeps.
    keys, values = (mx.contiguous(x[:, :, ::-1]) for x in (keys, values))
    if min(sights) < length:
        views = [(slice(h, h + 1), sight, _fitting(texts, length, sight)) for h, sight in enumerate(sights)]
    else:
        together, block = _piece(queries, keys)
        # Most texts are one piece; cutting it would lengthen Python's share of a small forward pass by a tenth.
        if together == heads and block == length:
            return pieces.settle(_attend(queries, keys, values, hankel_bias(bias, 0, length)), long=False)
        views = [(slice(h, h + together), length, block) for h in range(0, heads, together)]

    def run(own: slice, sight: int, start: int, stop: int) -> mx.array:
        seen = slice(max(0, length - stop - sight), min(length - start + sight, length))
        mask = hankel_bias(bias[own], start, stop)[..., seen]
        return _attend(queries[:, own, start:stop], keys[:, own, seen], values[:, own, seen], mask)

    blocks = [
        [partial(run, own, sight, i, min(i + block, length)) for i in range(0, length, block)]
        for own, sight, block in views
    ]
    return _run(blocks, queries, keys, values, bias)


def _sights(queries: mx.array, keys: mx.array) -> list[int]:
    """How many tokens away each head's keys may matter; farther ones get less than 2^-24 of a query's attention.

    No score exceeds the product of the norms, the largest is no less than that of a query's own key, and the bias
    falls with the distance. Lin et al. 2025, "Adaptive Computation Pruning" (arXiv 2504.06949).
    """
    heads, length, width = queries.shape[1:]
    q, k = queries.astype(mx.float32), keys.astype(mx.float32)
    # What all keys share moves all scores of a query alike, and would only lengthen them.
    k = k - k.mean(axis=2, keepdims=True)
    ones = mx.ones((width, 1))
    # One product of the whole text at a time.
    q_norms, k_norms, own = (pieces.settle((x * y) @ ones, long=True) for x, y in ((q, q), (k, k), (q, k)))
    excess = (mx.sqrt(q_norms * k_norms.max(axis=2, keepdims=True)) - own).max(axis=(0, 2, 3))
    falls = np.array(excess) * width**-0.5 + math.log(length * 2**24)
    distances = np.ceil(falls / alibi_slopes(heads))
    # NaN is not less.
    return [int(distance) if distance < length else length for distance in distances]


def _fitting(texts: int, length: int, sight: int) -> int:
    """How many queries of one head look together: n of them see n + 2 * sight keys, or all."""
    cells = pieces.score_bytes() // (texts * 4)
    fit = max(math.isqrt(sight**2 + cells) - sight, cells // length, 1)
    return pieces.share(length, min(fit, FAR_QUERIES))


def bidirectional(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
    """Attention of each query to every position: (b, H, n, d) to keys and values (b, H', L, d); H' divides H."""
    count, width = queries.shape[2:]
    together, block = _piece(queries, keys)
    if not (device.on_gpu() and width in FUSED_WIDTHS):
        # MLX's CPU matmul would copy views with gaps, for every block again.
        queries, keys, values = (mx.contiguous(x) for x in (queries, keys, values))

    def run(head: int, start: int) -> mx.array:
        q, k, v = _heads(queries, keys, values, slice(head, head + together))
        return _attend(q[:, :, start : start + block], k, v)

    blocks = [[partial(run, h, i) for i in range(0, count, block)] for h in range(0, keys.shape[1], together)]
    return _run(blocks, queries, keys, values)


def _heads(queries: mx.array, keys: mx.array, values: mx.array, own: slice) -> tuple[mx.array, mx.array, mx.array]:
    """Those of some key heads."""
    shared = queries.shape[1] // keys.shape[1]
    return queries[:, own.start * shared : own.stop * shared], keys[:, own], values[:, own]


def _causal_blocks(texts: int, heads: int, count: int, length: int) -> list[tuple[int, int]]:
    """Cut the last `count` of `length` positions so that unfused scores are small, and few of them masked.

    A block up to position `stop` has scores against `stop` keys, so the first ones may have more queries.
    """
    cells = pieces.score_bytes() // (texts * heads * 4)
    blocks = []
    start = length - count
    while start < length:
        # n queries from `start` have n * (start + n) scores.
        fitting = (math.isqrt(start * start + 4 * cells) - start) // 2
        stop = min(start + max(1, min(fitting, max(CAUSAL_BLOCK, count // 8))), length)
        blocks.append((start, stop))
        start = stop
    return blocks


def causal(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
    """Attention of each query to its own position and the ones before.

    Queries (b, H, n, d) are the last n of the L positions of keys and values (b, H', L, d); H' divides H.
    """
    texts, heads, count, width = queries.shape
    kv_heads, length = keys.shape[1:3]
    together, _ = _piece(queries, keys)
    if device.on_gpu() and width in FUSED_WIDTHS:
        spans = [(i, min(i + pieces.ROWS, length)) for i in range(length - count, length, pieces.ROWS)]
    else:
        spans = _causal_blocks(texts, heads // kv_heads * together, count, length)
        # MLX's CPU matmul would copy views with gaps, for every block again.
        queries, keys, values = (mx.contiguous(x) for x in (queries, keys, values))

    def run(head: int, start: int, stop: int) -> mx.array:
        q, k, v = _heads(queries, keys, values, slice(head, head + together))
        # Later keys would be masked anyway.
        return _attend(
            q[:, :, start - length + count : stop - length + count], k[:, :, :stop], v[:, :, :stop], "causal"
        )

    return _run(
        [[partial(run, h, *span) for span in spans] for h in range(0, kv_heads, together)], queries, keys, values
    )


def split_heads(x: mx.array, run: Run, heads: int) -> mx.array:
    """The run's tokens of a flat (T, H*d) row as (b, H, L, d)."""
    return x[run.start : run.stop].reshape(run.texts, run.length, heads, -1).transpose(0, 2, 1, 3)


def merge_heads(pieces: Sequence[mx.array]) -> mx.array:
    """One (b, H, L, d) per run back to a flat (T, H*d) row."""
    rows = [x.transpose(0, 2, 1, 3).reshape(x.shape[0] * x.shape[2], -1) for x in pieces]
    return _concatenated(rows, axis=0)


def positions(runs: Sequence[Run]) -> mx.array:
    """Each token's position in its text: (T,)."""
    return mx.array(np.concatenate([np.tile(np.arange(run.length), run.texts) for run in runs]))


def rotate(x: mx.array, positions: mx.array, theta: float) -> mx.array:
    """Rotary positions of (T, H, d), a head's halves paired as in GPT-NeoX, and the heads merged: (T, H*d).

    Su et al. 2021, "RoFormer" (arXiv 2104.09864).
    """
    # One call for a whole ragged batch: each token is a "text" of one token with its own offset.
    x = mx.fast.rope(x[:, :, None], x.shape[-1], traditional=False, base=theta, scale=1.0, offset=positions)
    return x.reshape(x.shape[0], -1)
