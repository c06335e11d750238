"""One thread for all of a model's MLX work.

MLX arrays and streams belong to the thread that made them: weights that another thread loaded lazily, or a
graph it left pending, cannot be evaluated here. So a model's every job runs on one thread of its own.

A forked process has none of its parent's threads, MLX's own included, and would wait for them for ever. A call in
such a process raises ForkError instead.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from mlx_jina.errors import ForkError

T = TypeVar("T")

_Jobs = SimpleQueue[tuple["Future[Any]", Callable[..., Any], tuple[Any, ...]]]

# The queues of all threads, and of the threads that wait for the next model.
_all: list[_Jobs] = []
_parked: list[_Jobs] = []
# Whether the threads belong to the process that this one was forked from.
_forked = False


class ModelThread:
    """Runs jobs in order on one thread, which it hands on to the next model when it is garbage-collected.

    No thread ever ends: MLX (0.32) drops Python objects as a thread that used it ends, and aborts the process
    if the interpreter is being torn down by then, which nothing in Python before 3.13 can wait for.
    """

    def __init__(self) -> None:
        _check_process()
        try:
            self._jobs = _parked.pop()
        except IndexError:
            self._jobs = SimpleQueue()
            _all.append(self._jobs)
            threading.Thread(target=_serve, args=(self._jobs,), name="mlx-jina", daemon=True).start()
        weakref.finalize(self, _parked.append, self._jobs).atexit = False

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Queue a job; its result or exception is the future's."""
        _check_process()
        return _submit(self._jobs, function, *arguments)

    def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Queue a job and wait for its result."""
        return self.submit(function, *arguments).result()


def _submit(jobs: _Jobs, function: Callable[..., T], *arguments: Any) -> Future[T]:
    future: Future[T] = Future()
    jobs.put((future, function, arguments))
    return future


def _serve(jobs: _Jobs) -> None:
    while True:
        future, function, arguments = jobs.get()
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)
        # Otherwise the last job's arrays would live until the next job comes.
        del future, function, arguments


def _check_process() -> None:
    if _forked:
        raise ForkError(
            "this process was forked from one that had loaded a model, and MLX's threads were left behind; load "
            "models only after forking, or start processes by 'spawn' (multiprocessing.set_start_method)"
        )


def _after_fork() -> None:
    global _forked
    _forked = _forked or bool(_all)
    _all.clear()


os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _finish() -> None:
    """Wait for all queued jobs, because a job that is cut off inside MLX would abort the process.

    The wait includes jobs of models that are gone already, as after Ctrl-C.
    """
    for jobs in _all:
        _submit(jobs, int).result()
