"""Attention over ragged batches, with memory that grows with the length and not with its square."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from mlx_jina import device, memory
from mlx_jina.batching import Run

# Head widths of MLX's fused attention, for short and long queries alike, from `has_fused_kernel` in
# mlx/backend/metal/scaled_dot_product_attention.cpp.
FUSED_WIDTHS = (64, 96, 128)
# Queries of an unfused causal block: fewer compute fewer scores in vain, more make better matrix products.
CAUSAL_BLOCK = 64


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


def _query_block(texts: int, heads: int, length: int, width: int) -> int:
    """Queries to run at a time: all of them, as long as their scores are fused away or small."""
    if device.on_gpu() and width in FUSED_WIDTHS:
        return min(length, memory.ROWS)
    return max(1, min(length, memory.SCORE_BYTES // (texts * heads * length * 4)))


def alibi(queries: mx.array, keys: mx.array, values: mx.array, bias: mx.array) -> mx.array:
    """Bidirectional attention of (b, H, L, d) with symmetric ALiBi; `bias` is what `hankel_values` returned."""
    texts, heads, length, width = queries.shape
    # The order of keys is free; the fused kernel wants their last stride to be 1, which a copy keeps.
    keys, values = (mx.contiguous(x[:, :, ::-1]) for x in (keys, values))
    block = _query_block(texts, heads, length, width)
    pieces = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        piece = mx.fast.scaled_dot_product_attention(
            queries[:, :, start:stop],
            keys,
            values,
            scale=width**-0.5,
            mask=hankel_bias(bias, start, stop),
        )
        if block < length:
            # Lazily, the scores of all blocks would exist side by side.
            mx.eval(piece)
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else mx.concatenate(pieces, axis=2)


def bidirectional(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
    """Attention of each query to every position: (b, H, n, d) to keys and values (b, H', L, d); H' divides H."""
    texts, heads, count, width = queries.shape
    block = _query_block(texts, heads, keys.shape[2], width)
    if not (device.on_gpu() and width in FUSED_WIDTHS):
        # MLX's CPU matmul would copy views with gaps, for every block again.
        queries, keys, values = (mx.contiguous(x) for x in (queries, keys, values))
    pieces = []
    for start in range(0, count, block):
        piece = mx.fast.scaled_dot_product_attention(
            queries[:, :, start : start + block], keys, values, scale=width**-0.5
        )
        if block < count:
            mx.eval(piece)
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else mx.concatenate(pieces, axis=2)


def _causal_blocks(texts: int, heads: int, count: int, length: int) -> list[tuple[int, int]]:
    """Cut the last `count` of `length` positions so that unfused scores are small, and few of them masked.

    A block up to position `stop` has scores against `stop` keys, so the first ones may have more queries.
    """
    cells = memory.SCORE_BYTES // (texts * heads * 4)
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
    length = keys.shape[2]
    if device.on_gpu() and width in FUSED_WIDTHS:
        blocks = [(i, min(i + memory.ROWS, length)) for i in range(length - count, length, memory.ROWS)]
        one_by_one = len(blocks) > 1
    else:
        blocks = _causal_blocks(texts, heads, count, length)
        one_by_one = texts * heads * count * length * 4 > memory.SCORE_BYTES
        # MLX's CPU matmul would copy views with gaps, for every block again.
        queries, keys, values = (mx.contiguous(x) for x in (queries, keys, values))
    pieces = []
    for start, stop in blocks:
        piece = mx.fast.scaled_dot_product_attention(
            queries[:, :, start - length + count : stop - length + count],
            # MLX aligns the last query with the last key, and later keys would be masked anyway.
            keys[:, :, :stop],
            values[:, :, :stop],
            scale=width**-0.5,
            mask="causal",
        )
        if one_by_one:
            mx.eval(piece)
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else mx.concatenate(pieces, axis=2)


def split_heads(x: mx.array, run: Run, heads: int) -> mx.array:
    """The run's tokens of a flat (T, H*d) row as (b, H, L, d)."""
    return x[run.start : run.stop].reshape(run.texts, run.length, heads, -1).transpose(0, 2, 1, 3)


def merge_heads(pieces: Sequence[mx.array]) -> mx.array:
    """One (b, H, L, d) per run back to a flat (T, H*d) row."""
    rows = [x.transpose(0, 2, 1, 3).reshape(x.shape[0] * x.shape[2], -1) for x in pieces]
    return rows[0] if len(rows) == 1 else mx.concatenate(rows)


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
