"""Functions compiled for the few shapes that come again, with a bound on how many are kept.

Building the graph of one short text takes Python longer than a GPU takes to compute it. `mx.compile` keeps the
graph, one for each shape, and nothing bounds how many (ml-explore/mlx#4464).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import mlx.core as mx

from mlx_jina.nn import pieces

S = TypeVar("S", bound=Hashable)


class CompiledByShape(Generic[S]):
    """`function(x, shape)`, compiled for a `shape` that says all of what is not in the arrays.

    A shape is compiled when it comes for the second time: the first call of a compiled function takes longer than
    one that is not. The least recently used shapes are forgotten. For one thread.
    """

    def __init__(self, function: Callable[[mx.array, S], mx.array], most: int) -> None:
        self._function = function
        self._most = most
        self._compiled: OrderedDict[S, Callable[[mx.array], mx.array] | None] = OrderedDict()

    def __call__(self, x: mx.array, shape: S) -> mx.array:
        """What the function returns."""
        if shape not in self._compiled:
            self._remember(shape, None)
            return self._function(x, shape)
        if (compiled := self._compiled[shape]) is None:
            compiled = mx.compile(lambda x: self._traced(x, shape))
        self._remember(shape, compiled)
        return compiled(x)

    def _remember(self, shape: S, compiled: Callable[[mx.array], mx.array] | None) -> None:
        self._compiled[shape] = compiled
        self._compiled.move_to_end(shape)
        if len(self._compiled) > self._most:
            self._compiled.popitem(last=False)

    def _traced(self, x: mx.array, shape: S) -> mx.array:
        with pieces.unevaluated():
            return self._function(x, shape)
