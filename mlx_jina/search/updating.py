"""What a scan found to be different, read and written: words, and what moves and deletions are."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Callable
from functools import partial

from mlx_jina.search import notes
from mlx_jina.search.changes import (
    NOT_DOWNLOADED,
    Changes,
    Known,
    Options,
    Report,
    is_unchanged,
    is_worth_another_try,
)
from mlx_jina.search.database import Database
from mlx_jina.search.model import Progress
from mlx_jina.search.roots import Root
from mlx_jina.search.walk import Entry, is_dataless, open_below

# Notes, and characters of them, that are written in one transaction.
_BATCH_NOTES, _BATCH_CHARACTERS = 100, 4_000_000
# More notes than this, and more than half of all, do not vanish at once by somebody's wish.
_MASS = 100


class Update:
    """One pass over one folder."""

    def __init__(
        self, database: Database, root: Root, options: Options, report: Report, progress: Progress
    ) -> None:
        self.database = database
        self.root = root
        self.options = options
        self.report = report
        self.progress = progress
        self.known: dict[str, Known] = {}
        self.gone: dict[int, Known] = {}
        self.gone_by_hash: dict[bytes, Known] = {}
        self.batch: list[Callable[[sqlite3.Connection], object]] = []
        self.characters = 0

    def run(self, changes: Changes) -> None:
        """Read what changed, newest first, and write it."""
        self.known = changes.known
        self.gone = {row.id: row for row in changes.gone}
        self.gone_by_hash = {row.hash: row for row in changes.gone if row.hash}
        by_stat = {(row.inode, row.size, row.mtime_ns): row for row in changes.gone}
        left = [entry for entry in changes.changed if not self._move_by_stat(entry, by_stat)]
        left.sort(key=lambda entry: (-entry.mtime_ns, entry.path))
        for done, entry in enumerate(left, 1):
            if time.monotonic() > self.options.deadline:
                self.report.waiting += len(left) - done + 1
                break
            self._read(entry)
            self.progress("words", done, len(left))
        self._delete(changes.empty)
        self._flush()

    def _move_by_stat(self, entry: Entry, gone: dict[tuple[int, int, int], Known]) -> bool:
        """Whether a new file is one that was elsewhere, which its inode tells without reading it."""
        if entry.path in self.known:
            return False
        row = gone.get((entry.inode, entry.size, entry.mtime_ns))
        if row is None or row.id not in self.gone or not _same_name(row.path, entry.path):
            return False
        if not is_unchanged(row, entry, self.root, self.options):
            return False
        self._move(row, entry, row.words_at)
        return True

    def _move(self, row: Known, entry: Entry, read_at: float) -> None:
        del self.gone[row.id]
        self.report.moved.append((row.path, entry.path))
        self._write(partial(notes.move, note=row.id, entry=entry, read_at=read_at))

    def _read(self, entry: Entry) -> None:
        """Read a file, and write what is new in it."""
        try:
            entry, data = self._bytes(entry)
        except OSError as error:
            # Gone since the scan is gone, and the next one will say so.
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                self.report.skipped.append((entry.path, error.strerror or str(error)))
            return
        now = time.time()
        row = self.known.get(entry.path)
        own = notes.digest(data) if data is not None else b""
        if row is not None and row.hash == own and not (row.error and is_worth_another_try(row, entry, self.root)):
            self.report.count_unchanged(row)
            self._write(partial(notes.touch, note=row.id, entry=entry, read_at=now))
            return
        if data is None:
            why = f"larger than {self.root.max_size:,} bytes (--max-size)"
            self._replace(row, notes.unusable(entry, own, now, why))
            return
        if row is None and (old := self.gone_by_hash.get(own)) is not None and old.id in self.gone:
            if _same_name(old.path, entry.path):
                self._move(old, entry, now)
                return
            row = self.gone.pop(old.id)
        self._replace(row, notes.read(entry, data, now, pictures=self.root.selection.pictures))

    def _bytes(self, entry: Entry) -> tuple[Entry, bytes | None]:
        """A file's content and what it looked like just before; None if it is too large."""
        with open(open_below(self.root.path, entry.name), "rb") as file:
            status = os.fstat(file.fileno())
            if is_dataless(status):
                raise OSError(errno.EAGAIN, NOT_DOWNLOADED)
            entry = entry._replace(size=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino)
            return entry, file.read() if entry.size <= self.root.max_size else None

    def _replace(self, row: Known | None, note: notes.Note) -> None:
        """Write a note that is new, or has another content than `row`."""
        path = note.entry.path
        if row is None:
            # What cannot be read is remembered, and is no note.
            if note.error is None:
                self.report.added.append(path)
        elif row.path != path:
            self.report.moved.append((row.path, path))
        else:
            self.report.changed.append(path)
        if note.error is not None:
            self.report.skipped.append((path, note.error))
        elif note.document is not None and note.document.remark is not None:
            self.report.remarks.append((path, note.document.remark))
        self.characters += len(note.document.text) if note.document else 0
        self._write(partial(notes.put, root=self.root.id, note=row.id if row else None, read=note))

    def _delete(self, empty: bool) -> None:
        """Remove what is gone, if it is not so much that something else must have happened."""
        gone = len(self.gone)
        missing = gone > _MASS and 2 * gone > len(self.known)
        if gone and (missing or empty) and not self.options.allow_mass_delete:
            what = "is empty" if empty else "lacks more than half of its notes"
            self.report.warnings.append(
                f"{self.root.path} {what}: {gone:,} of {len(self.known):,} are not there, and stay in the index, "
                "as a disk may be missing; if you deleted them, `mlx-jina index --allow-mass-delete` removes them"
            )
            return
        now = time.time()
        for row in self.gone.values():
            self.report.removed.append(row.path)
            self._write(partial(notes.delete, note=row.id, now=now))

    def _write(self, change: Callable[[sqlite3.Connection], object]) -> None:
        self.batch.append(change)
        if len(self.batch) >= _BATCH_NOTES or self.characters >= _BATCH_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        batch, self.batch, self.characters = self.batch, [], 0
        if batch and not self.options.dry_run:
            with self.database.writing() as connection:
                for change in batch:
                    change(connection)


def _same_name(a: str, b: str) -> bool:
    """Whether files differ by their folders only. A name may be a title, and its ending chooses the reader."""
    return a.rpartition("/")[2] == b.rpartition("/")[2]
