"""What can be wrong with an index: the file, rows without their counterparts, other passages than the notes'."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator

import numpy as np

from mlx_jina.search import damage, notes, schema, spaces
from mlx_jina.search.database import Database, is_circumstance, one
from mlx_jina.search.documents.kinds import is_picture
from mlx_jina.search.model import Space
from mlx_jina.search.schema import NOTE_BITS
from mlx_jina.search.walk import Entry, is_dataless

# Problems of one kind that are listed.
_LISTED = 20
# How far from 1 a vector's length may be after float16's rounding.
_LENGTH_ERROR = 0.01

Problems = dict[int, str]
"""Notes and what is wrong with each."""


def check(database: Database, repair: bool) -> list[str]:
    """All problems, in words. `repair` makes anew what can be made from the rest or from the notes."""
    with database.reading() as connection:
        found = _file(connection) or _cut_off(list(damage.odd(connection)))
        if found:
            # The rest would stumble over the same.
            return [*found, "nothing else was checked; make the index anew: mlx-jina index FOLDER --rebuild"]
        stray = list(damage.stray(connection))
        vectors = dict(_vectors(connection))
        following = dict(_following(connection))
        spans = dict(_spans(connection))
    words = _words(database)
    found += [f"{table}: {rows:,} rows of notes that are not there" for table, rows in stray]
    found += _listed(vectors) + _listed(following) + _listed(spans) + words
    if repair and found:
        with database.writing() as connection:
            _repair(connection, stray, vectors, following, spans)
        found.append("all of this is repaired; `mlx-jina index` makes anew what was removed for it")
    return found


def _file(connection: sqlite3.Connection) -> list[str]:
    try:
        rows = [row for (row,) in connection.execute("pragma integrity_check")]
    except sqlite3.DatabaseError as error:
        if is_circumstance(error):
            raise
        return [f"SQLite: {error}"]
    return [] if rows == ["ok"] else [f"SQLite: {row}" for row in rows[:_LISTED]]


def _vectors(connection: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    """Notes whose vectors are not one of unit length for each chunk, or not those of their bits."""
    if (space := spaces.current(connection)) is None:
        return
    notes_with = connection.execute(
        "select note.id, path, vectors_at is not null, v, b from note left join vec on vec.note = note.id "
        "left join bits on bits.note = note.id order by note.id"
    )
    for note, path, made, data, bits in notes_with:
        if made:
            fault = _fault(connection, space, note, data, bits)
        else:
            fault = None if data is None and bits is None else "vectors that are not said to be there"
        if fault:
            yield note, f"{path}: {fault}"


def _following(connection: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    """The same of the vectors of a rebuild that is not finished."""
    if (space := spaces.following(connection)) is None:
        return
    notes_with = connection.execute(
        "select note.id, path, v, b from note join vec_next on vec_next.note = note.id "
        "left join bits_next on bits_next.note = note.id order by note.id"
    )
    for note, path, data, bits in notes_with:
        if fault := _fault(connection, space, note, data, bits):
            yield note, f"{path}: {fault} (of the rebuild that is not finished)"


def _fault(
    connection: sqlite3.Connection, space: Space, note: int, data: bytes | None, bits: bytes | None
) -> str | None:
    """What is wrong with a note's vectors."""
    from mlx_jina.search.embedding import signs

    chunks = one(connection, "select count(*) from chunk where id between ? and ?", *schema.span(note))
    if data is None or not chunks or len(data) != 2 * space.dimension * chunks:
        return f"not a vector for each of its {chunks} chunks"
    rows = np.frombuffer(data, dtype=np.float16).reshape(chunks, -1)
    lengths = np.linalg.norm(rows.astype(np.float32), axis=1)
    if not (abs(lengths - 1) < _LENGTH_ERROR).all():
        return "a vector that is not of unit length"
    return "bits that are not its vectors'" if bits != signs(data, space.dimension) else None


def _spans(connection: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    """Notes whose files are as they were read, and their chunks are not those that the text is cut into."""
    if one(connection, "select value from meta where key = 'chunks'") != schema.CHUNKS:
        # All are going to be read anew.
        return
    pictures = bool(one(connection, "select value from meta where key = 'pictures'"))
    roots = dict(connection.execute("select id, path from root"))
    rows = connection.execute("select id, root, path, name, hash from note where error is null order by id")
    for note, root, path, name, own in rows:
        spelling = os.fsdecode(name) if name is not None else path
        data = _data(os.path.join(roots[root], spelling))
        if data is None or notes.digest(data) != own:
            continue
        sql = f"select {notes.CHUNK_COLUMNS} from chunk where id between ? and ? order by id"
        there = connection.execute(sql, schema.span(note)).fetchall()
        if is_picture(path):
            # Its text is what notes say of it.
            if [row[0] for row in there] != [note << NOTE_BITS]:
                yield note, f"{path}: {len(there)} chunks of a picture, which has one"
            continue
        read = notes.read(Entry(path, spelling, 0, 0, 0), data, 0.0, pictures=pictures)
        # What read it may not be installed any more.
        if read.error is not None:
            continue
        cut = notes.chunk_rows(note, read)
        if len(there) != len(cut):
            yield note, f"{path}: {len(there):,} chunks, and its text has {len(cut):,}"
        elif there != cut:
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
            if is_circumstance(error):
                raise
            return [f"words: FTS5's index is not that of the chunks ({error})"]
    return []


def _listed(problems: Problems) -> list[str]:
    return _cut_off(list(problems.values()))


def _cut_off(words: list[str]) -> list[str]:
    more = [f"... and {len(words) - _LISTED:,} more"] if len(words) > _LISTED else []
    return words[:_LISTED] + more


def _repair(
    connection: sqlite3.Connection,
    stray: list[tuple[str, int]],
    vectors: Problems,
    following: Problems,
    spans: Problems,
) -> None:
    for table, _ in stray:
        connection.execute(f"delete from {table} where note not in (select id from note)")
    connection.execute("insert into fts(fts) values ('rebuild')")
    for note in vectors:
        connection.execute("delete from vec where note = ?", (note,))
        connection.execute("delete from bits where note = ?", (note,))
        connection.execute("update note set vectors_at = null where id = ?", (note,))
    for note in following:
        connection.execute("delete from vec_next where note = ?", (note,))
        connection.execute("delete from bits_next where note = ?", (note,))
    # So the next sync takes them for changed.
    connection.executemany("update note set size = -1, hash = x'00' where id = ?", [(note,) for note in spans])
