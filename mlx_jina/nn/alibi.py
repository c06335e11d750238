"""Symmetric ALiBi in O(L) memory: attention that falls with the distance, without an (H, L, L) bias.

Press et al. 2022, "Train Short, Test Long" (arXiv 2108.12409); Günther et al. 2023 (arXiv 2310.19923) for both
directions. Axes as in attention.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx
import numpy as np

from mlx_jina import device
from mlx_jina.cpu import attention as cpu
from mlx_jina.cpu import steady
from mlx_jina.cpu.elementwise import LOG2_E
from mlx_jina.nn import attention
from mlx_jina.nn.ragged import Bucket, Ragged


def slopes(heads: int) -> list[float]:
    """One slope per head: powers of 2^(-8/n); for other counts, odd powers of the next level appended.

    From the reference implementation of Press et al.
    """
    power = 1 << (heads.bit_length() - 1)
    powers = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    return powers + [2 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)]


def hankel_values(slopes: mx.array, length: int) -> mx.array:
    """ALiBi's -m|i-j| for keys in reverse order: (H, 2L-1) numbers that hold every entry of (H, L, L).

    With the keys reversed the distance depends on i+j alone, so each row of the bias is the one above moved
    by one. `hankel_bias` views them as a matrix.
    """
    # By NumPy: `mx.compile` would write the length into a kernel of its own.
    distances = mx.array(np.abs(np.arange(2 * length - 1) - (length - 1)))
    return mx.contiguous(-slopes[:, None] * distances.astype(slopes.dtype))


def hankel_bias(values: mx.array, keys: int | None = None) -> mx.array:
    """The bias (1, H, L, K) of `hankel_values` for the first `keys` of L keys, or all, without writing it out.

    MLX's fused kernel takes any row stride and asks only that the last one be 1.
    """
    heads, span = values.shape
    length = (span + 1) // 2
    keys = length if keys is None else keys
    # In reverse order the first keys are the last columns.
    return mx.as_strided(values, (1, heads, length, keys), (0, span, 1, 1), length - keys)


def written_out(slopes: mx.array, length: int, hidden: mx.array) -> mx.array:
    """The bias (b, H, L, L) of texts padded to `length`, some of whose keys are `hidden`: (b, 1, 1, L).

    Hidden keys differ from text to text, so no view of fewer numbers has them. For a token these are H * L numbers
    at most, of a padded text's length L, and all layers share them.
    """
    places = np.arange(length)
    distances = mx.array(np.abs(places[:, None] - places)).astype(slopes.dtype)
    return -slopes[:, None, None] * distances + hidden


@dataclass(frozen=True)
class Alibi:
    """Attention with ALiBi for the texts of one batch. On a CPU biases are times LOG2_E."""

    batch: Ragged
    biases: tuple[mx.array, ...]
    """For each call of attention what `hankel_values` returned, or written out (H, L, L), or (b, H, L, L)."""

    @classmethod
    def of(cls, heads: int, dtype: mx.Dtype, batch: Ragged) -> Alibi:
        """The biases of a batch for `heads` heads."""
        if not device.on_gpu():
            buckets, own = _on_cpu(heads, batch.buckets)
            return cls(Ragged(buckets), own)
        falls = mx.array(slopes(heads), dtype=dtype)
        biases = [
            hankel_values(falls, call.length) if hidden is None else written_out(falls, call.length, hidden)
            for call, hidden in zip(batch.calls, batch.hidden(dtype), strict=True)
        ]
        return cls(batch, tuple(biases))

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        """Attention of each token to its text: (T, H, d) each, to merged heads (T, H*d)."""
        return attention.ragged(attend, queries, keys, values, self.batch, self.biases)


def attend(queries: mx.array, keys: mx.array, values: mx.array, bias: mx.array) -> mx.array:
    """Attention of (b, H, L, d) to the first K tokens (b, H, K, d) with one of an `Alibi`'s biases."""
    if bias.ndim == 3:
        return attention.on_cpu(cpu.written_out(queries, keys, values, bias))
    if not device.on_gpu():
        blocks = cpu.alibi(queries, keys, values, hankel_bias(bias, keys.shape[2]), slopes(queries.shape[1]))
        return attention.on_cpu(blocks, queries, keys, values, bias)
    if bias.ndim == 2:
        # The order of keys is free; the fused kernel wants their last stride to be 1, which a copy keeps.
        keys, values = (mx.contiguous(x[:, :, ::-1]) for x in (keys, values))
        bias = hankel_bias(bias, keys.shape[2])

    def block(start: int, stop: int, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return attention.fused(q[:, :, start:stop], k, v, bias[:, :, start:stop])

    return attention.in_blocks(block, attention.query_spans(queries, keys), queries, keys, values)


def attend_first(queries: mx.array, keys: mx.array, values: mx.array, batch: Ragged, heads: int) -> mx.array:
    """Attention of each text's first token (B, H, d) to its text (T, H, d), to merged heads (B, H*d)."""
    falls = mx.array(slopes(heads))[:, None, None]
    biases = [-falls * mx.arange(call.length) for call in batch.calls]
    hidden = batch.hidden(mx.float32)
    biases = [bias if hides is None else bias + hides for bias, hides in zip(biases, hidden, strict=True)]
    return attention.ragged(_attend_first, queries, keys, values, batch, biases, single=True)


def _attend_first(queries: mx.array, keys: mx.array, values: mx.array, bias: mx.array) -> mx.array:
    if not device.on_gpu():
        return attention.on_cpu(cpu.written_out(queries, keys, values, bias * LOG2_E))
    return attention.fused(queries, keys, values, bias.astype(queries.dtype))


def _on_cpu(heads: int, buckets: Sequence[Bucket]) -> tuple[tuple[Bucket, ...], tuple[mx.array, ...]]:
    """Several short buckets as one text, kept apart by its bias, and longer ones as they are.

    The bias of one text of a few tokens is kept for the next such text.
    """
    if len(buckets) == 1 and not steady.wanted():
        (own,) = buckets
        if own.texts == 1 and not own.unseen and cpu.few(heads, own.length):
            return tuple(buckets), (_alone(heads, own.length),)
    falls = slopes(heads)
    steep = mx.array(falls) * LOG2_E
    if steady.wanted():
        return tuple(buckets), tuple(hankel_values(steep, bucket.length) for bucket in buckets)
    joined, biases = [], []
    for near in cpu.neighbours([bucket.stop - bucket.start for bucket in buckets]):
        group = buckets[near]
        if len(group) > 1 and not any(bucket.unseen for bucket in group):
            lengths = [bucket.length for bucket in group for _ in range(bucket.texts)]
            joined.append(Bucket(group[0].start, 1, sum(lengths)))
            biases.append(cpu.apart(falls, lengths))
        else:
            joined += group
            biases += [hankel_values(steep, bucket.length) for bucket in group]
    return tuple(joined), tuple(biases)


@lru_cache(maxsize=64)
def _alone(heads: int, length: int) -> mx.array:
    """The bias (H, L, L) of one text of a few tokens, which takes longer to make than a layer."""
    return cpu.apart(slopes(heads), [length])
