"""What an index knows of a folder, and what of it a scan finds to be different."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from mlx_jina.search.documents.kinds import (
    MISSING_PDF_READER,
    MISSING_PICTURE_READER,
    has_pdf_reader,
    has_picture_reader,
)
from mlx_jina.search.roots import Root
from mlx_jina.search.walk import Entry, Scan

# A file may change once more within one tick of its clock: such a young one is read again next time.
_RACY_NS = 2_000_000_000
NOT_DOWNLOADED = "in iCloud only, not downloaded"


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
    unread: int = 0
    """Files that could not be read before, and look as they did then."""
    waiting: int = 0
    """Notes that there was no time to read."""
    vectors: int = 0
    """Notes that got their vectors."""
    without_vectors: int = 0
    """Notes that have none yet."""
    warnings: list[str] = field(default_factory=list)
    """What a person should look at."""

    def count_unchanged(self, row: Known) -> None:
        """Count a file that is as the index knows it."""
        if row.error is None:
            self.unchanged += 1
        else:
            self.unread += 1

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


class Changes(NamedTuple):
    """What a scan found to be different from what an index knows."""

    changed: list[Entry]
    """New files, and those that look other than when they were read."""
    known: dict[str, Known]
    """All that the index knows, by path."""
    gone: list[Known]
    """What is there no more."""
    empty: bool
    """Whether nothing at all is."""


def compare(connection: sqlite3.Connection, root: Root, found: Scan, options: Options, report: Report) -> Changes:
    """What has to be read, and what is gone. What nobody can know is reported."""
    rows = connection.execute(
        "select id, path, size, mtime_ns, inode, hash, words_at, error from note where root = ?", (root.id,)
    )
    known = {row[1]: Known(*row) for row in rows}
    report.skipped += sorted(found.unread.items())
    report.skipped += [(path, NOT_DOWNLOADED) for path in sorted(found.evicted)]
    changed = list(_changed(found, known, root, options, report))
    gone = [row for path, row in known.items() if path not in found.entries and found.covers(path)]
    return Changes(changed, known, gone, found.empty)


def is_unchanged(row: Known, entry: Entry, root: Root, options: Options) -> bool:
    """Whether a file looks as when it was read, which was not so soon after it was written that looks deceive."""
    if options.verify or (row.size, row.mtime_ns, row.inode) != (entry.size, entry.mtime_ns, entry.inode):
        return False
    if row.error is not None and is_worth_another_try(row, entry, root):
        return False
    age = row.words_at * 1e9 - row.mtime_ns
    # A time in the future says that a clock was wrong, and not that the file is young.
    return not -_RACY_NS < age < _RACY_NS


def is_worth_another_try(row: Known, entry: Entry, root: Root) -> bool:
    """Whether what kept a file from being read has passed, though the file is the same."""
    if row.error == MISSING_PDF_READER:
        return has_pdf_reader()
    if row.error == MISSING_PICTURE_READER:
        return has_picture_reader()
    return row.hash == b"" and entry.size <= root.max_size


def _changed(
    found: Scan, known: dict[str, Known], root: Root, options: Options, report: Report
) -> Iterator[Entry]:
    for path, entry in found.entries.items():
        row = known.get(path)
        if entry.dataless:
            report.skipped.append((path, NOT_DOWNLOADED))
        elif row is not None and is_unchanged(row, entry, root, options):
            report.count_unchanged(row)
        else:
            yield entry
