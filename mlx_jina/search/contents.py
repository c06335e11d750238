"""What is in an index besides hits: the text of a note, tags, and a map of all notes."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_jina.errors import InputError
from mlx_jina.options import check as check_options
from mlx_jina.search.database import Database

if TYPE_CHECKING:
    from mlx_jina.search.map import Place
    from mlx_jina.search.meaning import Vectors
    from mlx_jina.search.reading import NoteText


class Contents:
    """The part of an `Index` that shows what it holds."""

    _database: Database

    def _all_vectors(self, connection: sqlite3.Connection) -> Vectors:
        raise NotImplementedError

    def read(self, path: str | Path | int) -> NoteText:
        """A note's text, read from its file now.

        `path` is absolute, or relative to the folder of the index, or a title, or the `id` of a hit in it. Only
        notes of the index can be read, and none through a link. Raises InputError for every other path, and for a
        file that is not to be had.
        """
        from mlx_jina.search import reading

        if not isinstance(path, int):
            check_options(path=path)
        with self._database.reading() as connection:
            return reading.read(connection, path)

    def thumbnail(self, id: int, size: int = 480) -> bytes:
        """A JPEG of the picture, or page, that the hit of this `id` is, of at most `size` pixels a side.

        It is upright and without what a camera wrote into the file. Raises InputError for what is no picture of
        the index, and for a file that has changed since the index read it.
        """
        from mlx_jina.search import sources

        check_options(id=id, size=size)
        if size < 1:
            raise InputError(f"size={size} must be at least 1")
        with self._database.reading() as connection:
            return sources.thumbnail(connection, id, size)

    def tags(self) -> dict[str, int]:
        """All tags in lower case with the number of notes that have each, the most frequent first."""
        with self._database.reading() as connection:
            sql = "select key, count(*) from tag group by key order by 2 desc, 1"
            return dict(connection.execute(sql).fetchall())

    def map(self) -> list[Place]:
        """All notes as points in a plane, by path: near each other where they mean about the same.

        Raises InputError if there are no vectors yet.
        """
        from mlx_jina.search import map

        with self._database.reading() as connection:
            return map.places(connection, self._all_vectors(connection))
