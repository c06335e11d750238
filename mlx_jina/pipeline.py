"""Texts to vectors, window by window: tokenised ahead, batched, run on the worker, checked, finished."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten

from mlx_jina import batching, device, lanes, vectors
from mlx_jina.batching import Batch
from mlx_jina.errors import InputError, NumericalError, TooLongError, TruncationWarning
from mlx_jina.models import Model
from mlx_jina.tokens import Ids, Tokenizer
from mlx_jina.vectors import Floats, Precision, Vectors
from mlx_jina.worker import Worker

# Texts that are tokenised, sorted and encoded together; the next ones are tokenised meanwhile.
WINDOW_TEXTS = 4096
# A window also closes at this many characters: a block of long documents should not take minutes.
WINDOW_CHARACTERS = 1 << 20
# Forward passes queued on the worker: one runs, one waits.
QUEUED = 2

Item = tuple[int, str]


@dataclass(frozen=True)
class Plan:
    """One call's options, checked."""

    model: Model
    prefix: str
    max_length: int
    truncate: bool
    dimension: int
    normalize: bool
    precision: Precision
    ranges: npt.ArrayLike | None
    batch_tokens: int


class Pipeline:
    """The road that every text goes down, for one tokenizer and the worker that its models run on."""

    def __init__(self, tokenizer: Tokenizer, worker: Worker) -> None:
        self._tokenizer = tokenizer
        self.worker = worker

    def windows(
        self, items: Iterable[Item], plan: Plan, advance: Callable[[int], object]
    ) -> Iterator[tuple[list[int], Vectors]]:
        """Positions and vectors of each window, in order; the next is tokenised while one computes.

        `items` are positions and texts, `advance` is told how many texts are done. Errors name positions.
        """
        cut = 0
        waiting: deque[tuple[list[int], Future[list[Ids]]]] = deque()

        def encoded() -> tuple[list[int], Vectors]:
            nonlocal cut
            positions, tokenized = waiting.popleft()
            ids, too_long = self.cut(tokenized.result(), plan)
            cut += too_long
            return positions, finish(self._forward(ids, positions, plan, advance), plan)

        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlx-jina-tokens") as ahead:
            for window in _cut(items):
                positions = [position for position, _ in window]
                waiting.append((positions, ahead.submit(self.tokenize, window, plan)))
                if len(waiting) > 1:
                    yield encoded()
            while waiting:
                yield encoded()
        if cut:
            noun = "text was" if cut == 1 else "texts were"
            warnings.warn(
                f"{cut} {noun} longer than {plan.max_length} tokens and cut; truncate=False makes it an error",
                TruncationWarning,
                stacklevel=3,
            )

    def tokenize(self, window: Sequence[Item], plan: Plan) -> list[Ids]:
        """Ids of texts with the plan's prefix, uncut. Raises InputError, TooLongError if they may not be cut."""
        positions = [position for position, _ in window]
        texts = [plan.prefix + text if isinstance(text, str) else text for _, text in window]
        ids = self._tokenizer.encode(texts, positions)
        for position, text in zip(positions, ids, strict=True):
            if not len(text):
                raise InputError(f"text {position} is empty, and this model adds no token of its own")
            if len(text) > plan.max_length and not plan.truncate:
                raise TooLongError(
                    f"text {position} has {len(text)} tokens, more than max_length={plan.max_length}; "
                    "truncate=True cuts it"
                )
        return ids

    def cut(self, ids: Sequence[Ids], plan: Plan) -> tuple[list[Ids], int]:
        """Ids of texts at the plan's length at most, and how many were longer."""
        too_long = sum(len(text) > plan.max_length for text in ids)
        return [self._tokenizer.truncate(text, plan.max_length) for text in ids], too_long

    def _forward(
        self, ids: Sequence[Ids], positions: Sequence[int], plan: Plan, advance: Callable[[int], object]
    ) -> Floats:
        """Pooled vectors (N, D) of one window, checked: NaN, infinity and zero never leave."""
        pooled = np.empty((len(ids), plan.model.dimension), dtype=np.float32)
        started: list[tuple[Batch, mx.array]] = []
        queue: deque[Future[list[tuple[Batch, Floats]]]] = deque()

        def collect() -> None:
            for batch, rows in queue.popleft().result():
                pooled[batch.order] = rows
                advance(len(rows))

        try:
            for batch in (*batching.batches(ids, plan.batch_tokens), None):
                queue.append(self.worker.submit(step, plan.model, started, batch))
                if len(queue) == QUEUED:
                    collect()
            while queue:
                collect()
        finally:
            for future in queue:
                future.cancel()
        for index in np.flatnonzero(~usable(pooled, plan)).tolist():
            pooled[index] = self.worker.run(retry, plan, ids[index], positions[index])
        return pooled


def step(model: Model, started: list[tuple[Batch, mx.array]], batch: Batch | None) -> list[tuple[Batch, Floats]]:
    """On the worker: run a batch on a CPU's cores; start it on a GPU, and return the one before.

    None stands for the end. Returns batches, which may be shares of the one given, and their pooled vectors.
    """

    def pooled(share: Batch) -> mx.array:
        return model(mx.array(share.ids), share.runs)

    if not device.on_gpu():
        return [] if batch is None else lanes.run(lambda share: evaluated(pooled(share)), batch)
    previous = [started.pop()] if started else []
    if batch is not None:
        started.append((batch, pooled(batch)))
        mx.async_eval(started[-1][1])
    return [(share, evaluated(rows)) for share, rows in previous]


def evaluated(rows: mx.array) -> Floats:
    """As NumPy, computed by `mx.eval`, which lets other threads run meanwhile; np.array alone would not."""
    mx.eval(rows)
    return np.array(rows)


def retry(plan: Plan, ids: Ids, position: int) -> Floats:
    """On the worker: one text alone in float32, for a vector that came out unusable."""
    model = plan.model
    assert isinstance(model, nn.Module)
    stored = model.parameters()
    dtypes = {x.dtype for x in dict(tree_flatten(stored)).values()}
    if dtypes != {mx.float32}:
        model.apply(lambda x: x.astype(mx.float32) if mx.issubdtype(x.dtype, mx.floating) else x)
        try:
            batch = batching.flatten([ids], np.zeros(1, dtype=np.intp))
            pooled: Floats = np.array(model(mx.array(batch.ids), batch.runs))
        finally:
            model.update(stored)
        if usable(pooled, plan)[0]:
            return pooled[0]
    raise NumericalError(
        f"the vector of text {position} came out as NaN, infinite or zero, also in float32; the model's weights "
        "are probably damaged"
    )


def usable(pooled: Floats, plan: Plan) -> npt.NDArray[np.bool_]:
    """Which rows are finite, and not zero as far as they are kept."""
    lengths = np.linalg.norm(pooled[:, : plan.dimension], axis=-1)
    good: npt.NDArray[np.bool_] = np.isfinite(pooled).all(axis=-1) & (lengths > 0)
    return good


def finish(pooled: Floats, plan: Plan) -> Vectors:
    """Pooled vectors (N, D) cut to the plan's dimension, normalised and quantised."""
    kept = pooled[:, : plan.dimension]
    return vectors.quantize(vectors.normalize(kept) if plan.normalize else kept, plan.precision, plan.ranges)


def _cut(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Positions and texts in windows of bounded count and size."""
    window: list[Item] = []
    characters = 0
    for item in items:
        window.append(item)
        characters += len(item[1]) if isinstance(item[1], str) else 0
        if len(window) == WINDOW_TEXTS or characters >= WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window
