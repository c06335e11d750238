"""Values that no index has: tables that are not there, types and shapes that nobody here wrote.

Nothing of this is looked at while all goes well: `check` asks, and whoever stumbled and wants to know over what.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from typing import Any, NamedTuple

from mlx_jina.errors import InputError
from mlx_jina.search import schema, spaces
from mlx_jina.search.database import LATEST, Scan, is_circumstance, one
from mlx_jina.search.schema import NOTE_BITS
from mlx_jina.search.walk import Selection

OF_NOTES = ("name", "tag", "link", "vec", "bits", "vec_next", "bits_next", "embed")
"""Tables with rows of notes, besides their chunks."""
_TYPES = {
    "integer": ("integer",),
    "text": ("text",),
    "blob": ("blob",),
    "real": ("real", "integer"),
}
# Characters and lines that no text has.
_FAR = 1 << 40


class Column(NamedTuple):
    """What the schema says of a column; the type is "" where it says none."""

    name: str
    type: str
    required: bool


@cache
def expected() -> dict[str, list[Column]]:
    """The columns of every table that an index has; none of views."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.create_function("apart", 1, schema.apart, deterministic=True)
        schema.create(connection)
        kinds = connection.execute(
            "select name, type from sqlite_master where type in ('table', 'view')"
        ).fetchall()
        return {name: _columns(connection, name) if kind == "table" else [] for name, kind in kinds}


def is_foreign(connection: sqlite3.Connection) -> bool:
    """Whether a database is another program's: it has tables, and few of an index's are among them.

    Of a table, half of the columns have to be there: many a program has notes and tags.
    """
    names = _names(connection)
    # FTS5 makes its own tables, whoever asks for it.
    own = {table: columns for table, columns in expected().items() if columns and not table.startswith("fts")}
    ours = sum(
        2 * len({column.name for column in columns} & {column.name for column in _columns(connection, table)})
        >= len(columns)
        for table, columns in own.items()
    )
    return bool(names) and 3 * ours < len(own)


def anything(connection: sqlite3.Connection) -> bool:
    """Whether any value is one that can have made a program stumble."""
    return any(True for look in (odd, stray, _lengths) for _ in look(connection))


def odd(connection: sqlite3.Connection) -> Iterator[str]:
    """What keeps the rows of an index from being read at all, in words."""
    typed = False
    for problem in _types(connection):
        typed = True
        yield problem
    # The rest would stumble over the same values.
    if not typed:
        yield from _meta(connection)
        yield from _roots(connection)
        yield from _notes(connection)


def stray(connection: sqlite3.Connection) -> Iterator[tuple[str, int]]:
    """Tables with rows of notes that do not exist, and how many."""
    for table in ("chunk", *OF_NOTES):
        rows = one(connection, f"select count(*) from {table} where note not in (select id from note)")
        if rows:
            yield table, rows


def _lengths(connection: sqlite3.Connection) -> Iterator[str]:
    """Tables of vectors that are not as many as their notes have chunks, or not as long as the model's."""
    for space in filter(None, (spaces.current(connection), spaces.following(connection))):
        first, last = f"made.note << {NOTE_BITS}", f"(made.note + 1 << {NOTE_BITS}) - 1"
        count = f"(select count(*) from chunk where id between {first} and {last})"
        for table, column, length in (
            ("vec", "v", f"{2 * space.dimension} * {count}"),
            ("bits", "b", f"{-(-space.dimension // 8)} * (1 + {count})"),
        ):
            sql = f"select 1 from {table}{space.suffix} as made where length({column}) <> {length} limit 1"
            if one(connection, sql):
                yield f"{table}{space.suffix}: not a vector for each chunk"


def _types(connection: sqlite3.Connection) -> Iterator[str]:
    names = _names(connection)
    for (name,) in connection.execute("select name from sqlite_master where type = 'trigger'"):
        yield f"{name}: a trigger, and an index has none"
    for table, columns in expected().items():
        if table not in names:
            yield f"{table}: the table is not there"
            continue
        try:
            yield from _of_table(connection, table, columns)
        except sqlite3.DatabaseError as error:
            if is_circumstance(error):
                raise
            yield f"{table}: {error}"


def _of_table(connection: sqlite3.Connection, table: str, columns: list[Column]) -> Iterator[str]:
    there = {column.name for column in _columns(connection, table)}
    missing = [column.name for column in columns if column.name not in there]
    yield from (f"{table}: there is no column {name}" for name in missing)
    typed = [column for column in columns if column.type]
    if missing or not typed:
        return
    counts = connection.execute(f"select {', '.join(map(_wrong, typed))} from {table}").fetchone()
    for column, count in zip(typed, counts, strict=True):
        if count:
            yield f"{table}.{column.name}: {count:,} values that are no {column.type}"
    # Python finds text that is no UTF-8 when it reads it.
    texts = [column.name for column in typed if column.type == "text"]
    for _ in connection.execute(f"select {', '.join(texts)} from {table}") if texts else ():
        pass


def _wrong(column: Column) -> str:
    allowed = _TYPES[column.type] if column.required else (*_TYPES[column.type], "null")
    return f"sum(typeof({column.name}) not in ({', '.join(map(repr, allowed))}))"


def _meta(connection: sqlite3.Connection) -> Iterator[str]:
    found: dict[str, Any] = dict(connection.execute("select key, value from meta"))
    if not isinstance(found.get("generation"), int):
        yield "meta: 'generation' is no number"
    if "weight" in found:
        weight = found["weight"]
        if not isinstance(weight, (int, float)) or not 0 <= weight <= 1:
            yield "meta: 'weight' is no number from 0 to 1"
    try:
        space, _ = spaces.current(connection), spaces.following(connection)
    except sqlite3.DatabaseError as error:
        if is_circumstance(error):
            raise
        yield "meta: 'space' or 'next space' does not describe vectors"
        return
    if space is not None and found.get("fingerprint") != space.fingerprint:
        yield "meta: 'fingerprint' is not the vectors'"


def _roots(connection: sqlite3.Connection) -> Iterator[str]:
    for path, selection in connection.execute("select path, selection from root"):
        if "\0" in path or not os.path.isabs(path) or os.path.normpath(path) != path:
            yield f"root: {path!r} is no path of a folder"
        values = _json(selection)
        if not (
            isinstance(values, dict)
            and _are_texts(values.get("include"))
            and _are_texts(values.get("exclude"))
            and isinstance(values.get("max_size"), int)
            and _are_patterns(values["include"], values["exclude"])
        ):
            yield f"root: the selection of {path!r} is not one of files"


def _notes(connection: sqlite3.Connection) -> Iterator[str]:
    if count := one(connection, "select count(*) from note where root not in (select id from root)"):
        yield f"note: {count:,} of folders that are not there"
    if count := one(connection, "select count(*) from note where instr(path, char(0)) or instr(name, x'00')"):
        yield f"note: {count:,} paths with NUL"
    late = " or ".join(f"abs({name}) > {LATEST}" for name in ("created", "modified", "words_at", "vectors_at"))
    if count := one(connection, f"select count(*) from note where {late}"):
        yield f"note: {count:,} times that are none"
    places = " or ".join(f"{name} not between 0 and {_FAR}" for name in ("start", "stop", "line", "end_line"))
    if count := one(connection, f"select count(*) from chunk where {places}"):
        yield f"chunk: {count:,} places that are in no text"
    rows = connection.execute("select tags, aliases, properties from note")
    if count := sum(
        not (_are_texts(_json(tags)) and _are_texts(_json(aliases)) and isinstance(_json(properties), dict))
        for tags, aliases, properties in rows
    ):
        yield f"note: {count:,} whose tags, aliases or properties are none"


def _are_patterns(include: list[str], exclude: list[str]) -> bool:
    try:
        Selection(tuple(include), tuple(exclude)).check()
    except InputError:
        return False
    return True


def _json(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return None


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _names(connection: sqlite3.Connection) -> set[str]:
    return {
        name for (name,) in connection.execute("select name from sqlite_master where type in ('table', 'view')")
    }


def _columns(connection: sqlite3.Connection, table: str) -> list[Column]:
    rows = connection.execute(f"pragma table_xinfo({table})")
    return [
        Column(name, kind.split()[0].lower() if kind else "", bool(needed)) for _, name, kind, needed, *_ in rows
    ]


SCAN = Scan(anything, is_foreign)
