"""Attention over ragged batches, with memory that grows with the length and not with its square.

Axes: T tokens of a batch, b texts of one length, L tokens of one text, n of its queries, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

import mlx.core as mx

from mlx_jina import device
from mlx_jina.cpu import attention as cpu
from mlx_jina.cpu import cores
from mlx_jina.cpu.attention import Blocks
from mlx_jina.nn import pieces
from mlx_jina.nn.ragged import Bucket

# Head widths of MLX's fused attention, for short and long queries alike, from `hasfused_kernel` in
# mlx/backend/metal/scaled_dot_product_attention.cpp.
FUSED_WIDTHS = (64, 96, 128)
# Where attention is not fused, the scores of a block of queries take at most this many bytes.
SCORE_BYTES = 16 << 20


def ragged(
    attend: Callable[..., mx.array],
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    buckets: Sequence[Bucket],
    *of_buckets: Sequence[mx.array],
    last: bool = False,
) -> mx.array:
    """Attention within each text of a batch; returns merged heads, a row (H*d) for each query.

    Queries are (T, H, d), or with `last` those of each text's last token only, (B, H, d); keys and values are
    (T, H', d). `attend` takes the texts of one bucket, (b, H, n, d) and (b, H', L, d), and the bucket's own of
    each of `of_buckets`.
    """
    merged, start = [], 0
    for bucket, *own in zip(buckets, *of_buckets, strict=True):
        stop = start + bucket.texts * (1 if last else bucket.length)
        tokens = slice(bucket.start, bucket.stop)
        q, k, v = (_by_text(x, bucket.texts) for x in (queries[start:stop], keys[tokens], values[tokens]))
        merged.append(attend(q, k, v, *own).transpose(0, 2, 1, 3).reshape(stop - start, -1))
        start = stop
    return merged[0] if len(merged) == 1 else mx.concatenate(merged)


def _by_text(rows: mx.array, texts: int) -> mx.array:
    """Rows (b*L, H, d) of texts of one length as (b, H, L, d)."""
    return rows.reshape(texts, -1, *rows.shape[1:]).transpose(0, 2, 1, 3)


def split_heads(x: mx.array, heads: int) -> mx.array:
    """(T, H*d) as (T, H, d)."""
    return x.reshape(x.shape[0], heads, -1)


def bidirectional(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
    """Attention of each query to every position: (b, H, n, d) to keys and values (b, H', L, d); H' divides H."""
    if not device.on_gpu():
        return in_blocks(cpu.bidirectional(queries, keys, values), queries, keys, values)
    queries, keys, values = _for_blocks(queries, keys, values)
    count, block = queries.shape[2], block_length(queries, keys)
    return in_blocks(
        [[partial(fused, queries[:, :, i : i + block], keys, values) for i in range(0, count, block)]]
    )


def causal(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
    """Attention of each query to its own position and the ones before.

    Queries (b, H, n, d) are the last n of the L positions of keys and values (b, H', L, d); H' divides H.
    """
    if not device.on_gpu():
        return in_blocks(cpu.causal(queries, keys, values), queries, keys, values)
    queries, keys, values = _for_blocks(queries, keys, values)
    texts, heads, count, width = queries.shape
    first = keys.shape[2] - count
    if width in FUSED_WIDTHS:
        spans = [(i, min(i + pieces.ROWS, count)) for i in range(0, count, pieces.ROWS)]
    else:
        spans = cpu.causal_spans(count, keys.shape[2], SCORE_BYTES // (texts * heads * 4))
    # Keys after a block's last query would be masked.
    return in_blocks(
        [
            [
                partial(
                    fused,
                    queries[:, :, start:stop],
                    keys[:, :, : first + stop],
                    values[:, :, : first + stop],
                    "causal",
                )
                for start, stop in spans
            ]
        ]
    )


def fused(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | str | None = None) -> mx.array:
    """MLX's fused attention of (b, H, n, d) to keys and values (b, H', L, d)."""
    scale = queries.shape[-1] ** -0.5
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)


def _for_blocks(*arrays: mx.array) -> Iterator[mx.array]:
    """Without gaps where attention is not fused: each block's products would copy views again."""
    return (x if x.shape[-1] in FUSED_WIDTHS else mx.contiguous(x) for x in arrays)


def block_length(queries: mx.array, keys: mx.array) -> int:
    """How many queries a GPU computes at a time: all of them, as long as their scores are fused away or small."""
    texts, heads, count, width = queries.shape
    if width in FUSED_WIDTHS:
        return min(count, pieces.ROWS)
    fitting = SCORE_BYTES // (texts * heads * keys.shape[2] * 4)
    return cores.share(count, max(1, min(count, fitting)))


def in_blocks(blocks: Blocks, *inputs: mx.array) -> mx.array:
    """Evaluate blocks one after the other: for each group of heads, blocks of queries."""
    done = iter(pieces.run([block for group in blocks for block in group], *inputs))
    groups = [_concatenated(list(islice(done, len(group))), axis=2) for group in blocks]
    return _concatenated(groups, axis=1)


def _concatenated(parts: list[mx.array], axis: int) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=axis)
