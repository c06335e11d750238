"""The text of one note, from its file: only of notes in the index, and only below the index's folders."""

from __future__ import annotations

import datetime
import errno
import os
import sqlite3
import stat
from dataclasses import dataclass
from pathlib import Path

from mlx_jina.errors import InputError
from mlx_jina.search import documents, filters, find, neighbours, roots
from mlx_jina.search.changes import NOT_DOWNLOADED
from mlx_jina.search.database import from_json, one
from mlx_jina.search.documents.base import Document, Lines, UnreadableError
from mlx_jina.search.documents.kinds import is_picture
from mlx_jina.search.schema import NOTE_BITS
from mlx_jina.search.walk import is_dataless, open_below


@dataclass(frozen=True)
class NoteText:
    """A note as its file is now."""

    id: int
    path: str
    """Relative to its folder."""
    absolute_path: str
    title: str
    tags: tuple[str, ...]
    modified: float
    """Seconds since 1970."""
    document: Document
    picture: bool = False
    """Whether the file is a picture; `text` is what notes say of it."""
    shown_in: tuple[str, ...] = ()
    """Paths of the notes that show the picture."""

    @property
    def text(self) -> str:
        """All of it: the file's text, or what could be extracted from it."""
        return self.document.text

    @property
    def lines(self) -> int:
        """How many lines, pages, cells or cards the note has."""
        return self.document.lines.last

    @property
    def day(self) -> str:
        """When it was modified, as 2026-11-26."""
        return datetime.date.fromtimestamp(self.modified).isoformat()

    def part(self, first: int, count: int) -> str:
        """So many lines from line `first` on, counted from 1; "" behind the last one."""
        start, stop = self.document.lines.span(first, first + count)
        return self.document.text[start : len(self.document.text) if stop is None else stop]


def read(connection: sqlite3.Connection, note: str | Path | int) -> NoteText:
    """A note by its path or title, as `related` takes them, or by the id of one of its chunks.

    Raises InputError for what is no note of the index, and for one that cannot be read now.
    """
    own = neighbours.find_note(connection, note)
    columns = f"root, path, name, title, tags, {filters.MODIFIED}"
    row = connection.execute(f"select {columns} from note where id = ?", (own,)).fetchone()
    number, path, name, title, tags, modified = row
    root = next(root for root in roots.all_of(connection) if root.id == number)
    spelling = os.fsdecode(name) if name is not None else path
    try:
        data = _bytes(root, spelling)
        document = _said(connection, own) if is_picture(path) else documents.read(path, data, pictures=True)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except UnreadableError as error:
        raise InputError(f"{path}: {error}") from None
    # Whatever a parser makes of a file that was damaged since it was indexed.
    except Exception as error:
        raise InputError(f"{path}: cannot be parsed ({type(error).__name__})") from None
    return NoteText(
        own,
        path,
        os.path.join(root.path, spelling),
        title,
        tuple(from_json(tags)),
        modified,
        document,
        is_picture(path),
        tuple(find.showing(connection, own)),
    )


def _said(connection: sqlite3.Connection, picture: int) -> Document:
    """What notes say of a picture, line by line."""
    text = one(connection, "select body from chunk where id = ?", picture << NOTE_BITS) or ""
    return Document(text, [], Lines.of(text))


def _bytes(root: roots.Root, name: str) -> bytes:
    with open(open_below(root.path, name), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a file any more")
        if is_dataless(status):
            raise OSError(errno.EAGAIN, NOT_DOWNLOADED)
        if status.st_size > root.max_size:
            raise OSError(errno.EFBIG, f"larger than {root.max_size:,} bytes (--max-size)")
        return file.read()
