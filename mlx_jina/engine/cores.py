"""Split a batch over the cores of a CPU. By itself MLX uses several cores for matrix products only.

MLX evaluates the arrays of each thread on a stream of their own. So each core gets a thread, its share of the
texts, and a BLAS of one thread; threads exchange nothing before the vectors. A batch that cannot be split, such as
one long text, is cut in pieces for all cores (cpu/cores.py). A GPU gets each batch whole.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np

from mlx_jina.cpu import blas, cores
from mlx_jina.engine.thread import ModelThread
from mlx_jina.nn.ragged import Batch, flatten

T = TypeVar("T")

# The fewest tokens that are worth waking a thread, and the longest share over the average one, at most.
CORE_TOKENS = 64
UNEVEN = 1.25

# Threads beside the caller's own. All models use these in turn, because they use the same cores.
_helpers: list[ModelThread] = []
_turn = threading.Lock()


def run(function: Callable[[Batch], T], batch: Batch) -> list[tuple[Batch, T]]:
    """Apply `function` to the shares of a batch: each share with its result, which `function` must evaluate."""
    if len(shares := split(batch, blas.cores())) == 1:
        with cores.using(blas.cores()):
            return [(batch, function(batch))]
    with cores.using(1), _turn, blas.single_threaded():
        while len(_helpers) < len(shares) - 1:
            _helpers.append(ModelThread())
        started = [helper.submit(function, share) for helper, share in zip(_helpers, shares[1:], strict=False)]
        try:
            results = [function(shares[0])]
        finally:
            # Also after an error, because threads must not read inputs, or call the BLAS, once this has returned.
            outcomes = [future.exception() for future in started]
        for error in filter(None, outcomes):
            raise error
        return list(zip(shares, [*results, *(future.result() for future in started)], strict=True))


def split(batch: Batch, count: int) -> list[Batch]:
    """At most `count` batches of nearly the same number of tokens each, or only the batch itself.

    A batch stays whole where one text outweighs the others, or where a share would not be worth waking a thread.
    """
    starts = batch.ragged.starts
    count = min(count, len(starts), len(batch.ids) // CORE_TOKENS)
    if count < 2:
        return [batch]
    ids = np.split(batch.ids, starts[1:])
    shares: list[list[int]] = [[] for _ in range(count)]
    tokens = [0] * count
    for index, text in enumerate(ids):
        least = tokens.index(min(tokens))
        shares[least].append(index)
        tokens[least] += len(text)
    if max(tokens) * count > UNEVEN * len(batch.ids):
        return [batch]
    parts = [flatten(ids, np.array(share)) for share in shares]
    return [replace(part, order=batch.order[part.order]) for part in parts]
