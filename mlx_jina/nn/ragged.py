"""Batches without padding: texts lie end to end in one flat row of tokens.

Every linear layer and norm sees `(T, D)`. Only attention and pooling look at texts, as buckets of equal length
`(b, L, ...)`, so no token is computed in vain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import mlx.core as mx
import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Bucket:
    """`texts` neighbours of `length` tokens each, from position `start` of the flat row.

    No token attends to the last `unseen` tokens of its text, which have states all the same.
    """

    start: int
    texts: int
    length: int
    unseen: int = 0

    @property
    def seen(self) -> slice:
        """The tokens of a text that its tokens attend to."""
        return slice(self.length - self.unseen)

    @property
    def stop(self) -> int:
        """The position after the bucket's last token."""
        return self.start + self.texts * self.length


@dataclass(frozen=True)
class Ragged:
    """How the texts of a batch lie in the flat row. MLX arrays belong to the thread that asks first."""

    buckets: tuple[Bucket, ...]

    @cached_property
    def positions(self) -> mx.array:
        """Each token's position in its text: (T,)."""
        return mx.array(np.concatenate([np.tile(np.arange(b.length), b.texts) for b in self.buckets]))

    @cached_property
    def last_rows(self) -> mx.array:
        """The row of each text's last token: (B,)."""
        ends = [b.start + b.length * np.arange(1, b.texts + 1) - 1 for b in self.buckets]
        return mx.array(np.concatenate(ends))

    @cached_property
    def first_rows(self) -> mx.array:
        """The row of each text's first token: (B,)."""
        return mx.array(self.starts)

    @property
    def starts(self) -> npt.NDArray[np.intp]:
        """The row of each text's first token: (B,)."""
        return np.concatenate([b.start + b.length * np.arange(b.texts) for b in self.buckets])


@dataclass(frozen=True)
class Batch:
    """Token ids of texts laid end to end, longest first. `order[i]` is the input position of the i-th text."""

    ids: Ids
    ragged: Ragged
    order: npt.NDArray[np.intp]


def flatten(texts: Sequence[Ids], order: npt.NDArray[np.intp]) -> Batch:
    """One batch of the texts named by `order`, whose equal lengths must be neighbours."""
    buckets = []
    start = 0
    for length, group in groupby(len(texts[i]) for i in order):
        bucket = Bucket(start, sum(1 for _ in group), length)
        buckets.append(bucket)
        start = bucket.stop
    return Batch(np.concatenate([texts[i] for i in order]), Ragged(tuple(buckets)), order)


def batches(texts: Sequence[Ids], batch_tokens: int) -> Iterator[Batch]:
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
