"""A map of all notes: the two directions in which their vectors differ most (principal components)."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlx_jina.search.database import from_json
from mlx_jina.search.schema import NOTE_BITS

if TYPE_CHECKING:
    from mlx_jina.search.meaning import Vectors
    from mlx_jina.vectors import Floats


class Place(NamedTuple):
    """A note on the map."""

    id: int
    """Of its first chunk."""
    path: str
    title: str
    tags: tuple[str, ...]
    x: float
    y: float
    """From -1 to 1."""


def places(connection: sqlite3.Connection, vectors: Vectors) -> list[Place]:
    """Every note that has a vector."""
    points = plane(vectors.note_vectors(connection))
    spots = dict(zip(vectors.notes.tolist(), points.tolist(), strict=True))
    rows = connection.execute("select id, path, title, tags from note order by path")
    return [
        Place(note << NOTE_BITS, path, title, tuple(from_json(tags)), *spots[note])
        for note, path, title, tags in rows
        if note in spots
    ]


def plane(vectors: Floats) -> Floats:
    """Points (N, 2) from -1 to 1 for vectors (N, D): their two principal components.

    A component's sign is arbitrary; here its largest weight is positive, so that a map stays as it is from one
    call to the next. Ranks stand between half and half with values, or a few notes apart would press all others
    into a corner.
    """
    if len(vectors) < 2:
        return np.zeros((len(vectors), 2), dtype=np.float32)
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    # The eigenvectors of D x D are far cheaper than the singular vectors of N x D.
    _, directions = np.linalg.eigh(centred.T @ centred)
    axes = directions[:, :-3:-1]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])
    points = centred @ axes
    values = points / np.maximum(np.abs(points).max(axis=0), 1e-12)
    ranks = points.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    spread: Floats = ((values + 2 * ranks / (len(points) - 1) - 1) / 2).astype(np.float32)
    return spread
