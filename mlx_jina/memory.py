"""Keeping one forward pass small: work on long inputs in pieces, and evaluate each before the next.

MLX builds its graph lazily and evaluates siblings side by side, so pieces alone would save nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

# Unfused attention scores live in blocks of queries of at most this many bytes.
SCORE_BYTES = 32 << 20
# Tokens computed at a time. More is no faster, and macOS kills a GPU command buffer that runs for seconds.
ROWS = 4096


def by_rows(function: Callable[..., mx.array], *rows: mx.array) -> mx.array:
    """Apply a function of single tokens to (T, ...) arrays, `ROWS` tokens at a time."""
    total = rows[0].shape[0]
    if total <= ROWS:
        return function(*rows)
    pieces = []
    for start in range(0, total, ROWS):
        pieces.append(function(*(x[start : start + ROWS] for x in rows)))
        mx.eval(pieces[-1])
    return mx.concatenate(pieces)


def settle(x: mx.array) -> mx.array:
    """Evaluate the graph so far if it is a long input's, so that no GPU command buffer grows with depth."""
    if x.shape[0] > ROWS:
        mx.eval(x)
    return x
