"""An index kept in step with a folder: what changed since the last scan, and the words of it."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from mlx_jina.errors import InputError
from mlx_jina.search import chunks, documents, notes
from mlx_jina.search.database import Database, one
from mlx_jina.search.model import Progress
from mlx_jina.search.roots import Root
from mlx_jina.search.walk import Entry, Scan, is_dataless, scan

# A file may change once more within one tick of its clock: such a young one is read again next time.
_RACY_NS = 2_000_000_000
# Notes, and characters of them, that are written in one transaction.
_BATCH_NOTES, _BATCH_CHARACTERS = 100, 4_000_000
# More notes than this, and more than half of all, do not vanish at once by somebody's wish.
_MASS = 100
_NOT_DOWNLOADED = "in iCloud only, not downloaded"


@dataclass
class Report:
    """What a sync did, by paths."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    moved: list[tuple[str, str]] = field(default_factory=list)
    """From where to where."""
    removed: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Files that are not, or not anew, in the index, and why."""
    remarks: list[tuple[str, str]] = field(default_factory=list)
    """How some files were read."""
    unchanged: int = 0
    waiting: int = 0
    """Notes that there was no time to read."""
    vectors: int = 0
    """Notes that got their vectors."""
    without_vectors: int = 0
    """Notes that have none yet."""
    warnings: list[str] = field(default_factory=list)
    """What a person should look at."""

    def any_changes(self) -> bool:
        """Whether the words of the index are others than before."""
        return bool(self.added or self.changed or self.moved or self.removed)


@dataclass(frozen=True)
class Options:
    """How to go about it."""

    verify: bool = False
    """Read every file, also those that look unchanged."""
    allow_mass_delete: bool = False
    dry_run: bool = False
    deadline: float = float("inf")
    """When to stop, by `time.monotonic`; the next sync goes on."""


class Known(NamedTuple):
    """What an index knows of a file."""

    id: int
    path: str
    size: int
    mtime_ns: int
    inode: int
    hash: bytes
    words_at: float
    error: str | None


def sync_words(database: Database, root: Root, options: Options, report: Report, progress: Progress) -> None:
    """Bring what an index says of a folder's files up to date, but their vectors.

    Raises InputError for a folder that is not there.
    """
    try:
        found = scan(root.path, root.selection)
    except OSError as error:
        raise InputError(
            f"{root.path}: {error.strerror}; the index keeps its notes, and goes on once the folder is back"
        ) from None
    with database.reading() as connection:
        rows = connection.execute(
            "select id, path, size, mtime_ns, inode, hash, words_at, error from note where root = ?", (root.id,)
        )
        known = {row[1]: Known(*row) for row in rows}
    _Sync(database, root, options, report, progress, found, known).run()


def forget_other_chunks(database: Database) -> None:
    """Have all notes read anew if their chunks were cut by other rules than today's."""
    with database.reading() as connection:
        if one(connection, "select value from meta where key = 'chunks'") == chunks.VERSION:
            return
    with database.writing() as connection:
        # So they look changed, and not only touched.
        connection.execute("update note set size = -1, hash = x'00'")
        connection.execute("replace into meta values ('chunks', ?)", (chunks.VERSION,))


class _Sync:
    """One pass over one folder."""

    def __init__(
        self,
        database: Database,
        root: Root,
        options: Options,
        report: Report,
        progress: Progress,
        found: Scan,
        known: dict[str, Known],
    ) -> None:
        self.database = database
        self.root = root
        self.options = options
        self.report = report
        self.progress = progress
        self.found = found
        self.known = known
        gone = [row for path, row in known.items() if path not in found.entries and found.covers(path)]
        self.gone = {row.id: row for row in gone}
        self.gone_by_stat = {(row.inode, row.size, row.mtime_ns): row for row in gone}
        self.gone_by_hash = {row.hash: row for row in gone if row.hash}
        self.batch: list[Callable[[sqlite3.Connection], object]] = []
        self.characters = 0

    def run(self) -> None:
        """Find what changed, read it, newest first, and write it."""
        self.report.skipped += sorted(self.found.unread.items())
        self.report.skipped += [(path, _NOT_DOWNLOADED) for path in sorted(self.found.evicted)]
        changed = [entry for entry in self._changed() if not self._move_by_stat(entry)]
        changed.sort(key=lambda entry: (-entry.mtime_ns, entry.path))
        for done, entry in enumerate(changed, 1):
            if time.monotonic() > self.options.deadline:
                self.report.waiting += len(changed) - done + 1
                break
            self._read(entry)
            self.progress("words", done, len(changed))
        self._delete()
        self._flush()

    def _changed(self) -> Iterator[Entry]:
        """Files that are new, or look other than when they were read."""
        for path, entry in self.found.entries.items():
            row = self.known.get(path)
            if entry.dataless:
                self.report.skipped.append((path, _NOT_DOWNLOADED))
            elif row is not None and self._is_unchanged(row, entry):
                self.report.unchanged += 1
            else:
                yield entry

    def _is_unchanged(self, row: Known, entry: Entry) -> bool:
        if self.options.verify or (row.size, row.mtime_ns, row.inode) != (entry.size, entry.mtime_ns, entry.inode):
            return False
        if row.error is not None and self._is_worth_another_try(row, entry):
            return False
        age = row.words_at * 1e9 - row.mtime_ns
        # A time in the future says that a clock was wrong, and not that the file is young.
        return not -_RACY_NS < age < _RACY_NS

    def _is_worth_another_try(self, row: Known, entry: Entry) -> bool:
        """Whether what kept a file from being read has passed, though the file is the same."""
        if row.error == documents.MISSING_PDF_READER:
            return documents.has_pdf_reader()
        return row.hash == b"" and entry.size <= self.root.max_size

    def _move_by_stat(self, entry: Entry) -> bool:
        """Whether a new file is one that was elsewhere, which its inode tells without reading it."""
        if entry.path in self.known:
            return False
        row = self.gone_by_stat.get((entry.inode, entry.size, entry.mtime_ns))
        if row is None or row.id not in self.gone or not self._is_unchanged(row, entry):
            return False
        if not _same_name(row.path, entry.path):
            return False
        self._move(row, entry, row.words_at)
        return True

    def _move(self, row: Known, entry: Entry, read_at: float) -> None:
        del self.gone[row.id]
        self.report.moved.append((row.path, entry.path))
        self._write(partial(notes.touch, note=row.id, entry=entry, read_at=read_at))

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
        if row is not None and row.hash == own and not (row.error and self._is_worth_another_try(row, entry)):
            self.report.unchanged += 1
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
        self._replace(row, notes.read(entry, data, now))

    def _bytes(self, entry: Entry) -> tuple[Entry, bytes | None]:
        """A file's content and what it looked like just before; None if it is too large."""
        # Between the scan and now a link may have taken the file's place.
        descriptor = os.open(os.path.join(self.root.path, entry.name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if is_dataless(status):
                raise OSError(errno.EAGAIN, _NOT_DOWNLOADED)
            entry = entry._replace(size=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino)
            return entry, file.read() if entry.size <= self.root.max_size else None

    def _replace(self, row: Known | None, note: notes.Note) -> None:
        """Write a note that is new, or has another content than `row`."""
        path = note.entry.path
        if row is None:
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

    def _delete(self) -> None:
        """Remove what is gone, if it is not so much that something else must have happened."""
        gone = len(self.gone)
        missing = gone > _MASS and 2 * gone > len(self.known)
        if gone and (missing or self.found.empty) and not self.options.allow_mass_delete:
            what = "is empty" if self.found.empty else "lacks more than half of its notes"
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
