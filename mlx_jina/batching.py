"""Lengths to batches without padding, and back to input order.

A batch is one flat row of tokens. Every linear layer and norm sees `(T, D)`; only attention and pooling
look at texts, as runs of equal length `(b, L, ...)`, so no mask and no wasted token exists anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Run:
    """`texts` neighbours of `length` tokens each, from position `start` of the flat row."""

    start: int
    texts: int
    length: int

    @property
    def stop(self) -> int:
        """The position after the run's last token."""
        return self.start + self.texts * self.length


@dataclass(frozen=True)
class Batch:
    """Texts laid end to end, longest first. `order[i]` is the input position of the batch's i-th text."""

    ids: npt.NDArray[np.int32]
    runs: tuple[Run, ...]
    order: npt.NDArray[np.intp]


def flatten(texts: Sequence[npt.NDArray[np.int32]], order: npt.NDArray[np.intp]) -> Batch:
    """One batch of the texts named by `order`, whose equal lengths must be neighbours."""
    runs = []
    start = 0
    for length, group in groupby(len(texts[i]) for i in order):
        run = Run(start, sum(1 for _ in group), length)
        runs.append(run)
        start = run.stop
    return Batch(np.concatenate([texts[i] for i in order]), tuple(runs), order)


def batches(texts: Sequence[npt.NDArray[np.int32]], batch_tokens: int) -> Iterator[Batch]:
    """Cut texts into batches of at most `batch_tokens` tokens (one longer text is a batch of its own).

    Longest first: memory peaks at once rather than hours into a job, and equal lengths meet.
    """
    lengths = np.array([len(ids) for ids in texts], dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    start = tokens = 0
    for position, index in enumerate(order):
        if position > start and tokens + lengths[index] > batch_tokens:
            yield flatten(texts, order[start:position])
            start, tokens = position, 0
        tokens += int(lengths[index])
    if start < len(order):
        yield flatten(texts, order[start:])
