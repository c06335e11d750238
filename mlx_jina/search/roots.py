"""The folders of an index, and which of their files belong into it."""

from __future__ import annotations

import json
import os
import sqlite3
import time
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from mlx_jina.errors import InputError
from mlx_jina.search import identity, notes
from mlx_jina.search.database import from_json
from mlx_jina.search.identity import Identity
from mlx_jina.search.walk import Selection, scan

MAX_SIZE = 10_000_000
"""Bytes of the largest file that is read, where nobody says otherwise."""


class Root(NamedTuple):
    """A folder of an index."""

    id: int
    path: str
    selection: Selection
    max_size: int


class Moves(NamedTuple):
    """What is known of folders that are not where they were, by their ids."""

    places: dict[int, str]
    """Where those are that were found, or are here again with another inode."""
    gone: dict[int, str]
    """Those that are none any more, and why."""


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


def put(connection: sqlite3.Connection, file: Path, path: str, settings: Settings) -> tuple[Root, list[str]]:
    """A folder with this real path, new or not, and what is to be said of folders that are not where they were.

    `file` is the index's. Raises InputError for a folder inside another one of the index, and for one that merely
    has the name of one.
    """
    said = follow(connection, moves(connection, path))
    known = identity.all_of(connection)
    own = next((own for own, folder in known.items() if folder.path == path), None)
    if own is None and (own := with_inode(path, known)) is not None:
        # A file system without letter case has several names for it.
        path = known[own].path
    elif own is not None and known[own].is_replaced():
        raise InputError(other_folder(file, path))
    roots = {root.id: root for root in all_of(connection)}
    root = None if own is None else roots.pop(own)
    for other in roots.values():
        if is_inside(path, other.path) or is_inside(other.path, path):
            raise InputError(f"{path} and {other.path} are in one another, and one index would have notes twice")
    status = os.stat(path)
    old = root or Root(0, path, Selection(), MAX_SIZE)
    selection = Selection(
        old.selection.include if settings.include is None else tuple(settings.include),
        old.selection.exclude if settings.exclude is None else tuple(settings.exclude),
    )
    selection.check()
    max_size = old.max_size if settings.max_size is None else settings.max_size
    values = (path, status.st_dev, status.st_ino, _dumps(selection, max_size))
    if own is None:
        sql = "insert into root(path, device, inode, selection) values (?, ?, ?, ?)"
        own = connection.execute(sql, values).lastrowid
        assert own is not None
    else:
        sql = "update root set path = ?, device = ?, inode = ?, selection = ? where id = ?"
        connection.execute(sql, (*values, own))
    return Root(own, path, selection, max_size), said


def is_current(connection: sqlite3.Connection, path: str, settings: Settings) -> Root | None:
    """The folder, if it is known just so and nothing has to be written for it."""
    status = os.stat(path)
    sql = "select id, path, selection from root where path = ? and device = ? and inode = ?"
    row = connection.execute(sql, (path, status.st_dev, status.st_ino)).fetchone()
    if row is None or any(setting is not None for setting in settings):
        return None
    return _root(*row)


def with_inode(path: str, known: Mapping[int, Identity]) -> int | None:
    """The folder that has another name, and is here now."""
    here = (own for own, folder in known.items() if folder.path != path and folder.has_inode_of(path))
    return next((own for own in here if known[own].is_at(path)), None)


def moves(connection: sqlite3.Connection, named: str | None = None) -> Moves:
    """What became of folders that are not where they were, as far as they are near or have the path `named`."""
    known, roots = identity.all_of(connection), {root.id: root for root in all_of(connection)}
    away = {own: folder for own, folder in known.items() if not folder.has_inode_of(folder.path)}
    # A deleted folder may have had the inode of one that is where it was.
    taken = {folder.path for own, folder in known.items() if own not in away}
    places: dict[int, str] = {}
    for own, folder in away.items():
        others = [other.path for each, other in known.items() if each != own]
        place = _place_of(folder, named, others)
        if place is not None and place not in taken:
            places[own] = place
            taken.add(place)
    now = {own: places.get(own, folder.path) for own, folder in known.items()}
    gone: dict[int, str] = {}
    for own, place in places.items():
        before = known[own].path
        for other, path in now.items():
            if other == own or other in gone:
                continue
            if path == place:
                gone[other] = f"{before} has the place of {path} now, and what that was is forgotten"
            elif is_inside(place, path) and path in taken and _reads(roots[other]._replace(path=path), place):
                gone[own] = f"{before} is in {path} now, and no folder of its own any more"
    return Moves({own: place for own, place in places.items() if own not in gone}, gone)


def _place_of(folder: Identity, named: str | None, others: Sequence[str]) -> str | None:
    """Where a folder is that is not where it was, or its path if it was put back there from a backup."""
    if named is not None and folder.has_inode_of(named) and folder.is_at(named):
        return named
    if (place := next(folder.moved_to(others), None)) is not None:
        return place
    return folder.path if folder.is_at(folder.path) else None


def _reads(root: Root, place: str) -> bool:
    """Whether a folder's notes are also those of another one, which it is in."""
    inside = place.removeprefix(root.path.rstrip("/") + "/") + "/"
    return any(
        path.startswith(unicodedata.normalize("NFC", inside)) for path in scan(root.path, root.selection).entries
    )


def follow(connection: sqlite3.Connection, moves: Moves) -> list[str]:
    """Record what became of folders. Returns what is to be said of it."""
    said = _let_go(connection, moves.gone)
    known = {root.id: root.path for root in all_of(connection)}
    for own in moves.places:
        # Two may have swapped their names.
        connection.execute("update root set path = ? where id = ?", (f"//{own}", own))
    for own, place in moves.places.items():
        status = os.stat(place)
        sql = "update root set path = ?, device = ?, inode = ? where id = ?"
        connection.execute(sql, (place, status.st_dev, status.st_ino, own))
        if place != known[own]:
            said.append(_moved(known[own], place))
    return said


def _moved(before: str, now: str) -> str:
    return f"{now} is the folder that was at {before}; its notes are kept"


def _let_go(connection: sqlite3.Connection, gone: Mapping[int, str]) -> list[str]:
    for own in gone:
        forget(connection, own)
    return list(gone.values())


def forget(connection: sqlite3.Connection, root: int) -> None:
    """Remove a folder and its notes; their vectors stay in the cache for a while."""
    now = time.time()
    for (note,) in connection.execute("select id from note where root = ?", (root,)).fetchall():
        notes.delete(connection, note, now)
    connection.execute("delete from root where id = ?", (root,))


def other_folder(file: Path, path: str) -> str:
    """What to do about a folder that has the name of one in the index, and is not that one."""
    return (
        f"{path} is not the folder that was indexed under this name, whose notes the index keeps (is a disk "
        f"missing?); {forgetting(file, path)}"
    )


def forgetting(file: Path, path: str) -> str:
    """How to let go of a folder."""
    return f"if it is gone for good: mlx-jina index {quote(path)} --forget --index {quote(str(file))}"


def is_inside(path: str, folder: str) -> bool:
    """Whether a path is below a folder."""
    return path.startswith(folder.rstrip("/") + "/") and path != folder


def _root(own: int, path: str, selection: str) -> Root:
    values = from_json(selection)
    return Root(own, path, Selection(tuple(values["include"]), tuple(values["exclude"])), values["max_size"])


def _dumps(selection: Selection, max_size: int) -> str:
    return json.dumps({"include": selection.include, "exclude": selection.exclude, "max_size": max_size})
