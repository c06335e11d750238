"""Keeping one forward pass small: work on long inputs in pieces, and evaluate each before the next.

MLX builds its graph lazily and evaluates siblings side by side, so pieces alone would save nothing. On a CPU
pieces also keep all cores busy with a text that has them to itself: MLX uses one for all but matrix products.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import mlx.core as mx

from mlx_jina import device

# Unfused attention scores live in blocks of queries of at most this many bytes; a CPU keeps them in its caches.
SCORE_BYTES = 16 << 20
CPU_SCORE_BYTES = 2 << 20
# Tokens computed at a time. More is no faster on a GPU, and macOS kills a command buffer that runs for seconds; a
# CPU is fastest while intermediate results stay in its caches.
ROWS = 4096
CPU_ROWS = 512
# A core's piece has at least so many tokens.
CORE_ROWS = 128


class _Here(threading.local):
    """What holds for this thread."""

    turn: Callable[[], object] | None = None
    """Called between pieces."""
    cores = 1
    """How many its pieces may use."""

    def __init__(self) -> None:
        # They belong to the thread that made them.
        self.streams: list[mx.Stream] = []


_here = _Here()


def _turn() -> None:
    """Let short inputs in, if this thread runs any."""
    if _here.turn is not None:
        _here.turn()


def _evaluate(x: mx.array) -> None:
    """Evaluate one piece of a long input."""
    mx.eval(x)
    _turn()


@contextmanager
def giving_way(turn: Callable[[], object] | None) -> Iterator[None]:
    """Call `turn` after each piece that this thread evaluates: a long forward pass lets others in between."""
    before = _here.turn
    _here.turn = turn
    try:
        yield
    finally:
        _here.turn = before


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Evaluate pieces of this thread's long inputs on so many cores of a CPU at once."""
    before = _here.cores
    _here.cores = count
    try:
        yield
    finally:
        _here.cores = before


def streams() -> list[mx.Stream]:
    """As many as cores that this thread may use; MLX evaluates each in a thread of its own."""
    while len(_here.streams) < _here.cores:
        _here.streams.append(mx.new_stream(mx.default_device()))
    return _here.streams[: _here.cores]


def score_bytes() -> int:
    """For the scores of a block of queries."""
    return SCORE_BYTES if device.on_gpu() else min(SCORE_BYTES, CPU_SCORE_BYTES)


def _rows() -> int:
    return ROWS if device.on_gpu() else min(ROWS, CPU_ROWS)


def share(total: int, most: int) -> int:
    """Tokens of a piece of `total`: at most so many, and less where the cores would not get the same."""
    cores = _here.cores
    most = min(most, max(-(-total // cores), CORE_ROWS))
    pieces = -(-total // most)
    if pieces > cores:
        pieces = -(-pieces // cores) * cores
    return -(-total // pieces)


def side_by_side(pieces: Sequence[Callable[[], mx.array]], *inputs: mx.array) -> list[mx.array]:
    """The arrays of functions of the same inputs, each evaluated before the next, or as many at once as cores."""
    if len(pieces) == 1:
        return [settle(pieces[0](), long=False)]
    if (cores := _here.cores) == 1:
        return [settle(piece(), long=True) for piece in pieces]
    mx.eval(inputs)
    done: list[mx.array] = []
    for first in range(0, len(pieces), cores):
        with device.single_threaded_blas():
            for piece, stream in zip(pieces[first : first + cores], streams(), strict=False):
                with mx.stream(stream):
                    done.append(piece())
            mx.eval(done[first:])
        _turn()
    return done


def by_rows(function: Callable[..., mx.array], *rows: mx.array) -> mx.array:
    """Apply a function of single tokens to (T, ...) arrays, some tokens at a time."""
    total = rows[0].shape[0]
    count = share(total, _rows())
    if total <= count:
        return function(*rows)

    def piece(start: int) -> mx.array:
        return function(*(x[start : start + count] for x in rows))

    return mx.concatenate(side_by_side([partial(piece, start) for start in range(0, total, count)], *rows))


def settle(x: mx.array, *, long: bool | None = None) -> mx.array:
    """Evaluate the graph so far, if it is a long input's (more than `ROWS` tokens) or the backend is a CPU.

    Pieces of a long input would otherwise exist side by side, and a GPU's command buffer grow with depth. On a
    CPU MLX admits some hundred operations of all threads together (`MAX_ACTIVE_TASKS` in mlx/transforms.cpp):
    one thread's long graph would keep the other lanes waiting.
    """
    if (x.shape[0] > ROWS if long is None else long) or not device.on_gpu():
        _evaluate(x)
    return x
