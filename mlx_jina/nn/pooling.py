"""Hidden states to one vector per text, or per span of it."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from mlx_jina.nn.ragged import Ragged


def mean(hidden: mx.array, batch: Ragged) -> mx.array:
    """Average `(T, D)` over each text's own tokens, specials included, in float32. Returns (B, D)."""
    width = hidden.shape[-1]
    return mx.concatenate(
        [
            hidden[bucket.start : bucket.stop]
            .reshape(bucket.texts, bucket.length, width)
            .astype(mx.float32)
            .mean(axis=1)
            for bucket in batch.buckets
        ]
    )


def span_means(hidden: mx.array, spans: Sequence[tuple[int, int]]) -> mx.array:
    """Average rows `start` to `stop` of `(T, D)` for each span, in float32. Returns (S, D)."""
    return mx.stack([hidden[start:stop].astype(mx.float32).mean(axis=0) for start, stop in spans])
