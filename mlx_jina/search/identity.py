"""Which folder is which: one that is renamed, moved, or put back from a backup keeps its index."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

# One of so many of the latest notes tells a folder from another.
_NOTES_ASKED_FOR = 100


@dataclass(frozen=True)
class Identity:
    """What a folder is known by: its path, its inode and its notes. Any two of these tell it from all others.

    Renamed or moved, it has its inode and its notes; put back from a backup, its path and its notes; with other
    notes, its path and its inode. A new folder may have the path or the inode of an old one by chance.
    """

    path: str
    device: int
    inode: int
    notes: Callable[[], Sequence[str]]
    """The latest of them, by their paths in the folder: asked for only where they decide."""

    def is_at(self, path: str) -> bool:
        """Whether it is this folder that has a path now."""
        same_inode, same_path = self.has_inode_of(path), self.path == path
        if same_inode and same_path:
            return True
        return (same_inode or same_path) and self._has_notes_in(path)

    def is_replaced(self) -> bool:
        """Whether its path leads to another folder, and not to the empty place of a disk that is not mounted."""
        return not self.is_at(self.path) and os.path.isdir(self.path) and not is_empty(self.path)

    def has_inode_of(self, path: str) -> bool:
        """Whether a path leads to the very folder that was read, and not, say, to a copy of it."""
        try:
            status = os.stat(path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == (self.device, self.inode)

    def moved_to(self, folders: Iterable[str] = ()) -> Iterator[str]:
        """Other paths at which it is now: around the current folder, beside where it was, and in `folders`."""
        around, beside = _around(), (os.path.dirname(self.path), *folders)
        for path in (*around, *(path for folder in beside for path in self._in(folder))):
            if path != self.path and self.has_inode_of(path) and self._has_notes_in(path):
                yield path

    def _in(self, folder: str) -> Iterator[str]:
        """What has its inode in a folder."""
        with suppress(OSError), os.scandir(folder) as entries:
            yield from (entry.path for entry in entries if entry.inode() == self.inode)

    def _has_notes_in(self, path: str) -> bool:
        """Whether any of its notes, if it had any, is in a folder."""
        notes = self.notes()
        return os.path.isdir(path) and (
            not notes or any(os.path.exists(os.path.join(path, note)) for note in notes)
        )


def all_of(connection: sqlite3.Connection) -> dict[int, Identity]:
    """Those of the folders of an index, in the order they came."""
    rows = connection.execute("select id, path, device, inode from root order by id")
    return {
        own: Identity(path, device, inode, partial(latest_notes, connection, own))
        for own, path, device, inode in rows
        if isinstance(path, str) and os.path.isabs(path)
    }


def latest_notes(connection: sqlite3.Connection, root: int) -> list[str]:
    """Some of a folder's notes."""
    sql = "select path from note where root = ? order by mtime_ns desc limit ?"
    rows = connection.execute(sql, (root, _NOTES_ASKED_FOR))
    return [path for (path,) in rows if isinstance(path, str)]


def is_empty(path: str) -> bool:
    """Whether a folder holds nothing, as the place of a disk that is not mounted does."""
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def _around() -> Iterator[str]:
    """The current folder, if it is there, and those above it."""
    with suppress(OSError):
        path = Path(os.path.realpath(os.getcwd()))
        yield from map(str, (path, *path.parents))
