"""Notes beside each other: related ones, and duplicates."""

from __future__ import annotations

import os
import posixpath
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlx_jina.errors import InputError
from mlx_jina.search import schema
from mlx_jina.search.database import damaged, one
from mlx_jina.search.find import hits
from mlx_jina.search.hits import Hit
from mlx_jina.search.ranking import Ranked
from mlx_jina.search.schema import NOTE_BITS
from mlx_jina.search.walk import key

if TYPE_CHECKING:
    from mlx_jina.search.meaning import Vectors
    from mlx_jina.search.snippets import Highlighter

# Notes that are compared with all others at a time.
_BLOCK = 1024
# The shorter of two duplicates has at least this part of the other's characters.
_LENGTH_RATIO = 0.8


@dataclass(frozen=True)
class Duplicate:
    """Two notes that say the same."""

    path: str
    other: str
    cosine: float
    identical: bool
    """Whether their files have the same content."""


def related(
    connection: sqlite3.Connection,
    highlighter: Highlighter,
    vectors: Vectors,
    path: str | Path | int,
    line: int | None,
    limit: int,
    linked: bool,
) -> list[Hit]:
    """The notes nearest to a note, or to its chunk at a line, each with the chunk that is nearest."""
    note = find_note(connection, path)
    own = vectors.of_note(connection, note)
    if own is None:
        raise InputError(f"{path} has no vectors yet; `mlx-jina index` makes them")
    left_out = {note} if linked else {note, *_linked(connection, note)}
    allowed = {other for other in vectors.notes.tolist() if other not in left_out}
    if line is None:
        query = own.sum(axis=0) / max(float(np.linalg.norm(own.sum(axis=0))), 1e-12)
    else:
        query = own[_chunk_at(connection, note, line)]
    nearest = vectors.nearest_notes(connection, query.astype(np.float32), allowed, limit)
    return hits(
        connection, highlighter, [Ranked(chunk, cosine, cosine, None) for chunk, cosine in nearest], (), {}
    )


def duplicates(connection: sqlite3.Connection, vectors: Vectors, threshold: float) -> list[Duplicate]:
    """Pairs, the most alike first. Of files with the same content only the first is compared with others."""
    found: list[Duplicate] = []
    copies: set[int] = set()
    originals: dict[bytes, str] = {}
    sql = "select id, path, hash from note where error is null and size > 0 order by path, id"
    for note, path, own in connection.execute(sql):
        if originals.setdefault(own, path) is not path:
            copies.add(note)
            found.append(Duplicate(originals[own], path, 1.0, True))
    paths = dict(connection.execute("select id, path from note"))
    if not all(isinstance(path, str) for path in paths.values()):
        raise damaged()
    sql = f"select id >> {NOTE_BITS}, sum(stop - start) from chunk group by 1"
    lengths = dict(connection.execute(sql))
    near: list[Duplicate] = []
    for a, b, cosine in _pairs(connection, vectors, threshold):
        short, long = sorted((lengths[a], lengths[b]))
        if not {a, b} & copies and short >= _LENGTH_RATIO * long:
            path, other = sorted((paths[a], paths[b]))
            near.append(Duplicate(path, other, cosine, False))
    return found + sorted(near, key=lambda pair: (-pair.cosine, pair.path, pair.other))


def find_note(connection: sqlite3.Connection, path: str | Path | int) -> int:
    """The id of a note by its absolute path, its path in the index, its title, or the id of one of its chunks.

    Raises InputError for what is no note of the index.
    """
    if isinstance(path, int):
        # Whoever asks chooses the number, which may be larger than any of SQLite's.
        known = 0 <= path < 1 << 63
        if one(connection, "select 1 from note where id = ?", path >> NOTE_BITS if known else 0) is None:
            raise InputError(f"{path} is no note in this index")
        return path >> NOTE_BITS
    unknown = f"{str(path)!r} is not in this index; give the path of a note that is, or run mlx-jina index"
    try:
        nameable = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        nameable = False
    if not nameable:
        raise InputError(unknown)
    given = os.path.abspath(os.path.expanduser(path))
    for root, folder in connection.execute("select id, path from root"):
        inside = os.path.relpath(os.path.realpath(given), folder)
        if (
            note := one(connection, "select id from note where root = ? and path = ?", root, key(inside))
        ) is not None:
            return int(note)
    name = key(str(path)).removeprefix("./")
    for sql, value in (
        ("select id from note where path = ?", name),
        ("select note from name where key = ?", schema.name_key(name)),
    ):
        ids = [own for (own,) in connection.execute(sql, (value,))]
        if len(ids) == 1:
            return int(ids[0])
        if ids:
            raise InputError(f"{str(path)!r} means {len(ids)} notes; give a path with its folders")
    raise InputError(unknown)


def _pairs(connection: sqlite3.Connection, vectors: Vectors, threshold: float) -> Iterator[tuple[int, int, float]]:
    """Every two notes whose vectors have at least this cosine."""
    means = vectors.note_vectors(connection)
    for start in range(0, len(means), _BLOCK):
        products = means[start : start + _BLOCK] @ means[start:].T
        for a, b in np.argwhere(products >= threshold).tolist():
            if a < b:
                yield int(vectors.notes[start + a]), int(vectors.notes[start + b]), float(products[a, b])


def _chunk_at(connection: sqlite3.Connection, note: int, line: int) -> int:
    """The number of the chunk that a line is in, or the last one that begins before it."""
    sql = "select max(id) from chunk where id between ? and ? and line <= ?"
    found = one(connection, sql, *schema.span(note), line)
    return 0 if found is None else int(found) & ((1 << NOTE_BITS) - 1)


def _linked(connection: sqlite3.Connection, note: int) -> set[int]:
    """The notes that a note links to, and those that link to it."""
    root, path = connection.execute("select root, path from note where id = ?", (note,)).fetchone()
    found: set[int] = set()
    for (target,) in connection.execute("select target from link where note = ?", (note,)).fetchall():
        found |= _targets(connection, root, path, target)
    stem = os.path.splitext(path)[0]
    parts = stem.split("/")
    spellings = {"/".join(parts[n:]) + ending for n in range(len(parts)) for ending in ("", path[len(stem) :])}
    names = {name for (name,) in connection.execute("select key from name where note = ?", (note,))}
    base = path.rpartition("/")[2]
    for other, target in connection.execute("select note, target from link where note <> ?", (note,)):
        if target.startswith("./"):
            if not target.endswith(base):
                continue
            place = one(connection, "select path from note where id = ?", other)
            if note in _targets(connection, root, place, target):
                found.add(other)
        elif target in spellings or schema.name_key(target) in names:
            found.add(other)
    return found


def _targets(connection: sqlite3.Connection, root: int, path: str, target: str) -> set[int]:
    """The notes that a link in the note at `path` can mean."""
    if target.startswith("./"):
        resolved = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        candidates: Sequence[str] = (resolved, f"{resolved}.md")
    else:
        candidates = (target, f"{target}.md")
    found: set[int] = set()
    for candidate in candidates:
        sql = "select id from note where root = ? and path = ?"
        found.update(own for (own,) in connection.execute(sql, (root, candidate)))
    if not found and not target.startswith("./"):
        name = schema.name_key(target.rpartition("/")[2])
        found.update(own for (own,) in connection.execute("select note from name where key = ?", (name,)))
    return found
