"""Use all cores of a CPU for one long input. By itself MLX uses several cores for matrix products only.

The input is cut in pieces. Each piece is evaluated on a stream of its own, and MLX runs each stream in a thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import mlx.core as mx

from mlx_jina.cpu import blas

T = TypeVar("T")

# Tokens of a piece, so few that intermediate results stay in a core's caches.
ROWS = 512
# A core's piece has at least this many tokens.
MIN_ROWS = 128


class _Here(threading.local):
    """How many cores the pieces of this thread's inputs may use, and a stream for each."""

    cores = 1

    def __init__(self) -> None:
        # Streams belong to the thread that made them.
        self.streams: list[mx.Stream] = []


_here = _Here()


@contextmanager
def using(count: int) -> Iterator[None]:
    """Evaluate the pieces of this thread's long inputs on `count` cores at once."""
    before = _here.cores
    _here.cores = count
    try:
        yield
    finally:
        _here.cores = before


def count() -> int:
    """How many cores the pieces of this thread's inputs may use."""
    return _here.cores


def streams() -> list[mx.Stream]:
    """A stream for each of `count()` cores."""
    while len(_here.streams) < _here.cores:
        _here.streams.append(mx.new_stream(mx.default_device()))
    return _here.streams[: _here.cores]


def share(total: int, most: int) -> int:
    """Tokens of each piece of `total`: at most `most`, and fewer where that gives all cores the same share."""
    most = min(most, max(-(-total // _here.cores), MIN_ROWS))
    pieces = -(-total // most)
    if pieces > _here.cores:
        pieces = -(-pieces // _here.cores) * _here.cores
    return -(-total // pieces)


def side_by_side(pieces: Sequence[Callable[[], T]]) -> Iterator[list[T]]:
    """Evaluate as many pieces at a time as there are cores, and yield their arrays. Inputs must be evaluated."""
    for first in range(0, len(pieces), _here.cores):
        done: list[T] = []
        with blas.single_threaded():
            for piece, stream in zip(pieces[first : first + _here.cores], streams(), strict=False):
                with mx.stream(stream):
                    done.append(piece())
            mx.eval(done)
        yield done
