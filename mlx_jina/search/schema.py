"""The tables of an index, and how an older file becomes one of today's."""

from __future__ import annotations

import json
import re
import sqlite3
import unicodedata
from collections.abc import Iterator
from functools import cache

VERSION = 2
"""`PRAGMA user_version` of the files made here."""
CHUNKS = 1
"""Version of the rules that notes are cut by, in chunks.py; those cut by others are cut anew."""
NOTE_BITS = 20
"""A chunk's id is its note's, these many bits higher, plus its number in the note: ranking needs no table."""

NEXT_TABLES = (
    "create table vec_next(note integer primary key, v blob not null)",
    "create table bits_next(note integer primary key, b blob not null)",
)
"""For the vectors of a rebuild that is not finished."""
TOKENIZER = "porter unicode61 remove_diacritics 2"
# Columns that words are looked for in, and their weights in BM25.
COLUMNS = ("title", "heading", "tags", "body")
WEIGHTS = (4.0, 2.0, 3.0, 1.0)

# vec: a note's chunks in float16, in their order; bits: the signs of these, and at the end of their mean. cache:
# vectors of chunks that were edited or deleted, and of notes that are not done yet. chunk.picture: the page of a
# PDF that the chunk is a picture of, 1 for the file of a picture; link.alt: what a link that shows a picture says.
TABLES = f"""
create table meta(key text primary key, value) without rowid;
create table root(id integer primary key, path text not null unique, device integer, inode integer,
    selection text not null);
create table note(id integer primary key autoincrement, root integer not null references root,
    path text not null, name blob, size integer not null, mtime_ns integer not null, inode integer not null,
    hash blob, title text not null, aliases text not null, tags text not null, properties text not null,
    created real, modified real, words_at real not null, vectors_at real, error text, remark text,
    unique(root, path));
create index note_without_vectors on note(mtime_ns) where vectors_at is null and error is null;
create table chunk(id integer primary key, note integer generated always as (id >> {NOTE_BITS}) virtual,
    start integer not null, stop integer not null, line integer not null, end_line integer not null,
    heading text not null, lead text not null, body text not null, hash blob not null, picture integer);
create index chunk_hash on chunk(hash);
create table name(key text, note integer, primary key(key, note)) without rowid;
create table tag(key text, note integer, primary key(key, note)) without rowid;
create table link(note integer, target text, line integer, alt text, primary key(note, target, line))
    without rowid;
create index link_target on link(target);
create table vec(note integer primary key, v blob not null);
create table bits(note integer primary key, b blob not null);
create table cache(hash blob, fingerprint text, v blob not null, at real not null,
    primary key(hash, fingerprint)) without rowid;
create view words as select chunk.id as id, note.title || ' ' || note.aliases as title, chunk.heading as heading,
    note.tags as tags, apart(chunk.body) as body from chunk join note on note.id = chunk.note;
create virtual table fts using fts5(title, heading, tags, body, content='words', content_rowid='id',
    tokenize='{TOKENIZER}');
"""

# Which notes show a picture, and where: what their links come to.
_PICTURES = (
    "create index chunk_picture on chunk(id) where picture is not null",
    "create index link_alt on link(note) where alt is not null",
    "create table embed(picture integer, note integer, line integer, primary key(picture, note, line)) "
    "without rowid",
)
MIGRATIONS: dict[int, tuple[str, ...]] = {
    1: (
        "alter table chunk add column picture integer",
        "alter table link add column alt text",
        *_PICTURES,
        # What notes say of pictures was not read: all of them are read anew, and keep their vectors.
        "delete from meta where key = 'chunks'",
    )
}
"""What turns a file of each version into one of the next."""

# Scripts that put no spaces between words, and Hangul, whose words carry their particles: every character is
# indexed as a word, and words are found as neighbours.
SCRIPTS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Myanmar, Khmer
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3040-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff"
)


@cache
def unspaced() -> re.Pattern[str]:
    """One or more characters of such a script. Compiling it takes milliseconds, which few searches need."""
    return re.compile(f"[{SCRIPTS}]+")


def apart(text: str) -> str:
    """A text with spaces around every character of a script that has none; otherwise the text itself."""
    if text.isascii():
        return text
    return unspaced().sub(lambda match: "".join(f" {char} " for char in match[0]), text)


def unspaced_runs(text: str) -> Iterator[tuple[bool, str]]:
    """The parts of a text, and whether each is of scripts without spaces."""
    here = 0
    for match in () if text.isascii() else unspaced().finditer(text):
        if match.start() > here:
            yield False, text[here : match.start()]
        yield True, match[0]
        here = match.end()
    if here < len(text):
        yield False, text[here:]


def create(connection: sqlite3.Connection) -> None:
    """Make all tables, inside the caller's transaction: FTS5's are not made atomically otherwise."""
    for statement in filter(str.strip, TABLES.split(";\n")):
        connection.execute(statement)
    for statement in (*NEXT_TABLES, *_PICTURES):
        connection.execute(statement)
    connection.execute("insert into meta values ('generation', 0)")
    connection.execute(f"pragma user_version = {VERSION}")


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """From `version` to today's, inside the caller's transaction."""
    for step in range(version, VERSION):
        for statement in MIGRATIONS[step]:
            connection.execute(statement)
    connection.execute(f"pragma user_version = {VERSION}")


def dumps(value: object) -> str:
    """JSON as tables hold it: as people write it, so that its words can be indexed."""
    return json.dumps(value, ensure_ascii=False)


def name_key(name: str) -> str:
    """A title or alias as it is compared with what somebody types."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def span(note: int) -> tuple[int, int]:
    """The first and the last id that a note's chunks can have."""
    return note << NOTE_BITS, (note + 1 << NOTE_BITS) - 1
