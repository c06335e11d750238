"""The folders of an index, and which of their files belong into it."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mlx_jina.errors import InputError
from mlx_jina.search import location
from mlx_jina.search.database import from_json, one
from mlx_jina.search.walk import Selection

MAX_SIZE = 10_000_000
"""Bytes of the largest file that is read, where nobody says otherwise."""


class Root(NamedTuple):
    """A folder of an index."""

    id: int
    path: str
    selection: Selection
    max_size: int


class Moved(NamedTuple):
    """A folder that has been renamed, or moved."""

    before: str
    now: str


class Settings(NamedTuple):
    """What somebody wants to be different from now on; None leaves it as it is."""

    include: Sequence[str] | None = None
    exclude: Sequence[str] | None = None
    max_size: int | None = None


def all_of(connection: sqlite3.Connection) -> list[Root]:
    """The folders of an index, in the order they came."""
    return [_root(*row) for row in connection.execute("select id, path, selection from root order by id")]


def real_path(folder: str | Path) -> str:
    """A folder's path without links. Raises InputError for what is no folder, or cannot be kept in SQLite."""
    if not str(folder):
        raise InputError("the name of a folder is empty; for this folder, it is '.'")
    path = os.path.realpath(os.path.expanduser(folder))
    if not os.path.isdir(path):
        if os.path.exists(path):
            raise InputError(
                f"{folder} is no folder, and notes are indexed by folders: name {os.path.dirname(path)}"
            )
        raise InputError(f"{folder} does not exist")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InputError(f"{folder!r}: the name of the folder is not valid UTF-8; rename it") from None
    return path


def put(connection: sqlite3.Connection, path: str, settings: Settings) -> tuple[Root, list[Moved]]:
    """A folder with this real path, new or not, and which folders are not where they were.

    Raises InputError for a folder inside another one of the index.
    """
    moved = []
    root = next((root for root in all_of(connection) if root.path == path), None)
    if root is not None and not is_there(connection, root) and (now := moved_to(connection, root)) is not None:
        # Another folder has its name.
        connection.execute("update root set path = ? where id = ?", (now, root.id))
        moved.append(Moved(path, now))
        root = None
    status = os.stat(path)
    known = all_of(connection)
    if root is None and (root := _with_identity(connection, path, status, known)) is not None:
        if is_there(connection, root):
            # A file system without letter case has several names for it.
            path = root.path
        else:
            moved.append(Moved(root.path, path))
    for other in known:
        if other != root and _nested(path, other.path):
            raise InputError(f"{path} and {other.path} are in one another, and one index would have notes twice")
    old = root or Root(0, path, Selection(), MAX_SIZE)
    selection = Selection(
        old.selection.include if settings.include is None else tuple(settings.include),
        old.selection.exclude if settings.exclude is None else tuple(settings.exclude),
    )
    selection.check()
    max_size = old.max_size if settings.max_size is None else settings.max_size
    values = (path, status.st_dev, status.st_ino, _dumps(selection, max_size))
    if root is None:
        sql = "insert into root(path, device, inode, selection) values (?, ?, ?, ?)"
        own = connection.execute(sql, values).lastrowid
        assert own is not None
    else:
        own = root.id
        sql = "update root set path = ?, device = ?, inode = ?, selection = ? where id = ?"
        connection.execute(sql, (*values, own))
    return Root(own, path, selection, max_size), moved


def is_current(connection: sqlite3.Connection, path: str, settings: Settings) -> Root | None:
    """The folder, if it is known just so and nothing has to be written for it."""
    status = os.stat(path)
    sql = "select id, path, selection from root where path = ? and device = ? and inode = ?"
    row = connection.execute(sql, (path, status.st_dev, status.st_ino)).fetchone()
    if row is None or any(setting is not None for setting in settings):
        return None
    return _root(*row)


def _with_identity(
    connection: sqlite3.Connection, path: str, status: os.stat_result, known: Sequence[Root]
) -> Root | None:
    """The folder that has this inode, and a note here."""
    sql = "select id from root where device = ? and inode = ?"
    ids = {own for (own,) in connection.execute(sql, (status.st_dev, status.st_ino))}
    return next((root for root in known if root.id in ids and has_notes_in(connection, root, path)), None)


def is_there(connection: sqlite3.Connection, root: Root) -> bool:
    """Whether a folder is where it was, and not another one with its name."""
    try:
        inode = os.stat(root.path).st_ino
    except OSError:
        return False
    # An external disk's device has another number at each mount.
    return bool(one(connection, "select inode = ? from root where id = ?", inode, root.id))


def has_notes_in(connection: sqlite3.Connection, root: Root, path: str) -> bool:
    """Whether any of a folder's notes is at a path."""
    return location.holds_any(path, location.some_notes(connection, root.id))


def moved_to(connection: sqlite3.Connection, root: Root) -> str | None:
    """Where a folder is now that is not there, if that is beside where it was, or around the current folder."""
    key = connection.execute("select device, inode from root where id = ?", (root.id,)).fetchone()
    others = [other.path for other in all_of(connection) if other.id != root.id]
    for path in (*_around(), *location.beside(root.path, key[1])):
        try:
            status = os.stat(path)
        except OSError:
            continue
        if (
            (status.st_dev, status.st_ino) == key
            and not any(_nested(path, other) for other in others)
            and has_notes_in(connection, root, path)
        ):
            return path
    return None


def _around() -> Iterator[str]:
    """The current folder, if it is there, and those above it."""
    with suppress(OSError):
        path = Path(os.path.realpath(os.getcwd()))
        yield from map(str, (path, *path.parents))


def _nested(a: str, b: str) -> bool:
    return (a + "/").startswith(b.rstrip("/") + "/") or (b + "/").startswith(a.rstrip("/") + "/")


def _root(own: int, path: str, selection: str) -> Root:
    values = from_json(selection)
    return Root(own, path, Selection(tuple(values["include"]), tuple(values["exclude"])), values["max_size"])


def _dumps(selection: Selection, max_size: int) -> str:
    return json.dumps({"include": selection.include, "exclude": selection.exclude, "max_size": max_size})
