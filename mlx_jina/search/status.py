"""What is in an index, in numbers."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from mlx_jina.search import roots, spaces
from mlx_jina.search.database import LATEST, damaged, one


@dataclass(frozen=True)
class Status:
    """An index at a moment."""

    file: str
    bytes: int
    folders: tuple[str, ...]
    notes: int
    """With words."""
    chunks: int
    waiting: int
    """Notes without vectors."""
    errors: tuple[tuple[str, str], ...]
    """Files that could not be read, and why."""
    pictures: int
    """Of the chunks: files of pictures, and pages of PDF files that have no text."""
    model: str | None
    fingerprint: str | None
    dimension: int | None
    """Of the vectors; None before there are any."""
    rebuilding: str | None
    """The model of a rebuild that is not finished."""
    updated: float | None
    """When a note was read last, in seconds since 1970."""


def status(connection: sqlite3.Connection, file: Path) -> Status:
    """Count."""
    space, following = spaces.current(connection), spaces.following(connection)
    found = Status(
        file=str(file),
        bytes=sum(path.stat().st_size for path in (file, file.with_name(file.name + "-wal")) if path.exists()),
        folders=tuple(root.path for root in roots.all_of(connection)),
        notes=one(connection, "select count(*) from note where error is null"),
        chunks=one(connection, "select count(*) from fts_docsize"),
        waiting=without_vectors(connection),
        errors=tuple(
            connection.execute("select path, error from note where error is not null order by path").fetchall()
        ),
        pictures=one(connection, "select count(*) from chunk where picture is not null"),
        model=space.model if space else None,
        fingerprint=space.fingerprint if space else None,
        dimension=space.dimension if space else None,
        rebuilding=following.model if following else None,
        updated=one(connection, "select max(words_at) from note"),
    )
    texts = (*found.folders, *(text for pair in found.errors for text in pair))
    # Whoever prints them stumbles otherwise.
    if not all(isinstance(text, str) for text in texts) or not abs(found.updated or 0) < LATEST:
        raise damaged()
    return found


def without_vectors(connection: sqlite3.Connection) -> int:
    """How many notes wait for their vectors."""
    return int(one(connection, "select count(*) from note where vectors_at is null and error is null"))
