"""Which model an index's vectors are of, and how they become those of another."""

from __future__ import annotations

import json
import sqlite3
import time

from mlx_jina.errors import InputError
from mlx_jina.search import schema
from mlx_jina.search.database import Database, damaged, from_json, one
from mlx_jina.search.model import Model, Progress, Space
from mlx_jina.search.schema import NOTE_BITS

# Of a space, as meta keeps it. A later version may keep more.
_KEYS = ("model", "fingerprint", "dimension", "known", "sees")


class OtherModelError(InputError):
    """The index has vectors of another model than the one at hand."""


def current(connection: sqlite3.Connection) -> Space | None:
    """The space of the vectors that are searched; None before there are any."""
    space = _loaded(connection, "space", "")
    if space is None and one(connection, "select 1 from vec limit 1"):
        # Nobody knows whose they are.
        raise damaged()
    return space


def following(connection: sqlite3.Connection) -> Space | None:
    """The space of a rebuild that is not finished."""
    return _loaded(connection, "next space", "_next")


def verify(database: Database, model: Model) -> Space:
    """The index's space, which becomes the model's if there is none yet. Raises OtherModelError for another's."""
    with database.reading() as connection:
        space = current(connection)
    if space is not None:
        return check(database, model, space)
    own = of(model, None)
    with database.writing() as connection:
        _store(connection, "space", own)
    return own


def check(database: Database, model: Model, space: Space) -> Space:
    """A space, if it is the model's. Raises OtherModelError if it is not."""
    own = of(model, space)
    if own.fingerprint != space.fingerprint:
        earlier = "an earlier " if own.model == space.model else ""
        raise OtherModelError(
            f"this index has vectors of {earlier}{space.model!r} ({space.fingerprint}), which do not compare with "
            f"those of {model.name!r} ({own.fingerprint}); to replace them: mlx-jina index --rebuild -m "
            f"{model.name}"
        )
    if (own.known, own.sees, own.dimension) != (
        space.known,
        space.sees,
        space.dimension,
    ) and not database.read_only:
        # The same weights in files that look different: next time they need not be read.
        with database.writing() as connection:
            _store(connection, "space", own)
    return own


def of(model: Model, before: Space | None, suffix: str = "") -> Space:
    """A model's space; what is known of it from before may spare reading its weights."""
    fingerprint, known = model.fingerprint(before.known if before else None)
    return Space(model.name, fingerprint, model.dimension, known, suffix, model.sees)


def embed(
    database: Database, model: Model, deadline: float, progress: Progress, skipped: list[tuple[str, str]]
) -> int:
    """Give vectors to the notes that have none, as far as there is time. Returns how many got them.

    `skipped` gets the pictures that cannot be decoded, and why. Raises OtherModelError where the index has the
    vectors of another model.
    """
    with database.reading() as connection:
        space = current(connection)
    waiting = _waiting(database, "vectors_at is null")
    if not waiting and (space is None or (space.model == model.name and model.is_up_to_date(space.known))):
        return 0
    from mlx_jina.search.embedding import Embedder, prune

    started = time.monotonic()
    space = verify(database, model)
    # Loading the model is no part of it: who has little time is about to search, and needs the model anyway.
    deadline += time.monotonic() - started
    done = 0
    # Notes may change, and others come, while those before them are at it.
    while waiting and (made := Embedder(database, space, model, deadline, progress, skipped).run(waiting)):
        done += made
        waiting = _waiting(database, "vectors_at is null") if time.monotonic() < deadline else []
    with database.writing() as connection:
        prune(connection, time.time())
    return done


def begin(database: Database, model: Model) -> Space:
    """A space for new vectors of all notes, beside the one that is searched until all are there."""
    with database.reading() as connection:
        begun = following(connection)
    space = of(model, begun, "_next")
    with database.writing() as connection:
        if begun is None or begun.fingerprint != space.fingerprint:
            connection.execute("delete from vec_next")
            connection.execute("delete from bits_next")
        # Whoever asks for new vectors does not want those that are kept.
        connection.execute("delete from cache where fingerprint = ?", (space.fingerprint,))
        _store(connection, "next space", space)
    return space


def finish(
    database: Database, model: Model, space: Space, progress: Progress, skipped: list[tuple[str, str]]
) -> None:
    """Make the vectors of a space that `begin` returned, and let them take the place of the old ones."""
    from mlx_jina.search.embedding import Embedder

    # What cannot be read now is not waited for.
    while waiting := _waiting(database, "id not in (select note from vec_next)"):
        if not Embedder(database, space, model, float("inf"), progress, skipped).run(waiting):
            break
    with database.writing() as connection:
        for table in ("vec", "bits"):
            connection.execute(f"drop table {table}")
            connection.execute(f"alter table {table}_next rename to {table}")
        for statement in schema.NEXT_TABLES:
            connection.execute(statement)
        connection.execute("delete from cache where fingerprint <> ?", (space.fingerprint,))
        connection.execute("update note set vectors_at = ? where id in (select note from vec)", (time.time(),))
        connection.execute("update note set vectors_at = null where id not in (select note from vec)")
        connection.execute("delete from meta where key = 'next space'")
        _store(connection, "space", space)


def _waiting(database: Database, condition: str) -> list[int]:
    """Notes with words, newest first, and behind them those with pictures, which take longer."""
    with database.reading() as connection:
        sql = f"select id from note where {condition} and error is null order by mtime_ns desc, id"
        found = [note for (note,) in connection.execute(sql)]
        sql = f"select distinct id >> {NOTE_BITS} from chunk where picture is not null"
        seen = {note for (note,) in connection.execute(sql)}
    return [note for note in found if note not in seen] + [note for note in found if note in seen]


def _loaded(connection: sqlite3.Connection, key: str, suffix: str) -> Space | None:
    row = connection.execute("select value from meta where key = ?", (key,)).fetchone()
    if row is None:
        return None
    values = from_json(row[0])
    if not (
        isinstance(values, dict)
        and all(isinstance(values.get(name), str) for name in ("model", "fingerprint", "known"))
        and isinstance(from_json(values["known"]), dict)
        and type(values.get("dimension")) is int
        and values["dimension"] >= 1
        and isinstance(values.get("sees", False), bool)
    ):
        raise damaged()
    known = {name: values[name] for name in _KEYS if name in values}
    return Space(**known, suffix=suffix)


def _store(connection: sqlite3.Connection, key: str, space: Space) -> None:
    values = {name: getattr(space, name) for name in _KEYS}
    connection.execute("replace into meta values (?, ?)", (key, json.dumps(values)))
    if key == "space":
        # By itself for statements of SQL.
        connection.execute("replace into meta values ('fingerprint', ?)", (space.fingerprint,))
