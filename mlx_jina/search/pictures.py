"""Whether an index takes pictures."""

from __future__ import annotations

import sqlite3

from mlx_jina.search import notes, spaces
from mlx_jina.search.database import Database, one
from mlx_jina.search.documents.kinds import is_picture
from mlx_jina.search.model import Model


def are_taken(database: Database, model: Model) -> bool:
    """Whether an index takes pictures: if the model of its vectors sees, or that of a rebuild that goes on."""
    with database.reading() as connection:
        found = [space for space in (spaces.current(connection), spaces.following(connection)) if space]
        # Somebody else may be about to make the first vectors.
        if not found:
            return _taken_before(connection) or model.sees
        # Indexes of the first version do not say whether their model sees.
        return any(space.sees or (space.model == model.name and model.sees) for space in found)


def switch(database: Database, taken: bool) -> None:
    """Take pictures from now on, or forget them, and have PDF files read anew, if that was not so before."""
    with database.reading() as connection:
        if _taken_before(connection) == taken:
            return
    with database.writing() as connection:
        connection.execute("replace into meta values ('pictures', ?)", (int(taken),))
        for note, path in connection.execute("select id, path from note").fetchall():
            if is_picture(path) and not taken:
                notes.forget(connection, note)
            elif is_picture(path) or path.lower().endswith(".pdf"):
                # So the file looks changed.
                connection.execute("update note set size = -1, hash = x'00' where id = ?", (note,))


def _taken_before(connection: sqlite3.Connection) -> bool:
    return bool(one(connection, "select value from meta where key = 'pictures'"))
