"""Lengths to batches without padding, and back to input order.

A batch is one flat row of tokens. Every linear layer and norm sees `(T, D)`; only attention and pooling
look at texts, as runs of equal length `(b, L, ...)`, so no token is computed in vain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import numpy.typing as npt

# The fewest tokens for a lane of its own, and how much longer than the average the longest lane may be.
LANE_TOKENS = 64
UNEVEN = 1.25


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


def deal(batch: Batch, lanes: int) -> list[Batch]:
    """At most `lanes` batches of nearly the same number of tokens each, or only the batch itself.

    That is when one text outweighs the others, or a share would not be worth a thread's waking up.
    """
    texts = np.concatenate([run.start + run.length * np.arange(run.texts) for run in batch.runs])
    lanes = min(lanes, len(texts), len(batch.ids) // LANE_TOKENS)
    if lanes < 2:
        return [batch]
    ids = np.split(batch.ids, texts[1:])
    shares: list[list[int]] = [[] for _ in range(lanes)]
    tokens = [0] * lanes
    for index, text in enumerate(ids):
        lane = tokens.index(min(tokens))
        shares[lane].append(index)
        tokens[lane] += len(text)
    if max(tokens) * lanes > UNEVEN * len(batch.ids):
        return [batch]
    parts = [flatten(ids, np.array(share)) for share in shares]
    return [replace(part, order=batch.order[part.order]) for part in parts]
