"""An index that follows its folders: changes as the system reports them, and a whole scan now and then."""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mlx_jina.errors import InputError, MlxJinaError
from mlx_jina.search.changes import Report
from mlx_jina.search.walk import IGNORE_FILES

if TYPE_CHECKING:
    from mlx_jina.search.index import Index
    from mlx_jina.search.lock import Wait
    from mlx_jina.search.model import Progress

INSTALL = "pip install 'mlx-jina[watch]'"
# Milliseconds: how long changes are collected, and how often they are looked for.
_DEBOUNCE, _STEP = 1600, 200
# Seconds between whole scans, which also find what happened while the machine slept.
_SCAN = 600.0
# Seconds between embeddings of a note that somebody is typing.
_TYPING = 5.0


def require() -> None:
    """Raise InputError without watchfiles."""
    if importlib.util.find_spec("watchfiles") is None:
        raise InputError(f"--watch needs watchfiles: {INSTALL}")


def follow(
    index: Index,
    *,
    vectors: bool = True,
    stop: threading.Event | None = None,
    wait: Wait = True,
    progress: Progress | None = None,
) -> Iterator[Report]:
    """A report for every change, until `stop`. Raises InputError without watchfiles.

    Words follow within two seconds, vectors every five at most: who types gives rise to many changes. `wait` and
    `progress` as in `Index.sync`; what `progress` raises ends it.
    """
    require()
    from watchfiles import watch

    folders = index.status().folders
    embedded = scanned = time.time()
    waiting = False
    changes = watch(
        *folders,
        watch_filter=lambda _, path: not is_hidden(path, folders),
        debounce=_DEBOUNCE,
        step=_STEP,
        stop_event=stop or threading.Event(),
        rust_timeout=int(1000 * _TYPING),
        yield_on_timeout=True,
        raise_interrupt=True,
    )
    for changed in changes:
        now = time.time()
        if not (changed or waiting or not 0 <= now - scanned < _SCAN):
            continue
        due = vectors and not 0 <= now - embedded < _TYPING
        try:
            report = index.sync(vectors=due, wait=wait, progress=progress)
        except MlxJinaError as error:
            # A disk that is away comes back, and full ones are emptied.
            report = Report(warnings=[str(error)])
        yield report
        scanned = time.time()
        embedded = scanned if due else embedded
        waiting = vectors and not due


def is_hidden(path: str, folders: Sequence[str]) -> bool:
    """Whether a path leads through a name that begins with a dot. Files that say what to ignore do not count."""
    if os.path.basename(path) in IGNORE_FILES:
        return False
    below = next((path[len(folder) :] for folder in folders if path.startswith(folder)), path)
    return any(part.startswith(".") for part in below.split(os.sep))
