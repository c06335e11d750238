"""A batch dealt to the cores of a CPU, where MLX uses more than one for matrix products alone.

MLX evaluates the arrays of each thread on a stream of their own. So each core gets a thread, its share of the
texts, and a BLAS of one thread; nothing is exchanged before the vectors. What cannot be dealt, such as one long
text, is cut in pieces for all cores (nn/pieces.py). A GPU gets each batch whole.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from mlx_jina import device
from mlx_jina.engine.thread import Worker
from mlx_jina.nn import pieces, ragged
from mlx_jina.nn.ragged import Batch

T = TypeVar("T")

# Beside the caller's own thread; for all models, which take turns: the cores are the same.
_helpers: list[Worker] = []
_turn = threading.Lock()


def run(function: Callable[[Batch], T], batch: Batch) -> list[tuple[Batch, T]]:
    """A function of batches applied to the shares of one, and the shares; it must evaluate what it returns."""
    if len(shares := ragged.deal(batch, device.lanes())) == 1:
        with pieces.on_cores(device.lanes()):
            return [(batch, function(batch))]
    with pieces.on_cores(1), _turn, device.single_threaded_blas():
        while len(_helpers) < len(shares) - 1:
            _helpers.append(Worker())
        started = [helper.submit(function, share) for helper, share in zip(_helpers, shares[1:], strict=False)]
        try:
            results = [function(shares[0])]
        finally:
            # Also after an error: what they read may be gone, or the BLAS threaded, once this returns.
            outcomes = [future.exception() for future in started]
        for error in filter(None, outcomes):
            raise error
        return list(zip(shares, [*results, *(future.result() for future in started)], strict=True))
