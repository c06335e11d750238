"""Hidden states to one vector per text."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from mlx_jina.batching import Run


def mean(hidden: mx.array, runs: Sequence[Run]) -> mx.array:
    """Average `(T, D)` over each text's own tokens, specials included, in float32. Returns (B, D)."""
    width = hidden.shape[-1]
    return mx.concatenate(
        [
            hidden[run.start : run.stop].reshape(run.texts, run.length, width).astype(mx.float32).mean(axis=1)
            for run in runs
        ]
    )
