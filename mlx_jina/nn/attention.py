"""Attention over ragged batches, with memory that grows with the length and not with its square.

Axes: T tokens of a batch, b texts of one length, L tokens of one text, n of its queries, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_jina import device
from mlx_jina.cpu import attention as cpu
from mlx_jina.cpu.attention import Blocks
from mlx_jina.cpu.layers import products
from mlx_jina.nn import pieces
from mlx_jina.nn.ragged import Bucket, Positions, Ragged

# Head widths of MLX's fused attention, for short and long queries alike, from `hasfused_kernel` in
# mlx/backend/metal/scaled_dot_product_attention.cpp. CUDA has all of them, but only in half precision.
FUSED_WIDTHS = (64, 96, 128)
# Queries of one kernel, at most: macOS ends a kernel that takes many seconds.
QUERIES = 4096
# Where attention is not fused, the scores of a block of queries take at most this many bytes.
SCORE_BYTES = 16 << 20


def ragged(
    attend: Callable[..., mx.array],
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    batch: Ragged,
    *of_calls: Sequence[mx.array | None],
    single: bool = False,
) -> mx.array:
    """Attention within each text of a batch; returns merged heads, a row (H*d) for each query.

    Queries are (T, H, d), or with `single` those of one token of each text only, (B, H, d); keys and values are
    (T, H', d). `attend` takes the texts of one call, (b, H, n, d) and (b, H', L, d), and the call's own of each of
    `of_calls`, by default of what hides keys (`Ragged.hidden`).
    """
    if not of_calls:
        of_calls = (batch.hidden(queries.dtype),)
    if (padded := batch.padded) is None:
        return _each(attend, queries, keys, values, batch.buckets, *of_calls, single=single)
    places, back = (padded.texts, padded.of_texts) if single else (padded.tokens, padded.of_tokens)
    queries, keys, values = queries[places], keys[padded.tokens], values[padded.tokens]
    return _each(attend, queries, keys, values, padded.calls, *of_calls, single=single)[back]


def _each(
    attend: Callable[..., mx.array],
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    buckets: Sequence[Bucket],
    *of_buckets: Sequence[mx.array | None],
    single: bool,
) -> mx.array:
    """`attend` to each bucket of a row. Keys and values that no token attends to are left out."""
    if len(buckets) == 1:
        q, k, v = (_by_text(x, buckets[0].texts) for x in (queries, keys, values))
        return _by_row(attend(q, *_seen(k, v, buckets[0]), *(part[0] for part in of_buckets)))
    merged, start = [], 0
    for bucket, *own in zip(buckets, *of_buckets, strict=True):
        stop = start + bucket.texts * (1 if single else bucket.length)
        tokens = slice(bucket.start, bucket.stop)
        q, k, v = (_by_text(x, bucket.texts) for x in (queries[start:stop], keys[tokens], values[tokens]))
        merged.append(_by_row(attend(q, *_seen(k, v, bucket), *own)))
        start = stop
    return mx.concatenate(merged)


def _by_text(rows: mx.array, texts: int) -> mx.array:
    """Rows (b*L, H, d) of texts of one length as (b, H, L, d)."""
    return rows.reshape(texts, -1, *rows.shape[1:]).transpose(0, 2, 1, 3)


def _seen(keys: mx.array, values: mx.array, bucket: Bucket) -> tuple[mx.array, mx.array]:
    """The keys and values (b, H', L, d) that tokens attend to."""
    return (keys[:, :, bucket.seen], values[:, :, bucket.seen]) if bucket.unseen else (keys, values)


def _by_row(attended: mx.array) -> mx.array:
    """(b, H, n, d) as merged heads (b*n, H*d)."""
    texts, heads, count, width = attended.shape
    return attended.transpose(0, 2, 1, 3).reshape(texts * count, heads * width)


def projected(x: mx.array, *layers: nn.Linear) -> list[mx.array]:
    """What each of some layers makes of the same rows, (T, D) to (T, D'): queries, keys and values."""
    return [layer(x) for layer in layers] if device.on_gpu() else products(x, *layers)


def split_heads(x: mx.array, heads: int) -> mx.array:
    """(T, H*d) as (T, H, d)."""
    return x.reshape(x.shape[0], heads, -1)


def bidirectional(queries: mx.array, keys: mx.array, values: mx.array, hidden: mx.array | None = None) -> mx.array:
    """Attention of each query to every position: (b, H, n, d) to keys and values (b, H', L, d); H' divides H.

    On a GPU `hidden` is added to scores: (b, 1, 1, L).
    """
    if not device.on_gpu():
        return on_cpu(cpu.bidirectional(queries, keys, values), queries, keys, values)

    def block(start: int, stop: int, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return fused(q[:, :, start:stop], k, v, hidden)

    return in_blocks(block, query_spans(queries, keys), queries, keys, values)


def causal(queries: mx.array, keys: mx.array, values: mx.array, hidden: mx.array | None = None) -> mx.array:
    """Attention of each query to its own position and the ones before.

    Queries (b, H, n, d) are the last n of the L positions of keys and values (b, H', L, d); H' divides H. A single
    query is the last of those that `hidden`, (b, 1, 1, L), does not hide. What follows a text needs no hiding
    from several queries, each of which sees nothing of what follows itself.
    """
    if hidden is not None and queries.shape[2] == 1:
        return fused(queries, keys, values, hidden)
    if not device.on_gpu():
        return on_cpu(cpu.causal(queries, keys, values), queries, keys, values)
    first = keys.shape[2] - queries.shape[2]

    def block(start: int, stop: int, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        # Later keys would be masked.
        seen = slice(first + stop)
        return fused(q[:, :, start:stop], k[:, :, seen], v[:, :, seen], "causal")

    return in_blocks(block, query_spans(queries, keys), queries, keys, values)


def causal_at(queries: mx.array, keys: mx.array, values: mx.array, positions: Positions) -> mx.array:
    """Causal attention of some tokens of one text: queries (n, H, d) of ascending `positions` to merged heads.

    Keys and values are those of all tokens, (L, H', d); H' divides H. Returns (n, H*d).
    """
    q, k, v = (_by_text(x, 1) for x in (queries, keys, values))
    fitting = max(1, SCORE_BYTES // (q.shape[1] * k.shape[2] * 4))
    spans = [(start, min(start + fitting, len(positions))) for start in range(0, len(positions), fitting)]

    def block(start: int, stop: int, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        own = positions[start:stop]
        # Later keys would be masked.
        seen = slice(int(own[-1]) + 1)
        mask = mx.array(np.arange(seen.stop) <= own[:, None])
        return fused(q[:, :, start:stop], k[:, :, seen], v[:, :, seen], mask)

    if device.on_gpu():
        return _by_row(in_blocks(block, spans, q, k, v))
    return _by_row(on_cpu([[partial(block, *span, q, k, v) for span in spans]], q, k, v))


def fused(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | str | None = None) -> mx.array:
    """MLX's fused attention of (b, H, n, d) to keys and values (b, H', L, d)."""
    scale = queries.shape[-1] ** -0.5
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)


def query_spans(queries: mx.array, keys: mx.array) -> list[tuple[int, int]]:
    """Which queries a GPU computes at a time: all of them, as long as their scores are fused away or small."""
    texts, heads, count, width = queries.shape
    length = min(count, QUERIES)
    if width not in FUSED_WIDTHS or (queries.dtype == mx.float32 and device.backend() == "cuda"):
        fitting = SCORE_BYTES // (texts * heads * keys.shape[2] * 4)
        length = -(-count // -(-count // max(1, min(count, fitting))))
    return [(start, min(start + length, count)) for start in range(0, count, length)]


def in_blocks(block: Callable[..., mx.array], spans: Sequence[tuple[int, int]], *inputs: mx.array) -> mx.array:
    """`block(start, stop, *inputs)` for each span of queries, one after the other."""
    return _concatenated(pieces.chained([partial(block, *span) for span in spans], *inputs), axis=2)


def on_cpu(blocks: Blocks, *inputs: mx.array) -> mx.array:
    """Evaluate blocks one after the other: for each group of heads, blocks of queries."""
    done = iter(pieces.one_by_one([block for group in blocks for block in group], *inputs))
    groups = [_concatenated(list(islice(done, len(group))), axis=2) for group in blocks]
    return _concatenated(groups, axis=1)


def _concatenated(parts: list[mx.array], axis: int) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=axis)
