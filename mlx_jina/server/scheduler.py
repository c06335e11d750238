"""Texts of many requests to batches for one model's worker, and each vector back to its own request.

A batch is whatever waits when the worker is free, soonest due first. A text is due at its request's arrival
plus a millisecond for each token of its own and of the request's shorter texts: a query overtakes long texts
and the rest of a bulk, and nothing waits for ever. While a long text computes, short ones that arrive get a
turn at every point where it evaluates a piece (memory.py).
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from mlx_jina import batching, device, lanes, late, memory, pipeline
from mlx_jina.errors import NumericalError
from mlx_jina.pipeline import Pipeline, Plan, Pool
from mlx_jina.tokens import Ids
from mlx_jina.vectors import Floats, Vectors

logger = logging.getLogger(__name__)

SECONDS_PER_TOKEN = 1e-3
# Longer texts only run in batches of their own kind; what comes in between one's pieces is no larger than this.
SHORT = 1024
# Characters of a request that is tokenised on the event loop: less work than handing it over.
SMALL = 1 << 11
# Characters of a request whose tokenisation others need not wait for.
LARGE = 1 << 16
# How long a batch waits for requests that are being tokenised, and for the clients that were just answered.
GATHER_SECONDS = 0.005
# Tokens from which a batch gains little by more of them.
ENOUGH = 1024


class BatchError(RuntimeError):
    """MLX failed on a request's texts, also without those of other requests."""


class _Abandoned(Exception):
    """Nobody waits for this forward pass any more."""


@dataclass(frozen=True)
class Encoded:
    """One request's vectors (N, D), the tokens of each text as embedded, and how many texts were cut."""

    vectors: Vectors
    tokens: list[int]
    truncated: int


class _Job:
    """One request's texts, on their way through three threads: event loop, tokenising, worker."""

    def __init__(self, plan: Plan, answer: asyncio.Future[Encoded]) -> None:
        self.plan = plan
        self.answer = answer
        self.gone = False
        self.ids: list[Ids] = []
        """What is run: the texts, or the windows of the document that they make (`late_chunking`)."""
        self.windows: late.Windows | None = None
        self.truncated = 0
        self.rows: dict[int, Floats] = {}
        """What came of each of `ids`: one row, or one for each chunk in a window."""

    def tokenize(self, road: Pipeline, texts: Sequence[str], late_chunking: bool) -> None:
        """Fill `ids`. Raises InputError."""
        if late_chunking and texts:
            self.windows = late.joined_windows(road, texts, self.plan)
            self.ids = self.windows.ids
        else:
            self.ids, self.truncated = road.cut(road.tokenize(list(enumerate(texts)), self.plan), self.plan)

    def pool(self, index: int) -> Pool:
        return self.windows.pool(index) if self.windows else pipeline.whole

    def finished(self) -> Encoded:
        """On the worker, when all `rows` are there. Raises NumericalError."""
        pooled = self._pooled()
        if not pipeline.usable(pooled, self.plan).all():
            for index, rows in self.rows.items():
                if not pipeline.usable(rows, self.plan).all():
                    self.rows[index] = pipeline.retry(self.plan, self.pool(index), [self.ids[index]], 0, index)
            pooled = self._pooled()
        tokens = [len(ids) for ids in self.ids]
        if self.windows:
            pooled, tokens = self.windows.chunks(pooled), self.windows.tokens
        return Encoded(pipeline.finish(pooled, self.plan), tokens, self.truncated)

    def _pooled(self) -> Floats:
        none: Floats = np.empty((0, self.plan.model.dimension), dtype=np.float32)
        return np.concatenate([none, *(self.rows[index] for index in range(len(self.ids)))])


@dataclass(frozen=True, order=True)
class _Text:
    """One text of a job, in the order in which texts are due."""

    due: float
    serial: int
    job: _Job
    index: int

    @property
    def ids(self) -> Ids:
        return self.job.ids[self.index]


class _Queue:
    """Texts for one of the model's tasks: short ones, which share batches, and those that run alone."""

    def __init__(self) -> None:
        self.short: list[_Text] = []
        self.alone: list[_Text] = []


class Scheduler:
    """Feeds one encoder's worker. `run` belongs to the event loop, everything else to any thread."""

    def __init__(
        self, road: Pipeline, tokenizing: tuple[Executor, Executor], observe: Callable[[int, int, float], None]
    ) -> None:
        """`tokenizing` are threads for small and for large requests; `observe` is told of every batch.

        Of that its texts, its tokens and its seconds.
        """
        self._pipeline = road
        self._small, self._large = tokenizing
        self._observe = observe
        self._changed = threading.Condition()
        self._queues: dict[int, _Queue] = {}
        self._serial = 0
        self._pumping = False
        self._arriving = 0
        # Requests that the last batch answered, and when.
        self._answered = 0
        self._answered_at = 0.0
        self._seconds_per_token = 0.0
        self.waiting_tokens = 0
        """Of all texts whose batch has not started."""
        self.running_tokens = 0
        """Of the batches that compute now."""

    def seconds_ahead(self) -> float:
        """How long what waits now will take, going by the last batches."""
        return self.waiting_tokens * self._seconds_per_token

    async def run(self, texts: Sequence[str], plan: Plan, *, late_chunking: bool = False) -> Encoded:
        """Encode one request's texts. Cancelling drops those that have not started.

        With `late_chunking` they are the chunks of one document, which is not cut: `encode` has the details.
        Raises InputError, NumericalError, BatchError.
        """
        job = _Job(plan, asyncio.get_running_loop().create_future())
        characters = sum(map(len, texts))
        large = characters > LARGE
        with self._changed:
            self._arriving += not large
        if characters <= SMALL:
            self._tokenize(job, texts, late_chunking, large)
        else:
            (self._large if large else self._small).submit(self._tokenize, job, texts, late_chunking, large)
        try:
            return await job.answer
        except asyncio.CancelledError:
            self._drop(job)
            raise

    def _tokenize(self, job: _Job, texts: Sequence[str], late_chunking: bool, large: bool) -> None:
        try:
            if not job.gone:
                job.tokenize(self._pipeline, texts, late_chunking)
                self._add(job)
        except Exception as error:
            self._answer([(job, error)])
        finally:
            with self._changed:
                self._arriving -= not large
                if self._gathered():
                    self._changed.notify()

    def _answer(self, results: Sequence[tuple[_Job, Encoded | Exception]]) -> None:
        """From any thread: wake the event loop once for all of them."""
        # The loop is closed if the process is about to end.
        if results and not (loop := results[0][0].answer.get_loop()).is_closed():
            loop.call_soon_threadsafe(_settle, results)

    # ---- the queue

    def _add(self, job: _Job) -> None:
        if not job.ids:
            self._answer([(job, job.finished())])
            return
        due = time.monotonic()
        with self._changed:
            if job.gone:
                return
            queue = self._queues.setdefault(id(job.plan.model), _Queue())
            for index in sorted(range(len(job.ids)), key=lambda i: len(job.ids[i])):
                tokens = len(job.ids[index])
                due += tokens * SECONDS_PER_TOKEN
                self._serial += 1
                text = _Text(due, self._serial, job, index)
                shares = tokens <= SHORT and job.windows is None
                heapq.heappush(queue.short if shares else queue.alone, text)
                self.waiting_tokens += tokens
            self._pump_later()

    def _drop(self, job: _Job) -> None:
        """A client has gone: what waits is taken out, what computes is computed for nothing."""
        with self._changed:
            job.gone = True
            for queue in self._queues.values():
                for texts in (queue.short, queue.alone):
                    kept = [text for text in texts if text.job is not job]
                    self.waiting_tokens -= sum(len(text.ids) for text in texts if text.job is job)
                    if len(kept) < len(texts):
                        texts[:] = kept
                        heapq.heapify(texts)

    def _pump_later(self) -> None:
        """With the lock held: have the worker take the next batch, if it is not about to."""
        if not self._pumping and any(queue.short or queue.alone for queue in self._queues.values()):
            self._pumping = True
            self._pipeline.worker.submit(self._pump)

    def _next(self, budget: int, short_only: bool) -> list[_Text]:
        """With the lock held: the texts due soonest, all for one task, within a budget of tokens."""
        kinds = [
            (texts, queue)
            for queue in self._queues.values()
            for texts in ((queue.short,) if short_only else (queue.short, queue.alone))
            if texts
        ]
        if not kinds:
            return []
        texts, queue = min(kinds, key=lambda kind: kind[0][0])
        taken = [heapq.heappop(texts)]
        tokens = len(taken[0].ids)
        # Of the others each goes alone: long ones, that nobody short waits for their end, can be interrupted.
        while texts is queue.short and texts and tokens + len(texts[0].ids) <= budget:
            taken.append(heapq.heappop(texts))
            tokens += len(taken[-1].ids)
        self.waiting_tokens -= tokens
        self.running_tokens += tokens
        return taken

    def _gathered(self) -> bool:
        """With the lock held: whether nobody is worth waiting for.

        Clients that ask again as soon as they are answered would otherwise fall into groups, a batch each.
        """
        waiting = sum(len(queue.short) + len(queue.alone) for queue in self._queues.values())
        return self.waiting_tokens >= ENOUGH or (not self._arriving and waiting >= self._answered)

    # ---- on the worker

    def _pump(self) -> None:
        """Run one batch, then queue up again, so that the worker's other jobs get their turn."""
        with self._changed:
            since = time.monotonic() if self._arriving else self._answered_at
            self._changed.wait_for(self._gathered, max(since + GATHER_SECONDS - time.monotonic(), 0))
            taken = self._next(device.default_batch_tokens(), short_only=False)
        try:
            self._run(taken, interruptible=True)
        finally:
            with self._changed:
                self.running_tokens = 0
                self._pumping = False
                self._pump_later()

    def _turn(self, running: Sequence[_Text]) -> None:
        """Between two pieces of a long text: one small batch of short ones, unless its client has gone."""
        if all(text.job.gone for text in running):
            raise _Abandoned
        with self._changed:
            taken = self._next(SHORT, short_only=True)
        self._run(taken, interruptible=False)

    def _run(self, taken: Sequence[_Text], interruptible: bool) -> None:
        if not taken:
            return
        ids = [text.ids for text in taken]
        batch = batching.flatten(ids, np.argsort([-len(text) for text in ids], kind="stable"))
        model, pool = taken[0].job.plan.model, taken[0].job.pool(taken[0].index)
        # What comes in between needs all lanes, of which a long text takes but one.
        interruptible = interruptible and len(ids[0]) > SHORT
        started = time.perf_counter()
        try:
            with memory.giving_way((lambda: self._turn(taken)) if interruptible else None):
                shares = lanes.run(lambda share: pipeline.evaluated(pool(model, share)), batch)
        except _Abandoned:
            return
        except Exception as error:
            self._failed(taken, error, interruptible)
            return
        seconds = time.perf_counter() - started
        self._observe(len(taken), len(batch.ids), seconds)
        self._seconds_per_token += 0.1 * (seconds / len(batch.ids) - self._seconds_per_token)
        finished: list[tuple[_Job, Encoded | Exception]] = []
        for share, pooled in shares:
            texts = pooled.reshape(len(share.order), -1, pooled.shape[1])
            for i, rows in zip(share.order.tolist(), texts, strict=True):
                finished += self._deliver(taken[i], rows)
        self._answered, self._answered_at = len(finished), time.monotonic()
        self._answer(finished)

    def _failed(self, taken: Sequence[_Text], error: Exception, interruptible: bool) -> None:
        """Nobody's answer fails for another request's text: each request is run by itself."""
        jobs = list(dict.fromkeys(text.job for text in taken))
        if len(jobs) > 1:
            for job in jobs:
                self._run([text for text in taken if text.job is job], interruptible)
            return
        # Its words might quote what they were computed from.
        where = "".join(traceback.format_tb(error.__traceback__))
        logger.error("a forward pass failed with %s\n%s", type(error).__name__, where)
        self._drop(jobs[0])
        self._answer([(jobs[0], BatchError(f"the forward pass failed: {type(error).__name__}"))])

    def _deliver(self, text: _Text, rows: Floats) -> list[tuple[_Job, Encoded | Exception]]:
        """The text's request and its answer, if that was the last text that it waited for."""
        job = text.job
        job.rows[text.index] = rows
        if len(job.rows) < len(job.ids) or job.gone:
            return []
        try:
            return [(job, job.finished())]
        except NumericalError as error:
            return [(job, error)]


def _settle(results: Sequence[tuple[_Job, Encoded | Exception]]) -> None:
    """On the event loop."""
    for job, result in results:
        if job.answer.done():
            continue
        if isinstance(result, Exception):
            job.answer.set_exception(result)
        else:
            job.answer.set_result(result)
