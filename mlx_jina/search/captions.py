"""Which notes show a picture, and what they say of it: the words that the picture is found by."""

from __future__ import annotations

import posixpath
import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from mlx_jina.search import notes
from mlx_jina.search.database import Database, one
from mlx_jina.search.documents.kinds import is_picture
from mlx_jina.search.schema import NOTE_BITS

# Characters of what all notes together say of a picture.
_MOST_CHARACTERS = 2000


class Shown(NamedTuple):
    """A place where a note shows a picture."""

    note: int
    line: int
    alt: str


def refresh(database: Database) -> None:
    """Bring up to date which notes show each picture, if any note changed since that was done last."""
    with database.reading() as connection:
        state = _state(connection)
        if one(connection, "select value from meta where key = 'captions'") == state:
            return
        places = _places(connection)
    with database.writing() as connection:
        _write(connection, places)
        connection.execute("replace into meta values ('captions', ?)", (_state(connection),))


def _state(connection: sqlite3.Connection) -> str:
    """What changes with every note that is read, moved or removed."""
    return str(connection.execute("select count(*), max(words_at), total(id) from note").fetchone())


def _places(connection: sqlite3.Connection) -> dict[int, list[Shown]]:
    """Every picture's places, in the order of the notes' paths."""
    known = _Pictures(connection)
    found: dict[int, list[Shown]] = {own: [] for own in known.paths}
    if not found:
        return found
    rows = connection.execute(
        "select note.id, note.root, note.path, target, line, alt from link join note on note.id = link.note "
        "where alt is not null order by note.path, line"
    )
    for note, root, path, target, line, alt in rows:
        if (picture := known.find(root, path, target)) is not None:
            found[picture].append(Shown(note, line, alt))
    return found


class _Pictures:
    """The pictures of an index, by the ways in which notes name them."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.paths: dict[int, str] = {}
        self._by_path: dict[tuple[int, str], int] = {}
        self._by_name: dict[tuple[int, str], list[int]] = {}
        rows = connection.execute(
            f"select note.id, root, path from chunk join note on note.id = chunk.id >> {NOTE_BITS} "
            "where picture is not null"
        )
        for own, root, path in rows:
            if is_picture(path):
                self.paths[own] = path
                self._by_path[root, path] = own
                self._by_name.setdefault((root, posixpath.basename(path).casefold()), []).append(own)

    def find(self, root: int, note: str, target: str) -> int | None:
        """The picture that a link in the note at a path means: by its path, else by its name, as in Obsidian."""
        folder = posixpath.dirname(note)
        for path in (posixpath.normpath(posixpath.join(folder, target)), target):
            if (found := self._by_path.get((root, path))) is not None:
                return found
        ending = "/" + target.removeprefix("./").casefold()
        alike = self._by_name.get((root, posixpath.basename(ending)), [])
        fitting = [own for own in alike if ("/" + self.paths[own].casefold()).endswith(ending)]
        # Of several the one that is nearest to the top.
        return min(fitting, key=lambda own: (self.paths[own].count("/"), self.paths[own]), default=None)


def _write(connection: sqlite3.Connection, places: dict[int, list[Shown]]) -> None:
    """Replace what is different."""
    before = set(connection.execute("select picture, note, line from embed"))
    after = {(picture, shown.note, shown.line) for picture, each in places.items() for shown in each}
    connection.executemany("delete from embed where picture = ? and note = ? and line = ?", before - after)
    connection.executemany("insert into embed values (?, ?, ?)", after - before)
    for picture, body in _changed(connection, places):
        notes.unindex(connection, picture)
        connection.execute("update chunk set body = ? where id = ?", (body, picture << NOTE_BITS))
        notes.index(connection, picture)


def _changed(connection: sqlite3.Connection, places: dict[int, list[Shown]]) -> Iterator[tuple[int, str]]:
    """Pictures of which other words are said than before."""
    for picture, shown in places.items():
        body = "\n".join(dict.fromkeys(each.alt for each in shown if each.alt))[:_MOST_CHARACTERS]
        if one(connection, "select body from chunk where id = ?", picture << NOTE_BITS) not in (None, body):
            yield picture, body
