"""One writer of words and one of vectors at a time, that says who it is."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_jina.errors import IndexFileError

Wait = bool | Callable[[str], object]
"""While somebody else has a lock: wait, or not, or wait and tell a function who it is."""


class Busy(Exception):
    """Another process, named in the message, is writing to the index."""


@contextmanager
def writer(file: Path, what: str, wait: Wait) -> Iterator[None]:
    """Hold FILE.what.lock, which the system gives back however a process ends.

    Raises Busy where somebody else has it and `wait` is False, and IndexFileError where nobody can.
    """
    # Never removed: whoever waits for it would hold another file than who comes next.
    try:
        descriptor = os.open(f"{file}.{what}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise IndexFileError(f"{file} cannot be updated: {error.strerror} ({file.name}.{what}.lock)") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = _owner(descriptor)
            if wait is False:
                raise Busy(who) from None
            if callable(wait):
                wait(who)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "since": time.time()}).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _owner(descriptor: int) -> str:
    try:
        owner = json.loads(os.pread(descriptor, 200, 0))
        since = time.strftime("%H:%M", time.localtime(owner["since"]))
        return f"process {owner['pid']}, since {since}"
    # Between taking the lock and saying so, or on a disk that is full.
    except (ValueError, KeyError, TypeError, OverflowError):
        return "another process"
