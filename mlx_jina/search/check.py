"""What can be wrong with an index: the file itself, rows without their counterparts, spans that moved."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator

import numpy as np

from mlx_jina.search import documents, notes, schema, spaces
from mlx_jina.search.database import Database, one
from mlx_jina.search.documents.kinds import is_picture
from mlx_jina.search.walk import is_dataless

# Problems of one kind that are listed.
_LISTED = 20
# How far from 1 a vector's length may be after float16's rounding.
_LENGTH_ERROR = 0.01
_OF_NOTES = ("name", "tag", "link", "vec", "bits", "vec_next", "bits_next", "embed")

Problems = dict[int, str]
"""Notes and what is wrong with each."""


def check(database: Database, repair: bool) -> list[str]:
    """All problems, in words. `repair` makes anew what can be made from the rest or from the notes."""
    with database.reading() as connection:
        found = _file(connection)
        if found:
            # The rest would stumble over the same pages.
            return [*found, "nothing else was checked; make the index anew: mlx-jina index FOLDER --rebuild"]
        stray = list(_stray(connection))
        vectors = dict(_vectors(connection))
        spans = dict(_spans(connection))
    words = _words(database)
    found += [f"{table}: {rows:,} rows of notes that are not there" for table, rows in stray]
    found += _listed(vectors) + _listed(spans) + words
    if repair and found:
        with database.writing() as connection:
            _repair(connection, stray, vectors, spans)
        found.append("all of this is repaired; `mlx-jina index` makes anew what was removed for it")
    return found


def _file(connection: sqlite3.Connection) -> list[str]:
    try:
        rows = [row for (row,) in connection.execute("pragma integrity_check")]
    except sqlite3.DatabaseError as error:
        return [f"SQLite: {error}"]
    return [] if rows == ["ok"] else [f"SQLite: {row}" for row in rows[:_LISTED]]


def _stray(connection: sqlite3.Connection) -> Iterator[tuple[str, int]]:
    """Tables with rows of notes that do not exist, and how many."""
    for table in ("chunk", *_OF_NOTES):
        rows = one(connection, f"select count(*) from {table} where note not in (select id from note)")
        if rows:
            yield table, rows


def _vectors(connection: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    """Notes whose vectors are not one of unit length for each chunk, or not those of their bits."""
    if (space := spaces.current(connection)) is None:
        return
    from mlx_jina.search.embedding import signs

    notes_with = connection.execute(
        "select note.id, path, vectors_at is not null, v, b from note left join vec on vec.note = note.id "
        "left join bits on bits.note = note.id order by note.id"
    )
    for note, path, made, data, bits in notes_with:
        chunks = one(connection, "select count(*) from chunk where id between ? and ?", *schema.span(note))
        if not made:
            if data is not None or bits is not None:
                yield note, f"{path}: vectors that are not said to be there"
        elif data is None or len(data) != 2 * space.dimension * chunks:
            yield note, f"{path}: not a vector for each of its {chunks} chunks"
        else:
            rows = np.frombuffer(data, dtype=np.float16).reshape(chunks, -1)
            lengths = np.linalg.norm(rows.astype(np.float32), axis=1)
            if not (abs(lengths - 1) < _LENGTH_ERROR).all():
                yield note, f"{path}: a vector that is not of unit length"
            elif bits != signs(data, space.dimension):
                yield note, f"{path}: bits that are not its vectors'"


def _spans(connection: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    """Notes whose files are as they were read, and their chunks are not."""
    roots = dict(connection.execute("select id, path from root"))
    rows = connection.execute("select id, root, path, name, hash from note where error is null order by id")
    for note, root, path, name, own in rows:
        data = _data(os.path.join(roots[root], os.fsdecode(name) if name is not None else path))
        if data is None or notes.digest(data) != own:
            continue
        if is_picture(path):
            continue
        document = documents.read(path, data, pictures=True)
        sql = "select start, stop, body from chunk where id between ? and ?"
        chunks = connection.execute(sql, schema.span(note))
        if any(document.visible(start, stop) != body for start, stop, body in chunks):
            yield note, f"{path}: chunks that are not the text of their spans"


def _data(file: str) -> bytes | None:
    try:
        if is_dataless(os.stat(file)):
            return None
        with open(file, "rb") as stream:
            return stream.read()
    except OSError:
        return None


def _words(database: Database) -> list[str]:
    """Whether FTS5's index is that of the chunks."""
    with database.alone() as connection:
        try:
            connection.execute("insert into fts(fts, rank) values ('integrity-check', 1)")
        except sqlite3.DatabaseError as error:
            return [f"words: FTS5's index is not that of the chunks ({error})"]
    return []


def _listed(problems: Problems) -> list[str]:
    words = list(problems.values())
    more = [f"... and {len(words) - _LISTED:,} more"] if len(words) > _LISTED else []
    return words[:_LISTED] + more


def _repair(
    connection: sqlite3.Connection, stray: list[tuple[str, int]], vectors: Problems, spans: Problems
) -> None:
    for table, _ in stray:
        connection.execute(f"delete from {table} where note not in (select id from note)")
    connection.execute("insert into fts(fts) values ('rebuild')")
    for note in vectors:
        connection.execute("delete from vec where note = ?", (note,))
        connection.execute("delete from bits where note = ?", (note,))
        connection.execute("update note set vectors_at = null where id = ?", (note,))
    # So the next sync takes them for changed.
    connection.executemany("update note set size = -1, hash = x'00' where id = ?", [(note,) for note in spans])
