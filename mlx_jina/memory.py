"""Keeping one forward pass small: work on long inputs in pieces, and evaluate each before the next.

MLX builds its graph lazily and evaluates siblings side by side, so pieces alone would save nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import mlx.core as mx

from mlx_jina import device

# Unfused attention scores live in blocks of queries of at most this many bytes; a CPU keeps them in its caches.
SCORE_BYTES = 16 << 20
CPU_SCORE_BYTES = 4 << 20
# Tokens computed at a time. More is no faster on a GPU, and macOS kills a command buffer that runs for seconds; a
# CPU is fastest while intermediate results stay in its caches.
ROWS = 4096
CPU_ROWS = 512


_here = threading.local()


def _evaluate(x: mx.array) -> None:
    """Evaluate one piece of a long input, then let short ones have a turn, if this thread runs any."""
    mx.eval(x)
    if (turn := getattr(_here, "turn", None)) is not None:
        turn()


@contextmanager
def giving_way(turn: Callable[[], object] | None) -> Iterator[None]:
    """Call `turn` after each piece that this thread evaluates: a long forward pass lets others in between."""
    before = getattr(_here, "turn", None)
    _here.turn = turn
    try:
        yield
    finally:
        _here.turn = before


def score_bytes() -> int:
    """For the scores of a block of queries."""
    return SCORE_BYTES if device.on_gpu() else min(SCORE_BYTES, CPU_SCORE_BYTES)


def _rows() -> int:
    return ROWS if device.on_gpu() else min(ROWS, CPU_ROWS)


def by_rows(function: Callable[..., mx.array], *rows: mx.array) -> mx.array:
    """Apply a function of single tokens to (T, ...) arrays, some tokens at a time."""
    total, count = rows[0].shape[0], _rows()
    if total <= count:
        return function(*rows)
    pieces = []
    for start in range(0, total, count):
        pieces.append(function(*(x[start : start + count] for x in rows)))
        _evaluate(pieces[-1])
    return mx.concatenate(pieces)


def settle(x: mx.array, *, long: bool | None = None) -> mx.array:
    """Evaluate the graph so far, if it is a long input's (more than `ROWS` tokens) or the backend is a CPU.

    Pieces of a long input would otherwise exist side by side, and a GPU's command buffer grow with depth. On a
    CPU MLX admits some hundred operations of all threads together (`MAX_ACTIVE_TASKS` in mlx/transforms.cpp):
    one thread's long graph would keep the other lanes waiting.
    """
    if (x.shape[0] > ROWS if long is None else long) or not device.on_gpu():
        _evaluate(x)
    return x
