"""Long texts in pieces, so that memory does not grow with the length.

A text is long if it has more tokens than a batch may have (`at_most`). MLX evaluates a graph's independent parts
side by side, so pieces save memory only if each is evaluated before the next but one. A batch of shorter texts is
never cut, and on a GPU nothing waits inside such a batch.
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

# Tokens of a piece where nobody says how many.
TOKENS = 16_384


class _Here(threading.local):
    """What holds for this thread."""

    tokens = TOKENS
    evaluates = True
    starts = False
    between: Callable[[], object] | None = None


_here = _Here()


@contextmanager
def at_most(tokens: int) -> Iterator[None]:
    """Cut texts of more than so many tokens in pieces of that size, in this thread."""
    before = _here.tokens
    _here.tokens = tokens
    try:
        yield
    finally:
        _here.tokens = before


@contextmanager
def interruptible(between: Callable[[], object] | None) -> Iterator[None]:
    """Call `between` after each piece that this thread evaluates, so that short texts overtake a long one."""
    before = _here.between
    _here.between = between
    try:
        yield
    finally:
        _here.between = before


@contextmanager
def unevaluated() -> Iterator[None]:
    """Evaluate nothing in this thread: a graph is being traced."""
    before = _here.evaluates
    _here.evaluates = False
    try:
        yield
    finally:
        _here.evaluates = before


@contextmanager
def started() -> Iterator[None]:
    """Start to evaluate layers on a CPU in this thread, wait for none, and evaluate nothing within them.

    For a short text: building a layer takes Python half the time that a core takes to compute one.
    """
    before = _here.starts
    _here.starts = True
    try:
        with unevaluated():
            yield
    finally:
        _here.starts = before


def _pause() -> None:
    if _here.between is not None:
        _here.between()


def _evaluate(piece: T) -> T:
    if _here.evaluates:
        mx.eval(piece)
        _pause()
    return piece


def tokens() -> int:
    """Tokens of a piece, at most."""
    return _here.tokens if device.on_gpu() else min(_here.tokens, cores.ROWS)


def evaluate_if_long(x: mx.array) -> mx.array:
    """Start to evaluate the states (T, D) of a long text, layer by layer.

    Within `started` start on those of a short one. Elsewhere on a CPU evaluate those of any text: MLX admits some
    hundred operations of all threads together (`MAX_ACTIVE_TASKS` in mlx/transforms.cpp), and one thread's long
    graph would keep the other threads waiting.
    """
    if not device.on_gpu() and not _here.starts:
        return _evaluate(x)
    if _here.starts or x.shape[0] > tokens():
        mx.async_eval(x)
    return x


def one_by_one(pieces: Sequence[Callable[[], T]], *inputs: mx.array) -> list[T]:
    """What functions of the same inputs return, evaluated piece by piece, or one piece for each core at a time.

    A GPU computes one piece while the next one is built.
    """
    if len(pieces) == 1:
        return [pieces[0]() if device.on_gpu() else _evaluate(pieces[0]())]
    if device.on_gpu():
        return list(_one_ahead(pieces))
    if cores.count() == 1:
        return [_evaluate(piece()) for piece in pieces]
    mx.eval(inputs)
    done: list[T] = []
    for together in cores.side_by_side(pieces):
        done += together
        _pause()
    return done


def _one_ahead(pieces: Sequence[Callable[[], T]]) -> Iterator[T]:
    before: T | None = None
    for piece in pieces:
        made = piece()
        mx.async_eval(made)
        if before is not None:
            _evaluate(before)
            yield before
        before = made
    if before is not None:
        yield before


def chained(blocks: Sequence[Callable[..., mx.array]], *inputs: mx.array) -> list[mx.array]:
    """What functions of `inputs` return, each computed after the one before, in a graph that nobody waits for."""
    done: list[mx.array] = []
    for block in blocks:
        done.append(block(*(mx.depends(list(inputs), done[-1:]) if done else inputs)))
    return done


def tokenwise(method: Callable[..., T]) -> Callable[..., T]:
    """A method of single tokens: arrays (T, ...) to one array (T, ...) or a tuple, in pieces for a long text."""

    @wraps(method)
    def in_pieces(self: object, *rows: mx.array) -> Any:
        return by_rows(partial(method, self), *rows)

    return in_pieces


def by_rows(function: Callable[..., Any], *rows: mx.array) -> Any:
    """`function` of arrays (T, ...), applied to some tokens at a time."""
    total = rows[0].shape[0]
    if total <= min(_here.tokens, cores.MIN_ROWS):
        return function(*rows)
    count = cores.share(total, tokens())
    if total <= count:
        return function(*rows)

    def piece(start: int) -> Any:
        return function(*(x[start : start + count] for x in rows))

    done = one_by_one([partial(piece, start) for start in range(0, total, count)], *rows)
    if isinstance(done[0], tuple):
        return tuple(mx.concatenate(list(parts)) for parts in zip(*done, strict=True))
    return mx.concatenate(done)
