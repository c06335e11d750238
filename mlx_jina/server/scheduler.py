"""Put texts of many requests into batches for one model's thread, and give each vector back to its own request.

When the thread is free, the texts that wait form a batch, soonest due first. A text is due at its request's
arrival plus a millisecond for each token of the text and of the request's shorter texts. So a query overtakes long
texts and the rest of a bulk, and no text waits for ever. While a long text computes, short texts that arrive get a
turn after each of its pieces (nn/pieces.py).
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
from itertools import islice

import numpy as np

from mlx_jina.engine.pipeline import Pipeline
from mlx_jina.engine.plan import Plan
from mlx_jina.nn import pieces, ragged
from mlx_jina.server.jobs import Encoded, Job, Result, finished
from mlx_jina.text.tokenizer import Ids

logger = logging.getLogger(__name__)

SECONDS_PER_TOKEN = 1e-3
# Tokens of a short text, and of a batch between two pieces of a long text; long texts run alone.
SHORT = 1024
# Up to this many characters, requests that arrived together are tokenised on the event loop: a thread would take
# longer.
SMALL = 1 << 11
# Requests of more characters are tokenised in a thread of their own, so that others need not wait.
LARGE = 1 << 16
# How long a batch waits for requests that are being tokenised, and for the clients that were just answered.
GATHER_SECONDS = 0.005
# Tokens of a batch that hardly gets faster per token by waiting for more.
ENOUGH = 1024


class BatchError(RuntimeError):
    """MLX failed on a request's texts, also without those of other requests."""


class _Abandoned(Exception):
    """Nobody waits for this forward pass any more."""


@dataclass(frozen=True, order=True)
class _Text:
    """One text of a job, in the order in which texts are due."""

    due: float
    serial: int
    job: Job
    index: int

    @property
    def ids(self) -> Ids:
        return self.job.ids[self.index]


class _Queue:
    """Waiting texts for one of the model's tasks: short texts, which share batches, and texts that run alone."""

    def __init__(self) -> None:
        self.short: list[_Text] = []
        self.alone: list[_Text] = []


class Scheduler:
    """Feeds one encoder's thread. `run` belongs to the event loop, everything else to any thread."""

    def __init__(
        self, road: Pipeline, tokenizing: tuple[Executor, Executor], observe: Callable[[int, int, float], None]
    ) -> None:
        """`tokenizing` are threads for small and for large requests.

        After every batch `observe` is called with the number of its texts, its tokens and its seconds.
        """
        self._pipeline = road
        self._small, self._large = tokenizing
        self._observe = observe
        self._changed = threading.Condition()
        self._queues: dict[int, _Queue] = {}
        self._serial = 0
        self._pumping = False
        # Requests that are not tokenised yet: their number, and those that arrived in this turn of the event loop.
        self._arriving = 0
        self._arrived: list[Job] = []
        # How many clients of the last batch have not asked again yet, and when they were answered.
        self._returning = 0
        self._answered_at = 0.0
        self._seconds_per_token = 0.0
        self.waiting_tokens = 0
        """Tokens of all texts whose batch has not started."""
        self.running_tokens = 0
        """Tokens of the batches that compute now."""

    def seconds_ahead(self) -> float:
        """How long the waiting texts will take, at the speed of the last batches."""
        return self.waiting_tokens * self._seconds_per_token

    async def run(self, texts: Sequence[str], plan: Plan, *, late_chunking: bool = False) -> Encoded:
        """Encode one request's texts. Cancelling drops the texts that have not started.

        With `late_chunking` the texts are the chunks of one document, which is not cut (see `Encoder.encode`).
        Raises InputError, NumericalError, BatchError.
        """
        loop = asyncio.get_running_loop()
        job = Job(texts, plan, late_chunking, loop.create_future())
        if job.characters > LARGE:
            self._large.submit(self._tokenize, [job])
        else:
            with self._changed:
                self._arriving += 1
            self._arrived.append(job)
            if len(self._arrived) == 1:
                # Runs after the other requests that arrived in this turn of the event loop.
                loop.call_soon(self._tokenize_arrived)
        try:
            return await job.answer
        except asyncio.CancelledError:
            self._drop(job)
            raise

    def _tokenize_arrived(self) -> None:
        """On the event loop."""
        jobs, self._arrived = self._arrived, []
        if sum(job.characters for job in jobs) <= SMALL:
            self._tokenize(jobs)
        else:
            self._small.submit(self._tokenize, jobs)

    def _tokenize(self, jobs: Sequence[Job]) -> None:
        """On any thread: tokenise the texts of all jobs in one call, which uses all cores."""
        here = [job for job in jobs if not job.gone]
        failed: list[Result] = []
        prompted = [job.prompted for job in here]
        longest = max((job.plan.max_length for job in here), default=0)
        try:
            texts = [text for texts in prompted for text in texts]
            ids = iter(self._pipeline.tokenizer.encode(texts, max_length=longest))
        except Exception:
            # Each job is then tokenised alone, which shows the job whose text is to blame.
            ids = None
        for job, own in zip(here, prompted, strict=True):
            try:
                job.tokenize(self._pipeline, None if ids is None else list(islice(ids, len(own))))
                self._add(job)
            except Exception as error:
                failed.append((job, error))
        self._answer(failed)
        with self._changed:
            self._arriving -= sum(job.characters <= LARGE for job in jobs)
            if self._gathered():
                self._changed.notify()

    def _answer(self, results: Sequence[Result], *, batch: bool = False) -> None:
        """From any thread: hand results to the event loop, all at once. `batch`: they are those of a batch."""
        # The loop is closed if the process is about to end.
        if results and not (loop := results[0][0].answer.get_loop()).is_closed():
            loop.call_soon_threadsafe(self._settle, results, batch)

    def _settle(self, results: Sequence[Result], batch: bool) -> None:
        """On the event loop."""
        for job, result in results:
            if job.answer.done():
                continue
            if isinstance(result, Exception):
                job.answer.set_exception(result)
            else:
                job.answer.set_result(result)
        # Other answers, such as refusals, do not tell which clients will ask again.
        if batch:
            # Answers are sent two turns of the event loop later: the handler runs first, then the task that awaits
            # it.
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._sent)

    def _sent(self) -> None:
        with self._changed:
            self._answered_at = time.monotonic()

    # ---- the queue

    def _add(self, job: Job) -> None:
        if not job.ids:
            self._answer(finished([job]))
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
            self._returning -= self._returning > 0
            self._pump_later()

    def _drop(self, job: Job) -> None:
        """Take out the waiting texts of a client that has gone; texts that compute already go on for nothing."""
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
        """With the lock held: have the thread take the next batch, unless it is about to do so."""
        if not self._pumping and any(queue.short or queue.alone for queue in self._queues.values()):
            self._pumping = True
            self._pipeline.thread.submit(self._pump)

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
        # Every other text runs alone; a long text can then be interrupted, so that no short text waits for its
        # end.
        while texts is queue.short and texts and tokens + len(texts[0].ids) <= budget:
            taken.append(heapq.heappop(texts))
            tokens += len(taken[-1].ids)
        self.waiting_tokens -= tokens
        self.running_tokens += tokens
        return taken

    def _gathered(self) -> bool:
        """With the lock held: whether the batch should start now instead of waiting for more texts.

        Without a wait, clients that ask again as soon as they are answered fall into groups with a batch each.
        """
        return self.waiting_tokens >= ENOUGH or not (self._arriving or self._returning)

    # ---- on the model's thread

    def _pump(self) -> None:
        """Run one batch, then queue up again, so that the thread's other jobs get their turn."""
        with self._changed:
            started = time.monotonic()
            while not self._gathered():
                since = max(started if self._arriving else 0, self._answered_at)
                if (left := since + GATHER_SECONDS - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            taken = self._next(self._pipeline.batch_tokens, short_only=False)
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
        batch = ragged.flatten(ids, np.argsort([-len(text) for text in ids], kind="stable"))
        plan, pool = taken[0].job.plan, taken[0].job.pool(taken[0].index)
        # What comes in between needs all lanes, of which a long text takes but one.
        interruptible = interruptible and len(ids[0]) > SHORT
        started = time.perf_counter()
        try:
            with pieces.interruptible((lambda: self._turn(taken)) if interruptible else None):
                shares = self._pipeline.compute(plan, pool, batch)
            seconds = time.perf_counter() - started
            for share, pooled in shares:
                texts = pooled.reshape(len(share.order), -1, pooled.shape[1])
                for i, rows in zip(share.order.tolist(), texts, strict=True):
                    taken[i].job.rows[taken[i].index] = rows
            jobs = dict.fromkeys(text.job for text in taken)
            answers = finished([job for job in jobs if len(job.rows) == len(job.ids) and not job.gone])
        except _Abandoned:
            return
        except Exception as error:
            self._failed(taken, error, interruptible)
            return
        self._observe(len(taken), len(batch.ids), seconds)
        self._seconds_per_token += 0.1 * (seconds / len(batch.ids) - self._seconds_per_token)
        with self._changed:
            self._returning, self._answered_at = len(answers), time.monotonic()
        self._answer(answers, batch=True)

    def _failed(self, taken: Sequence[_Text], error: Exception, interruptible: bool) -> None:
        """Run each request of a failed batch alone, so that no answer fails for another request's text."""
        jobs = list(dict.fromkeys(text.job for text in taken))
        if len(jobs) > 1:
            for job in jobs:
                self._run([text for text in taken if text.job is job], interruptible)
            return
        # The error's words are not logged, because they might quote a text.
        where = "".join(traceback.format_tb(error.__traceback__))
        logger.error("a forward pass failed with %s\n%s", type(error).__name__, where)
        self._drop(jobs[0])
        self._answer([(jobs[0], BatchError(f"the forward pass failed: {type(error).__name__}"))])
