"""Long inputs in pieces, each evaluated before the next, so that memory does not grow with the length.

MLX builds its graph lazily and evaluates siblings side by side: pieces alone would save nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any, TypeVar

import mlx.core as mx

from mlx_jina import device
from mlx_jina.cpu import cores

T = TypeVar("T")

# Tokens of a piece, where the backend is a GPU.
ROWS = 4096


class _Here(threading.local):
    """What holds for this thread."""

    between: Callable[[], object] | None = None


_here = _Here()


@contextmanager
def interruptible(between: Callable[[], object] | None) -> Iterator[None]:
    """Call `between` after each piece that this thread evaluates, so that short inputs overtake a long one."""
    before = _here.between
    _here.between = between
    try:
        yield
    finally:
        _here.between = before


def _pause() -> None:
    if _here.between is not None:
        _here.between()


def _evaluate(piece: T) -> T:
    mx.eval(piece)
    _pause()
    return piece


def evaluate_if_long(x: mx.array) -> mx.array:
    """Evaluate the states (T, D) of a long input, layer by layer.

    On a CPU those of any input: MLX admits some hundred operations of all threads together (`MAX_ACTIVE_TASKS` in
    mlx/transforms.cpp), and one thread's long graph would keep the other threads waiting.
    """
    return _evaluate(x) if x.shape[0] > ROWS or not device.on_gpu() else x


def run(pieces: Sequence[Callable[[], T]], *inputs: mx.array) -> list[T]:
    """What functions of the same inputs return, each evaluated before the next, or one for each core at a time."""
    if len(pieces) == 1:
        return [pieces[0]() if device.on_gpu() else _evaluate(pieces[0]())]
    if cores.count() == 1:
        return [_evaluate(piece()) for piece in pieces]
    mx.eval(inputs)
    done: list[T] = []
    for together in cores.side_by_side(pieces):
        done += together
        _pause()
    return done


def tokenwise(method: Callable[..., T]) -> Callable[..., T]:
    """A method of single tokens: arrays (T, ...) to one array (T, ...) or a tuple, in pieces if T is large."""

    @wraps(method)
    def in_pieces(self: object, *rows: mx.array) -> Any:
        return by_rows(partial(method, self), *rows)

    return in_pieces


def by_rows(function: Callable[..., Any], *rows: mx.array) -> Any:
    """`function` of arrays (T, ...), applied to some tokens at a time."""
    total = rows[0].shape[0]
    count = cores.share(total, ROWS if device.on_gpu() else min(ROWS, cores.ROWS))
    if total <= count:
        return function(*rows)

    def piece(start: int) -> Any:
        return function(*(x[start : start + count] for x in rows))

    done = run([partial(piece, start) for start in range(0, total, count)], *rows)
    if isinstance(done[0], tuple):
        return tuple(mx.concatenate(list(parts)) for parts in zip(*done, strict=True))
    return mx.concatenate(done)
