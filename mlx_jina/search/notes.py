"""Rows of notes: everything that an index holds of one note changes in one transaction, here."""

from __future__ import annotations

import datetime
import hashlib
import os
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from unicodedata import normalize

from mlx_jina.search import chunks, documents, schema
from mlx_jina.search.chunks import Chunk
from mlx_jina.search.documents.base import Document, Lines, UnreadableError, valid
from mlx_jina.search.documents.kinds import is_picture
from mlx_jina.search.schema import NOTE_BITS, dumps
from mlx_jina.search.walk import Entry

CHUNK_COLUMNS = "id, start, stop, line, end_line, heading, lead, body, hash, picture"
# Front matter that is kept beside what has a column: enough for filters of later versions.
_PROPERTIES, _PROPERTY_CHARACTERS = 50, 1000
_DAILY = re.compile(r"(\d{4}-\d{2}-\d{2})(?!\d)")
# Files whose ending is part of the name that people know them by.
_NAMED_WHOLE = re.compile(
    r"\.(?!md$|markdown$|mdown$|mdx$|txt$|text$|rst$|org$|html?$|ipynb$|canvas$|pdf$)[^.]*$", re.I
)


@dataclass(frozen=True)
class Note:
    """A file as it was read: what its rows are made of."""

    entry: Entry
    hash: bytes
    read_at: float
    """When, in seconds since 1970."""
    title: str = ""
    aliases: Sequence[str] = ()
    document: Document | None = None
    chunks: Sequence[tuple[Chunk, bytes]] = ()
    """With the hash of what is embedded of each."""
    error: str | None = None
    """Why it has no words."""


def digest(data: bytes) -> bytes:
    """Sixteen bytes that stand for a content."""
    return hashlib.blake2b(data, digest_size=16).digest()


def read(entry: Entry, data: bytes, read_at: float, *, pictures: bool = False) -> Note:
    """A note from its file's bytes. `pictures`: whether the index takes pictures, and PDF files without text."""
    if pictures and is_picture(entry.path):
        return _read_picture(entry, data, read_at)
    try:
        document = documents.read(entry.path, data, pictures=pictures)
    except UnreadableError as error:
        return unusable(entry, digest(data), read_at, str(error))
    # Whatever a parser makes of a damaged file, the other files are not concerned.
    except Exception as error:
        return unusable(entry, digest(data), read_at, f"cannot be parsed ({type(error).__name__}: {error})"[:200])
    stem = stem_of(entry.path)
    title = document.title or stem
    aliases = [name for name in (stem, *document.aliases) if name != title]
    own, cut = digest(data), chunks.chunks(document)
    if pictures and document.scans:
        cut = chunks.with_scans(cut, document.scans)
    found = [(chunk, _chunk_hash(own, title, chunk)) for chunk in cut]
    return Note(entry, own, read_at, title, list(dict.fromkeys(aliases)), document, found)


def _read_picture(entry: Entry, data: bytes, read_at: float) -> Note:
    """A picture, which is found by its name, by what notes that show it say of it, and by itself."""
    from mlx_jina.search.documents import picture

    own = digest(data)
    try:
        picture.check(data)
    except UnreadableError as error:
        return unusable(entry, own, read_at, str(error))
    chunk = Chunk(0, 0, 1, 1, "", "", picture=1)
    name, empty = entry.path.rpartition("/")[2], Document("", [], Lines([0]))
    return Note(entry, own, read_at, name, (), empty, [(chunk, _chunk_hash(own, name, chunk))])


def _chunk_hash(file: bytes, title: str, chunk: Chunk) -> bytes:
    """What stands for all that is embedded of a chunk; no text has the hash of a picture."""
    if chunk.picture is not None:
        return digest(b"picture\0%b\0%d" % (file, chunk.picture))
    return digest(chunks.embedded(title, chunk.heading, chunk.lead, chunk.body).encode())


def unusable(entry: Entry, own: bytes, read_at: float, why: str) -> Note:
    """A note to be passed over until it changes; `own` is its hash, b"" if it was not read."""
    return Note(entry, own, read_at, stem_of(entry.path), error=why)


def stem_of(path: str) -> str:
    """A note's name: the file's, without the ending where that is a matter of course."""
    name = path.rpartition("/")[2]
    return name if _NAMED_WHOLE.search(name) else os.path.splitext(name)[0] or name


# ---- writing, all of it inside the caller's transaction


def put(connection: sqlite3.Connection, root: int, note: int | None, read: Note) -> int:
    """Write all rows of a note but its vectors, in place of those it had. Returns its id."""
    values = {"root": root, **_values(read)}
    if note is None:
        names = ", ".join(values)
        marks = ", ".join(f":{name}" for name in values)
        cursor = connection.execute(f"insert into note({names}) values ({marks})", values)
        assert cursor.lastrowid is not None
        note = cursor.lastrowid
    else:
        _clear(connection, note, read.read_at)
        changes = ", ".join(f"{name} = :{name}" for name in values)
        connection.execute(f"update note set {changes} where id = :id", {**values, "id": note})
    if read.document is not None:
        _put_words(connection, note, read)
    return note


def _values(read: Note) -> dict[str, object]:
    """A note's own row."""
    return {**_stat(read.entry, read.read_at), "hash": read.hash, **content(read), "vectors_at": None}


def content(read: Note) -> dict[str, object]:
    """What a note's row has of the file's content."""
    document = read.document or Document("", [], Lines([0]))
    return {
        "title": read.title,
        "aliases": dumps(list(read.aliases)),
        "tags": dumps(list(document.tags)),
        "properties": dumps(plain(document.properties)),
        "created": document.created or _daily(read.entry.path),
        "modified": document.modified,
        "error": read.error,
        "remark": document.remark,
    }


def chunk_rows(note: int, read: Note) -> list[tuple[object, ...]]:
    """What the table has of a note's chunks, by CHUNK_COLUMNS."""
    return [
        (note << NOTE_BITS | n, c.start, c.stop, c.line, c.end_line, c.heading, c.lead, c.body, own, c.picture)
        for n, (c, own) in enumerate(read.chunks)
    ]


def key_rows(note: int, read: Note) -> dict[str, set[tuple[object, ...]]]:
    """What the tables of names, tags and links have of a note."""
    if read.document is None:
        return {"name": set(), "tag": set(), "link": set()}
    names = {schema.name_key(name) for name in (read.title, *read.aliases)}
    tags = {tag.casefold() for tag in read.document.tags}
    # Of two pictures with one name in a line, the words of the first. Targets are spelled as paths are.
    links = {(normalize("NFC", link.target), link.line): link.alt for link in reversed(read.document.links)}
    return {
        "name": {(key, note) for key in names if key},
        "tag": {(key, note) for key in tags if key},
        "link": {(note, *key, alt) for key, alt in links.items()},
    }


def _put_words(connection: sqlite3.Connection, note: int, read: Note) -> None:
    """What a note is found by."""
    connection.executemany(
        f"insert into chunk({CHUNK_COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", chunk_rows(note, read)
    )
    for table, rows in key_rows(note, read).items():
        for row in rows:
            connection.execute(f"insert into {table} values ({', '.join('?' * len(row))})", row)
    index(connection, note)


def touch(connection: sqlite3.Connection, note: int, entry: Entry, read_at: float) -> None:
    """A note whose file has the same content as before."""
    values = _stat(entry, read_at)
    changes = ", ".join(f"{name} = :{name}" for name in values)
    connection.execute(f"update note set {changes} where id = :id", {**values, "id": note})


def move(connection: sqlite3.Connection, note: int, entry: Entry, read_at: float) -> None:
    """A note whose file is at another place, and otherwise as it was."""
    touch(connection, note, entry, read_at)
    # Other notes may mean this picture now, and this note other pictures.
    connection.execute("delete from meta where key = 'captions'")


def delete(connection: sqlite3.Connection, note: int, now: float) -> None:
    """Remove a note and all it has; its vectors stay in the cache for a while."""
    _clear(connection, note, now)
    connection.execute("delete from note where id = ?", (note,))


def forget(connection: sqlite3.Connection, note: int) -> None:
    """Remove a note, and keep nothing of it."""
    _clear_rows(connection, note)
    connection.execute("delete from note where id = ?", (note,))


def give_up(connection: sqlite3.Connection, note: int, hashes: Sequence[bytes], why: str) -> str | None:
    """Pass over a note until its file changes. Returns its path; None if its chunks are not those of `hashes`."""
    if not hashes or _hashes(connection, note) != list(hashes):
        return None
    _clear_rows(connection, note)
    connection.execute("update note set error = ?, vectors_at = null where id = ?", (why, note))
    path: str = connection.execute("select path from note where id = ?", (note,)).fetchone()[0]
    return path


def put_vectors(
    connection: sqlite3.Connection, note: int, hashes: Sequence[bytes], vectors: bytes, bits: bytes, suffix: str
) -> bool:
    """Write a note's vectors, float16 in the order of its chunks, and their bits and those of their mean.

    `suffix` is "" for the vectors that are searched, "_next" for those that will replace them.

    Returns False, and writes nothing, if the note is gone or its chunks are not those of `hashes` any more.
    """
    if not hashes or _hashes(connection, note) != list(hashes):
        return False
    connection.execute(f"replace into vec{suffix}(note, v) values (?, ?)", (note, vectors))
    connection.execute(f"replace into bits{suffix}(note, b) values (?, ?)", (note, bits))
    return True


def _clear(connection: sqlite3.Connection, note: int, now: float) -> None:
    """Remove what a note has besides its row; its vectors go into the cache."""
    _cache(connection, note, now)
    _clear_rows(connection, note)


def _clear_rows(connection: sqlite3.Connection, note: int) -> None:
    unindex(connection, note)
    connection.execute("delete from chunk where id between ? and ?", schema.span(note))
    for table in ("name", "tag", "link", "vec", "bits", "vec_next", "bits_next", "embed"):
        connection.execute(f"delete from {table} where note = ?", (note,))
    connection.execute("delete from embed where picture = ?", (note,))


def index(connection: sqlite3.Connection, note: int) -> None:
    """Let a note be found by the words of its chunks."""
    connection.execute(
        "insert into fts(rowid, title, heading, tags, body) select id, title, heading, tags, body from words "
        "where id between ? and ?",
        schema.span(note),
    )


def unindex(connection: sqlite3.Connection, note: int) -> None:
    """The opposite, before anything of these words changes."""
    connection.execute(
        "insert into fts(fts, rowid, title, heading, tags, body) select 'delete', id, title, heading, tags, body "
        "from words where id between ? and ?",
        schema.span(note),
    )


def _cache(connection: sqlite3.Connection, note: int, now: float) -> None:
    """Keep a note's vectors by the content of its chunks, for when it comes back."""
    row = connection.execute("select v from vec where note = ?", (note,)).fetchone()
    hashes = _hashes(connection, note)
    if row is None or not hashes:
        return
    size = len(row[0]) // len(hashes)
    connection.executemany(
        "replace into cache(hash, fingerprint, v, at) select ?, value, ?, ? from meta where key = 'fingerprint'",
        [(own, row[0][n * size : (n + 1) * size], now) for n, own in enumerate(hashes)],
    )


def _hashes(connection: sqlite3.Connection, note: int) -> list[bytes]:
    sql = "select hash from chunk where id between ? and ? order by id"
    return [own for (own,) in connection.execute(sql, schema.span(note))]


def _stat(entry: Entry, read_at: float) -> dict[str, object]:
    """What a scan compares."""
    raw = os.fsencode(entry.name)
    return {
        "path": entry.path,
        "name": raw if raw != entry.path.encode() else None,
        "size": entry.size,
        "mtime_ns": entry.mtime_ns,
        "inode": entry.inode,
        "words_at": read_at,
    }


def plain(properties: Mapping[str, object]) -> dict[str, object]:
    """Plain values of front matter and lists of them, of bounded size: YAML's references could be endless."""
    found: dict[str, object] = {}
    for key, value in list(properties.items())[:_PROPERTIES]:
        items: Iterable[object] = value[:_PROPERTIES] if isinstance(value, list) else [value]
        plain = [_plain(item) for item in items if isinstance(item, (str, int, float, bool, datetime.date))]
        if plain:
            found[key[:_PROPERTY_CHARACTERS]] = plain if isinstance(value, list) else plain[0]
    return found


def _plain(value: str | int | float | datetime.date) -> object:
    """As JSON has it, which knows neither dates nor NaN, and no number too long for SQLite."""
    if isinstance(value, (int, float)) and (isinstance(value, bool) or abs(value) < 2**53):
        return value
    return valid(str(value))[:_PROPERTY_CHARACTERS]


def _daily(path: str) -> float | None:
    """The day that a daily note is called after."""
    match = _DAILY.match(path.rpartition("/")[2])
    try:
        return datetime.datetime.fromisoformat(match[1]).timestamp() if match else None
    except (ValueError, OverflowError, OSError):
        return None
