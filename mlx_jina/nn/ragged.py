"""Batches without padding: texts lie end to end in one flat row of tokens.

Every linear layer and norm sees `(T, D)`, so no token is computed in vain. Only attention and pooling look at
texts, as buckets of equal length `(b, L, ...)`. A call of attention for each length would leave a GPU idle, so
there texts of similar lengths are padded to one, in attention and pooling alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_jina import device

Ids = npt.NDArray[np.int32]
Positions = npt.NDArray[np.intp]
"""Of tokens in a text or in a batch."""

# Texts of up to so many tokens are padded; a longer one keeps a GPU busy by itself.
PADDED = 256
# For each new shape of attention cuDNN plans for 0.15 s (measured on an H200), and MLX keeps 256 plans
# (mlx/backend/cuda/scaled_dot_product_attention.cpp). So on CUDA shapes are to be few.
PADDED_WHERE_PLANNED = 1024


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
    always_padded: bool = False
    """Whether a GPU pads also texts of one length, so that a text alone runs the same kernels as with others."""

    @cached_property
    def padded(self) -> Padded | None:
        """How a GPU pads the texts; None on a CPU, for texts of one length, and for long texts only."""
        if not device.on_gpu() or (len(self.buckets) == 1 and not self.always_padded):
            return None
        plans = device.backend() == "cuda"
        most = PADDED_WHERE_PLANNED if plans else PADDED
        if all(bucket.length > most for bucket in self.buckets):
            return None
        return Padded(self.buckets, most, fewer_counts=plans)

    @property
    def calls(self) -> tuple[Bucket, ...]:
        """The texts of each call of attention: buckets of the padded row, or of the flat one."""
        return self.buckets if self.padded is None else self.padded.calls

    def hidden(self, dtype: mx.Dtype) -> tuple[mx.array | None, ...]:
        """For each call what to add to scores, 0 or -inf for each key: (b, 1, 1, L), or None for nothing."""
        return (None,) * len(self.buckets) if self.padded is None else self.padded.hidden(dtype)

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


class Padded:
    """The flat row's texts, padded to lengths of a grid, so that similar lengths share a call of attention.

    What a text is padded to depends on its own length alone. Its last token stands for what follows the text,
    since that token is finite if the text is. Axes: P tokens and C texts of the padded row, T and B of the flat.
    """

    def __init__(self, buckets: Sequence[Bucket], most: int, *, fewer_counts: bool) -> None:
        """Pad texts of up to `most` tokens; `fewer_counts` repeats a call's last text up to a round number."""
        counts = [bucket.texts for bucket in buckets]
        lengths = np.repeat([bucket.length for bucket in buckets], counts)
        unseen = np.repeat([bucket.unseen for bucket in buckets], counts)
        widths = np.repeat([_padded(b.length) if b.length <= most else b.length for b in buckets], counts)
        starts = np.cumsum(lengths) - lengths
        calls, texts, start = [], [], 0
        for width in np.unique(widths).tolist():
            own = np.flatnonzero(widths == width)
            if fewer_counts:
                own = np.pad(own, (0, _in_eighths(len(own)) - len(own)), mode="edge")
            calls.append(Bucket(start, len(own), width))
            texts.append(own)
            start = calls[-1].stop
        self.calls = tuple(calls)
        """The texts of each call, as buckets of the padded row."""
        row = np.concatenate(texts)
        first_row = np.empty(len(lengths), dtype=np.intp)
        # Where a text comes more than once, the first one counts.
        first_row[row[::-1]] = np.arange(len(row))[::-1]
        padded_starts = np.cumsum(widths[row]) - widths[row]

        def for_tokens(of_texts: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
            return np.repeat(of_texts[row], widths[row])

        places = np.arange(start) - np.repeat(padded_starts, widths[row])
        self._seen = places < for_tokens(lengths - unseen)
        self._shares = np.where(places < for_tokens(lengths), 1 / for_tokens(lengths), 0).astype(np.float32)
        self.tokens = _indices(for_tokens(starts) + np.minimum(places, for_tokens(lengths) - 1))
        """The token in each place of the padded row: (P,)."""
        self.of_tokens = _indices(np.repeat(padded_starts[first_row] - starts, lengths) + np.arange(lengths.sum()))
        """Each token's place in the padded row: (T,)."""
        self.texts = _indices(row)
        """The text in each place of the padded row: (C,)."""
        self.of_texts = _indices(first_row)
        """Each text's place in the padded row: (B,)."""
        self._most = most
        self._hidden: dict[mx.Dtype, tuple[mx.array | None, ...]] = {}

    def hidden(self, dtype: mx.Dtype) -> tuple[mx.array | None, ...]:
        """For each call what hides keys: 0 or -inf (b, 1, 1, L), or b is 1 if all are seen; None if not padded."""
        if dtype not in self._hidden:
            row = mx.array(np.where(self._seen, 0, -np.inf).astype(np.float32)).astype(dtype)
            self._hidden[dtype] = tuple(self._hiding(row, call) for call in self.calls)
        return self._hidden[dtype]

    def _hiding(self, row: mx.array, call: Bucket) -> mx.array | None:
        if not self._seen[call.start : call.stop].all():
            return row[call.start : call.stop].reshape(call.texts, 1, 1, call.length)
        # By the same kernels as if a neighbour were shorter.
        return None if call.length > self._most else mx.zeros((1, 1, 1, call.length), row.dtype)

    @cached_property
    def shares(self) -> mx.array:
        """What each place of the padded row counts in its text's mean: (P, 1) in float32."""
        return mx.array(self._shares)[:, None]


def _indices(of: npt.NDArray[np.intp]) -> mx.array:
    return mx.array(of.astype(np.int32))


def _padded(length: int) -> int:
    """The length that a text is padded to: multiples of 8 from 16 to 64, then in eighths of a power of two."""
    return max(16, -(-_in_eighths(length) // 8) * 8)


def _in_eighths(number: int) -> int:
    """The number, rounded up to an eighth of the next power of two."""
    step = 1 << max(0, (number - 1).bit_length() - 3)
    return -(-number // step) * step


@dataclass(frozen=True)
class Batch:
    """Token ids of texts laid end to end, longest first. `order[i]` is the input position of the i-th text."""

    ids: Ids
    ragged: Ragged
    order: npt.NDArray[np.intp]


def neighbours(lengths: Iterable[int]) -> tuple[Bucket, ...]:
    """Texts that lie end to end, of these lengths: neighbours of equal length share a bucket."""
    buckets: list[Bucket] = []
    start = 0
    for length, group in groupby(lengths):
        buckets.append(Bucket(start, sum(1 for _ in group), length))
        start = buckets[-1].stop
    return tuple(buckets)


def flatten(texts: Sequence[Ids], order: npt.NDArray[np.intp]) -> Batch:
    """One batch of the texts named by `order`, whose equal lengths must be neighbours."""
    buckets = neighbours(len(texts[i]) for i in order)
    return Batch(np.concatenate([texts[i] for i in order]), Ragged(buckets), order)


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
