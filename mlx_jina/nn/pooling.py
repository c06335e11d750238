"""Hidden states to one vector per text, or per span of it."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from mlx_jina import device
from mlx_jina.nn.ragged import Bucket, Ragged, flatten


def mean(hidden: mx.array, batch: Ragged) -> mx.array:
    """Average `(T, D)` over each text's own tokens, specials included, in float32. Returns (B, D)."""
    if (padded := batch.padded) is None:
        return mx.concatenate([_mean(hidden[bucket.start : bucket.stop], bucket) for bucket in batch.buckets])
    rows = hidden[padded.tokens].astype(mx.float32) * padded.shares
    sums = [_by_text(rows[call.start : call.stop], call).sum(axis=1) for call in padded.calls]
    return mx.concatenate(sums)[padded.of_texts]


def _by_text(rows: mx.array, bucket: Bucket) -> mx.array:
    return rows.reshape(bucket.texts, bucket.length, -1)


def _mean(rows: mx.array, bucket: Bucket) -> mx.array:
    width = rows.shape[-1]
    sums = _by_text(rows, bucket).astype(mx.float32).sum(axis=1)
    # A row and not a number, which `mx.compile` would write into a kernel of its own for each length.
    return sums * mx.array(np.full(width, 1 / bucket.length, dtype=np.float32))


def span_means(hidden: mx.array, spans: Sequence[tuple[int, int]]) -> mx.array:
    """Average rows `start` to `stop` of `(T, D)` for each span, in float32. Returns (S, D)."""
    if device.on_gpu():
        # As if each span was a text, since some operations for each of them would take longer than their sums.
        lengths = np.array([stop - start for start, stop in spans])
        order = np.argsort(-lengths, kind="stable")
        texts = flatten([np.arange(*span, dtype=np.int32) for span in spans], order)
        return mean(hidden[mx.array(texts.ids)], texts.ragged)[mx.array(np.argsort(order))]
    return mx.stack([hidden[start:stop].astype(mx.float32).mean(axis=0) for start, stop in spans])
