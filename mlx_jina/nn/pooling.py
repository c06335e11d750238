"""Hidden states to one vector per text, or per span of it."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from mlx_jina.nn.ragged import Bucket, Ragged


def mean(hidden: mx.array, batch: Ragged) -> mx.array:
    """Average `(T, D)` over each text's own tokens, specials included, in float32. Returns (B, D)."""
    return mx.concatenate([_mean(hidden[bucket.start : bucket.stop], bucket) for bucket in batch.buckets])


def _mean(rows: mx.array, bucket: Bucket) -> mx.array:
    width = rows.shape[-1]
    sums = rows.reshape(bucket.texts, bucket.length, width).astype(mx.float32).sum(axis=1)
    # A row and not a number, which `mx.compile` would write into a kernel of its own for each length.
    return sums * mx.array(np.full(width, 1 / bucket.length, dtype=np.float32))


def span_means(hidden: mx.array, spans: Sequence[tuple[int, int]]) -> mx.array:
    """Average rows `start` to `stop` of `(T, D)` for each span, in float32. Returns (S, D)."""
    return mx.stack([hidden[start:stop].astype(mx.float32).mean(axis=0) for start, stop in spans])
