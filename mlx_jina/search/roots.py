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
from mlx_jina.search.database import from_json
from mlx_jina.search.walk import Selection

MAX_SIZE = 10_000_000
"""Bytes of the largest file that is read, where nobody says otherwise."""
# One of so many of the latest tells a folder that was moved.
_NOTES_ASKED_FOR = 100


class Root(NamedTuple):
    """A folder of an index."""

    id: int
    path: str
    selection: Selection
    max_size: int


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


def put(connection: sqlite3.Connection, path: str, settings: Settings) -> tuple[Root, str | None]:
    """A folder with this real path, new or not, and where it was when it has moved since.

    Raises InputError for a folder inside another one of the index.
    """
    status = os.stat(path)
    known = all_of(connection)
    root = next((root for root in known if root.path == path), None)
    moved = None
    if root is None and (root := _moved(connection, status, known)) is not None:
        moved = root.path
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


def _moved(connection: sqlite3.Connection, status: os.stat_result, known: Sequence[Root]) -> Root | None:
    """A folder that is not where it was, and has the inode of this one."""
    sql = "select id from root where device = ? and inode = ?"
    ids = {own for (own,) in connection.execute(sql, (status.st_dev, status.st_ino))}
    return next((root for root in known if root.id in ids and not os.path.exists(root.path)), None)


def moved_to(connection: sqlite3.Connection, root: Root) -> str | None:
    """Where a folder that is gone is now, if that is beside where it was, or around the current folder.

    A new folder may have its inode by chance, so one of its notes has to be there.
    """
    key = connection.execute("select device, inode from root where id = ?", (root.id,)).fetchone()
    sql = "select path from note where root = ? order by mtime_ns desc limit ?"
    notes = [path for (path,) in connection.execute(sql, (root.id, _NOTES_ASKED_FOR))]
    for path in (*_around(), *_beside(root.path, key[1])):
        try:
            status = os.stat(path)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) == key and any(os.path.exists(os.path.join(path, own)) for own in notes):
            return path
    return None


def _around() -> Iterator[str]:
    """The current folder, if it is there, and those above it."""
    with suppress(OSError):
        path = Path(os.path.realpath(os.getcwd()))
        yield from map(str, (path, *path.parents))


def _beside(path: str, inode: int) -> Iterator[str]:
    """What has an inode in the folder that something was in."""
    with suppress(OSError), os.scandir(os.path.dirname(path)) as entries:
        yield from (entry.path for entry in entries if entry.inode() == inode)


def _nested(a: str, b: str) -> bool:
    return (a + "/").startswith(b.rstrip("/") + "/") or (b + "/").startswith(a.rstrip("/") + "/")


def _root(own: int, path: str, selection: str) -> Root:
    values = from_json(selection)
    return Root(own, path, Selection(tuple(values["include"]), tuple(values["exclude"])), values["max_size"])


def _dumps(selection: Selection, max_size: int) -> str:
    return json.dumps({"include": selection.include, "exclude": selection.exclude, "max_size": max_size})
