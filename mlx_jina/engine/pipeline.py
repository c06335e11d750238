"""Texts to vectors, window by window: tokenised ahead, batched, run on the model's thread, checked, finished."""

from __future__ import annotations

import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import TypeVar

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from mlx_jina import device, vectors
from mlx_jina.engine import cores
from mlx_jina.engine.plan import Plan
from mlx_jina.engine.thread import ModelThread
from mlx_jina.errors import CheckpointError, InputError, NumericalError, TooLongError, TruncationWarning
from mlx_jina.models.base import EncoderModel
from mlx_jina.nn import pieces, ragged
from mlx_jina.nn.compiled import CompiledByShape
from mlx_jina.nn.ragged import Batch, Ragged
from mlx_jina.text.tokenizer import Ids, Offsets, Tokenizer
from mlx_jina.vectors import Floats, Vectors

# Texts that are tokenised, sorted and encoded together; the next ones are tokenised meanwhile.
WINDOW_TEXTS = 4096
# A window also closes at this many characters: a block of long documents should not take minutes.
WINDOW_CHARACTERS = 1 << 20
# Forward passes queued on the model's thread: one runs, one waits.
QUEUED = 2

# Pieces of a long text are no smaller than this, however small the batches that are asked for.
FEWEST_PIECE_TOKENS = 1024
# A single text of at most this many tokens, such as a query, is short: on a GPU it runs a compiled graph, which is
# kept for so many lengths.
SHORT, SHORT_LENGTHS = 128, 64

Item = tuple[int, str]
T = TypeVar("T")
V = TypeVar("V")
# What becomes of a batch's tokens, on the thread: rows for each text, in the batch's order.
Pool = Callable[[EncoderModel, Batch], mx.array]


def whole(model: EncoderModel, batch: Batch) -> mx.array:
    """One row per text: the model's own pooling."""
    return model(mx.array(batch.ids), batch.ragged)


class Pipeline:
    """The road that every text goes down, for one tokenizer and the thread of its models."""

    def __init__(self, tokenizer: Tokenizer, thread: ModelThread, batch_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.thread = thread
        self.batch_tokens = batch_tokens
        """Tokens of a batch, where a call does not say how many."""
        self._compiled: dict[int, CompiledByShape[Ragged]] = {}

    def windows(
        self,
        items: Iterable[Item],
        plan: Plan,
        advance: Callable[[int], object],
        shortened: Callable[[int], object] = int,
    ) -> Iterator[tuple[list[int], Vectors]]:
        """Positions and vectors of each window, in order; the next is tokenised while one computes.

        `items` are positions and texts, `advance` is told how many texts are done, `shortened` which were cut.
        Errors name positions.
        """
        cut = 0
        for positions, ids in ahead(items, partial(self.tokenize, plan=plan)):
            for position, text in zip(positions, ids, strict=True):
                if len(text) > plan.max_length:
                    shortened(position)
            ids, too_long = self.cut(ids, plan)
            cut += too_long
            pooled = self.forward(ids, positions, plan, lambda texts: advance(len(texts)))
            yield positions, finish(pooled, plan)
        warn_of_cut(cut, plan)

    def tokenize(self, window: Sequence[Item], plan: Plan) -> list[Ids]:
        """Ids of texts with the plan's prefix, uncut. Raises InputError, TooLongError if they may not be cut."""
        positions, texts = prompted(window, plan)
        ids = self.tokenizer.encode(texts, positions, plan.max_length)
        for position, text in zip(positions, ids, strict=True):
            check_length(text, position, plan)
        return ids

    def cut(self, ids: Sequence[Ids], plan: Plan) -> tuple[list[Ids], int]:
        """Ids of texts at the plan's length at most, and how many were longer."""
        too_long = sum(len(text) > plan.max_length for text in ids)
        return [self.tokenizer.truncate(text, plan.max_length) for text in ids], too_long

    def forward(
        self,
        ids: Sequence[Ids],
        positions: Sequence[int],
        plan: Plan,
        done: Callable[[Sequence[int]], object],
        pool: Pool = whole,
        counts: Sequence[int] | None = None,
    ) -> Floats:
        """What `pool` makes of each text's tokens, checked: NaN, infinity and zero never leave.

        One row per text, or as many as `counts` says: (N, D), in the order of the texts. `done` is told the
        indices of texts as they are finished.
        """
        starts = np.concatenate([[0], np.cumsum(counts if counts is not None else [1] * len(ids))])
        pooled = np.empty((starts[-1], plan.model.dimension), dtype=np.float32)
        started: list[tuple[Batch, mx.array]] = []
        queue: deque[Future[list[tuple[Batch, Floats]]]] = deque()

        def rows_of(texts: Iterable[int]) -> npt.NDArray[np.intp]:
            return np.concatenate([np.arange(starts[i], starts[i + 1]) for i in texts])

        def collect() -> None:
            for batch, rows in queue.popleft().result():
                pooled[rows_of(batch.order)] = rows
                done(batch.order.tolist())

        try:
            for batch in (*ragged.batches(ids, plan.batch_tokens), None):
                check_ids(batch, plan.model)
                queue.append(self.thread.submit(self._step, plan, pool, started, batch))
                if len(queue) == QUEUED:
                    collect()
            while queue:
                collect()
        finally:
            for future in queue:
                future.cancel()
        unusable = np.flatnonzero(~usable(pooled, plan))
        for index in np.unique(np.searchsorted(starts, unusable, side="right") - 1).tolist():
            pooled[rows_of([index])] = self.thread.run(retry, plan, pool, ids, index, positions[index])
        return pooled

    def one(self, text: str, plan: Plan) -> Vectors:
        """The vector of one text: (1, D). Without what many texts need: windows, order, a queue."""
        ids, too_long = self.cut(self.tokenize([(0, text)], plan), plan)
        warn_of_cut(too_long, plan)
        batch = ragged.flatten(ids, np.zeros(1, dtype=np.intp))
        check_ids(batch, plan.model)
        pooled = self.thread.run(self.compute, plan, whole, batch)[0][1]
        if not usable(pooled, plan).all():
            pooled = self.thread.run(retry, plan, whole, ids, 0, 0)
        return finish(pooled, plan)

    def compute(self, plan: Plan, pool: Pool, batch: Batch) -> list[tuple[Batch, Floats]]:
        """On the thread: what `pool` makes of a batch, or of its shares, one for each of a CPU's cores."""
        short = len(batch.order) == 1 and len(batch.ids) <= SHORT
        with pieces.at_most(piece_tokens(plan)):
            if device.on_gpu():
                pool = self._compiled_whole if short and pool is whole else pool
                return [(batch, evaluated(pool(plan.model, batch)))]
            with pieces.started() if short else nullcontext():
                return cores.run(lambda share: evaluated(pool(plan.model, share)), batch)

    def _step(
        self, plan: Plan, pool: Pool, started: list[tuple[Batch, mx.array]], batch: Batch | None
    ) -> list[tuple[Batch, Floats]]:
        """On the thread: run a batch on a CPU's cores; on a GPU start the batch, and return the previous one.

        None stands for the end. Returns batches, which may be shares of the one given, and what `pool` made of
        them.
        """
        if not device.on_gpu():
            return [] if batch is None else self.compute(plan, pool, batch)
        previous = [started.pop()] if started else []
        if batch is not None:
            with pieces.at_most(piece_tokens(plan)):
                started.append((batch, pool(plan.model, batch)))
            mx.async_eval(started[-1][1])
        return [(share, evaluated(rows)) for share, rows in previous]

    def _compiled_whole(self, model: EncoderModel, batch: Batch) -> mx.array:
        """`whole`, compiled once a text's length has come a second time.

        Not on a CPU, where MLX compiles by the system's C++ compiler, for many seconds.
        """
        if id(model) not in self._compiled:
            self._compiled[id(model)] = CompiledByShape(model, SHORT_LENGTHS)
        return self._compiled[id(model)](mx.array(batch.ids), batch.ragged)


def ahead(
    items: Iterable[tuple[int, V]],
    prepare: Callable[[Sequence[tuple[int, V]]], T],
    cut: Callable[[Iterable[tuple[int, V]]], Iterator[list[tuple[int, V]]]] | None = None,
) -> Iterator[tuple[list[int], T]]:
    """The positions in each window of items and what `prepare` makes of it, a window ahead, in a thread.

    `cut` makes the windows, by default those of texts. The first one is prepared here, since nothing computes yet:
    one query is not worth a thread.
    """
    windows = (cut or cut_windows)(items)
    if (window := next(windows, None)) is None:
        return
    prepared = prepare(window)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlx-jina-tokens") as executor:
        for following in windows:
            future = executor.submit(prepare, following)
            yield [position for position, _ in window], prepared
            window, prepared = following, future.result()
        yield [position for position, _ in window], prepared


def progress(total: int, show: bool | None) -> tqdm:
    """A bar of texts; `show` is what `Encoder.encode` calls `show_progress_bar`."""
    delay, disable = (2, None) if show is None else (0, not show)
    if sys.stderr is None:
        # As in packaged programs, which have no standard streams.
        disable = True
    return tqdm(total=total, desc="Encoding", unit=" texts", delay=delay, disable=disable)


def longest_first(texts: Sequence[str]) -> Iterator[Item]:
    """Positions and texts: windows of similar lengths waste nothing. Characters stand in for tokens."""
    return ((i, texts[i]) for i in sorted(range(len(texts)), key=lambda i: -len(str(texts[i]))))


def prompted(window: Sequence[Item], plan: Plan) -> tuple[list[int], list[str]]:
    """The positions in a window, and its texts with the plan's prompt in front."""
    positions = [position for position, _ in window]
    # What is no text is refused when it is tokenised.
    return positions, [plan.prefix + text if isinstance(text, str) else text for _, text in window]


def own_characters(offsets: Offsets, plan: Plan) -> Offsets:
    """Characters of tokens counted from the start of the text, without the prompt in front of it."""
    return np.maximum(offsets - len(plan.prefix), 0)


def check_length(ids: Ids, position: int, plan: Plan) -> None:
    """Raise for a text without tokens, or with more than it may have."""
    if not len(ids):
        raise InputError("is empty, and this model adds no token of its own", position=position)
    if len(ids) > plan.max_length and not plan.truncate:
        raise TooLongError(
            f"has {len(ids)} tokens, more than max_length={plan.max_length}; truncate=True cuts it",
            position=position,
        )


def check_ids(batch: Batch | None, model: EncoderModel) -> None:
    """Raise for a token without a row in the model's table: MLX would read whatever lies behind it."""
    if batch is not None and (highest := int(batch.ids.max(initial=0))) >= model.vocab_size:
        raise CheckpointError(
            f"the tokenizer gives the id {highest}, but the model has weights for {model.vocab_size} tokens only; "
            "its tokenizer.json is another model's, or tokens were added to it alone"
        )


def warn_of_cut(texts: int, plan: Plan) -> None:
    """Warn once for all texts that were cut."""
    if texts:
        warnings.warn(TruncationWarning(texts, plan.max_length), stacklevel=4)


def piece_tokens(plan: Plan) -> int:
    """From how many tokens on a text is computed in pieces, for the sake of memory."""
    return max(plan.batch_tokens, FEWEST_PIECE_TOKENS)


def evaluated(rows: mx.array) -> Floats:
    """As NumPy, computed by `mx.eval`, which lets other threads run meanwhile; np.array alone would not."""
    mx.eval(rows)
    return np.array(rows)


def retry(plan: Plan, pool: Pool, ids: Sequence[Ids], index: int, position: int) -> Floats:
    """On the model's thread: one text alone in float32, for a vector that came out unusable.

    The fault may be a neighbour's: texts that a CPU attends to as one text (nn/attention.py) share their NaN.
    """
    model = plan.model
    stored = model.parameters()
    model.apply(lambda x: x.astype(mx.float32) if mx.issubdtype(x.dtype, mx.floating) else x)
    try:
        pooled: Floats = np.array(pool(model, ragged.flatten(ids, np.array([index]))))
    finally:
        model.update(stored)
    if usable(pooled, plan).all():
        return pooled
    raise NumericalError(
        "has a vector that came out as NaN, infinite or zero, also in float32; the model's weights are probably "
        "damaged",
        position=position,
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


def cut_windows(items: Iterable[tuple[int, V]]) -> Iterator[list[tuple[int, V]]]:
    """Positions and texts in windows of bounded count and size."""
    window: list[tuple[int, V]] = []
    characters = 0
    for item in items:
        window.append(item)
        characters += len(item[1]) if isinstance(item[1], str) else 0
        if len(window) == WINDOW_TEXTS or characters >= WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window
