"""All that an index holds, chunk by chunk: what another store would be filled with."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlx_jina.search import schema
from mlx_jina.search.chunks import embedded
from mlx_jina.search.database import damaged
from mlx_jina.search.meaning import note_vectors, of_note
from mlx_jina.search.model import Space

if TYPE_CHECKING:
    from mlx_jina.vectors import Floats


@dataclass(frozen=True)
class Row:
    """A chunk."""

    id: int
    path: str
    span: tuple[int, int]
    line: int
    title: str
    heading: str
    text: str
    embedded: str
    """What a model is given of it: title and headings, then the text."""
    vector: Floats | None
    """Of unit length up to float16's rounding, (D,); None if there is none yet."""
    note_vector: Floats | None = None
    """The note's, (D,): the normalised mean of its chunks'. Searches rank a chunk by the mean of both cosines."""


def rows(connection: sqlite3.Connection, space: Space | None) -> Iterator[Row]:
    """Chunks in the order of their notes' paths."""
    for note, path, title in connection.execute("select id, path, title from note order by root, path"):
        vectors = None if space is None else of_note(connection, note, space.dimension)
        mean = None
        if vectors is not None:
            (mean,) = note_vectors(vectors, np.array([0, len(vectors)]))
        chunks = connection.execute(
            "select id, start, stop, line, heading, lead, body from chunk where id between ? and ? order by id",
            schema.span(note),
        )
        for n, (own, start, stop, line, heading, lead, body) in enumerate(chunks):
            if vectors is not None and n >= len(vectors):
                raise damaged()
            vector = None if vectors is None else vectors[n]
            text = embedded(title, heading, lead, body)
            yield Row(own, path, (start, stop), line, title, heading, body, text, vector, mean)
