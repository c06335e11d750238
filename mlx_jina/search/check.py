"""What can be wrong with an index: the file, rows without their counterparts, other passages than the notes'."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator

import numpy as np

from mlx_jina.search import damage, notes, roots, schema, spaces
from mlx_jina.search.changes import Known, Options, is_unchanged
from mlx_jina.search.database import Database, is_circumstance, one
from mlx_jina.search.documents.kinds import MISSING_PDF_READER, MISSING_PICTURE_READER, is_picture
from mlx_jina.search.model import Space
from mlx_jina.search.notes import Note
from mlx_jina.search.walk import Entry, is_dataless

# Problems of one kind that are listed.
_LISTED = 20
# How far from 1 a vector's length may be after float16's rounding.
_LENGTH_ERROR = 0.01
# Seconds between the clocks of the farthest time zones, in summer.
_ZONES = 27 * 3600.0
_MISSING = (MISSING_PDF_READER, MISSING_PICTURE_READER)

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
        contents = dict(_contents(connection))
    words = _words(database)
    found += [f"{table}: {rows:,} rows of notes that are not there" for table, rows in stray]
    found += _listed(vectors) + _listed(following) + _listed(contents) + words
    if repair and found:
        with database.writing() as connection:
            _repair(connection, stray, vectors, following, contents)
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


def _contents(connection: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    """Notes whose files are as they were read, and whose rows are not what is read there."""
    if one(connection, "select value from meta where key = 'chunks'") != schema.CHUNKS:
        # All are going to be read anew.
        return
    pictures = bool(one(connection, "select value from meta where key = 'pictures'"))
    known = {root.id: root for root in roots.all_of(connection)}
    for root, name, *row in connection.execute(
        f"select root, name, {', '.join(Known._fields)} from note order by id"
    ):
        note = Known(*row)
        entry = _entry(known[root].path, note.path, os.fsdecode(name) if name is not None else note.path)
        data = _data(os.path.join(known[root].path, entry.name)) if entry is not None else None
        if entry is None or data is None:
            continue
        if notes.digest(data) != note.hash:
            # Else it was changed since.
            if note.hash and is_unchanged(note, entry, known[root], Options()):
                yield note.id, f"{note.path}: a hash that is not its file's"
            continue
        read = notes.read(entry, data, 0.0, pictures=pictures)
        fault = _unreadable(read, note.error) if read.error or note.error else _other(connection, note.id, read)
        if fault:
            yield note.id, f"{note.path}: {fault}"


def _entry(folder: str, path: str, name: str) -> Entry | None:
    """What a scan would find; None if nothing."""
    try:
        status = os.stat(os.path.join(folder, name), follow_symlinks=False)
    except (OSError, ValueError):
        return None
    return Entry(path, name, status.st_size, status.st_mtime_ns, status.st_ino)


def _unreadable(read: Note, error: str | None) -> str | None:
    """What is wrong with a note that cannot be read, or could not be."""
    # What reads it may have been installed or removed since, and pictures are given up when they are decoded.
    if read.error is not None or error in _MISSING or any(chunk.picture is not None for chunk, _ in read.chunks):
        return None
    return f"an error ({error}), and its file can be read"


def _other(connection: sqlite3.Connection, note: int, read: Note) -> str | None:
    """What a note has that its file does not have."""
    sql = f"select {notes.CHUNK_COLUMNS} from chunk where id between ? and ? order by id"
    there, cut = connection.execute(sql, schema.span(note)).fetchall(), notes.chunk_rows(note, read)
    if len(there) != len(cut):
        return f"{len(there):,} chunks, and its text has {len(cut):,}"
    # The text of a picture is what notes say of it.
    if there != cut and not is_picture(read.entry.path):
        return "chunks that are not the text of their spans"
    expected = notes.content(read)
    row = connection.execute(f"select {', '.join(expected)} from note where id = ?", (note,)).fetchone()
    wrong = [name for name, a, b in zip(expected, row, expected.values(), strict=True) if not _same(a, b)]
    for table, rows in notes.key_rows(note, read).items():
        if set(connection.execute(f"select * from {table} where note = ?", (note,))) != rows:
            wrong.append(f"{table}s")
    return f"{', '.join(wrong)} that are not those of its file" if wrong else None


def _same(a: object, b: object) -> bool:
    """Whether two values of a note are the same; for times, but for a change of the time zone."""
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= _ZONES
    return a == b


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
    contents: Problems,
) -> None:
    for table, _ in stray:
        connection.execute(f"delete from {table} where note not in (select id from note)")
    connection.execute("insert into fts(fts) values ('rebuild')")
    # Of a note with another content, vectors would go into the cache, and nobody knows of what they are.
    for suffix, faulty in (("", vectors | contents), ("_next", following | contents)):
        for table in ("vec", "bits"):
            connection.executemany(f"delete from {table}{suffix} where note = ?", [(note,) for note in faulty])
    sql = "update note set vectors_at = null where id = ?"
    connection.executemany(sql, [(note,) for note in vectors | contents])
    # So the next sync takes them for changed.
    sql = "update note set size = -1, hash = x'00', error = null where id = ?"
    connection.executemany(sql, [(note,) for note in contents])
