"""Files that are still there, and whole, after the power fails: written, synced, renamed, their folder synced."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

# macOS: what fsync hands to the drive may stay in the drive's cache.
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)


def sync(file: int) -> None:
    """Wait until an open file, or a folder, is on the disk itself."""
    if _FULL_SYNC is not None:
        try:
            fcntl.fcntl(file, _FULL_SYNC)
        except OSError:
            # Some file systems have only fsync.
            pass
        else:
            return
    try:
        os.fsync(file)
    except OSError as error:
        # Of a folder, on file systems that sync none.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def sync_path(path: Path) -> None:
    """`sync` of a file, or of a folder: of the names in it."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync(file)
    finally:
        os.close(file)


def write_text(path: Path, content: str) -> None:
    """Write a file and sync it; its folder is the caller's to sync, once for all files in it."""
    with path.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        sync(file.fileno())


def replace(source: Path, target: Path) -> None:
    """Give a synced file or folder the place of `target`, for good."""
    os.replace(source, target)
    sync_path(target.parent)


def sync_tree(folder: Path) -> None:
    """Sync a folder and those in it; the files in them are synced as they are written."""
    for place, _, _ in os.walk(folder, topdown=False):
        sync_path(Path(place))
