"""Hidden states to one vector per text, or per span of it."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from mlx_jina.nn.ragged import Run


def mean(hidden: mx.array, runs: Sequence[Run]) -> mx.array:
    """Average `(T, D)` over each text's own tokens, specials included, in float32. Returns (B, D)."""
    width = hidden.shape[-1]
    return mx.concatenate(
        [
            hidden[run.start : run.stop].reshape(run.texts, run.length, width).astype(mx.float32).mean(axis=1)
            for run in runs
        ]
    )


def span_means(hidden: mx.array, spans: Sequence[tuple[int, int]]) -> mx.array:
    """Average rows `start` to `stop` of `(T, D)` for each span, in float32. Returns (S, D)."""
    return mx.stack([hidden[start:stop].astype(mx.float32).mean(axis=0) for start, stop in spans])


def last_rows(runs: Sequence[Run]) -> mx.array:
    """Where in the flat row each text's last token stands: (B,)."""
    return mx.array(np.concatenate([run.start + run.length * np.arange(1, run.texts + 1) - 1 for run in runs]))
