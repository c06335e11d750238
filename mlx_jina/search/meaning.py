"""The meaning half: cosines of a query with every chunk and every note, from vectors held in memory.

Vectors of a small index are held as float32 and all compared. Of a large one only the signs are held, 32 times
smaller: their Hamming distances choose the chunks whose exact cosines are then computed from the file.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mlx_jina.search.database import damaged, one
from mlx_jina.search.schema import NOTE_BITS

if TYPE_CHECKING:
    from mlx_jina.vectors import Floats

Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

EXACT_BYTES = 50_000 * 256 * 2
"""Of vectors in float16: an index with more is searched by their signs first."""
CHUNKS = 400
"""That are ranked, of all that are allowed."""
FEWEST_PICTURES = 8
"""Whose mean means something; fewer are compared with texts by their cosines as they are."""
# Of a large index's chunks at least this share is compared exactly: of 1M, 1,000.
_RESCORED_SHARE = 0.001
# Chunks that stand for the mean over a large index.
_SAMPLE = 256
# Notes that are read together, where all are.
_NOTES_AT_A_TIME = 10_000


@dataclass(frozen=True)
class Meaning:
    """What a query's vector found.

    A chunk's cosine is the mean of its own and its note's: of two paragraphs alike, the one in a note about the
    subject is better.
    """

    scores: dict[int, float]
    """Cosines by chunk, best first: of the best, and of those that were asked for."""
    mean: float
    """Over all allowed chunks; where texts are among them, over these."""
    best: float
    """The highest cosine, or cosine with its lift."""
    lifts: Mapping[int, float] = field(default_factory=dict)
    """What is added to the cosine of a chunk that is a picture, so that pictures and texts have one mean."""


class Vectors(ABC):
    """The vectors of one state of an index: notes in the order of their ids, chunks in that of their notes."""

    def __init__(self, dimension: int, notes: Sequence[int], counts: Sequence[int]) -> None:
        self.dimension = dimension
        self.notes: Ids = np.array(notes, dtype=np.int64)
        self.counts: Ids = np.array(counts, dtype=np.int64)
        """Chunks of each note."""
        self.first: Ids = np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)
        """Where each note's chunks begin, and the end of all."""
        self.pictures: Ids = np.empty(0, dtype=np.int64)
        """The places of the chunks that are pictures."""

    def __len__(self) -> int:
        return int(self.first[-1])

    def rank(
        self,
        connection: sqlite3.Connection,
        query: Floats,
        allowed: Collection[int] | None,
        asked: Collection[int],
        notes: int,
    ) -> Meaning | None:
        """The chunks nearest to a query (D,), of `notes` notes at least, and the `asked` ones.

        `allowed` are the notes that count, all of them if None. Returns None if none of these has a vector.
        """
        if not len(self):
            return None
        rows = self.rows(asked)
        if allowed is None:
            return self._rank(connection, query, None, rows, notes)
        chunks = np.repeat(self.mask(allowed), self.counts)
        return self._rank(connection, query, chunks, rows[chunks[rows]], notes) if chunks.any() else None

    @abstractmethod
    def _rank(
        self, connection: sqlite3.Connection, query: Floats, allowed: Mask | None, asked: Ids, notes: int
    ) -> Meaning:
        """`rank` where some chunk is allowed, by the places of chunks."""

    def _meaning(self, rows: Ids, values: Floats, mean: float, lift: float) -> Meaning:
        """From cosines by place, those of pictures with their lift; what is not allowed is -inf."""
        ids = self.ids(rows)
        order = np.lexsort((ids, -values))
        order = order[np.isfinite(values[order])]
        best, lifts = float(values[order[0]]), {}
        if lift:
            seen = np.isin(rows, self.pictures)
            values = np.where(seen, values - lift, values)
            lifts = dict.fromkeys(ids[seen].tolist(), lift)
        scores = dict(zip(ids[order].tolist(), values[order].tolist(), strict=True))
        return Meaning(scores, mean, best, lifts)

    @abstractmethod
    def nearest_notes(
        self, connection: sqlite3.Connection, query: Floats, allowed: Collection[int], count: int
    ) -> list[tuple[int, float]]:
        """The notes nearest to a query (D,), each as its nearest chunk, with the cosine of the note."""

    @abstractmethod
    def note_vectors(self, connection: sqlite3.Connection) -> Floats:
        """The vectors of all notes, (N, D)."""

    def of_note(self, connection: sqlite3.Connection, note: int) -> Floats | None:
        """The vectors of a note's chunks, (n, D)."""
        return of_note(connection, note, self.dimension)

    def ids(self, rows: Ids) -> Ids:
        """The ids of chunks by their place here."""
        note = np.searchsorted(self.first, rows, side="right") - 1
        return (self.notes[note] << NOTE_BITS) + rows - self.first[note]

    def rows(self, chunks: Collection[int]) -> Ids:
        """The places of those chunks that have a vector."""
        ids: Ids = np.fromiter(chunks, dtype=np.int64, count=len(chunks))
        note = np.searchsorted(self.notes, ids >> NOTE_BITS)
        note = np.minimum(note, len(self.notes) - 1)
        number = ids & ((1 << NOTE_BITS) - 1)
        known = (self.notes[note] == ids >> NOTE_BITS) & (number < self.counts[note])
        return (self.first[note] + number)[known]

    def mask(self, allowed: Collection[int]) -> Mask:
        """Which notes are allowed."""
        return np.isin(self.notes, np.fromiter(allowed, dtype=np.int64, count=len(allowed)))

    def kinds(self, allowed: Mask | None) -> tuple[Ids, Ids] | None:
        """The places of texts and of pictures; None where they are ranked alike, as there are few of one kind."""
        if len(self.pictures) < FEWEST_PICTURES:
            return None
        is_picture = np.zeros(len(self), dtype=np.bool_)
        is_picture[self.pictures] = True
        texts = np.flatnonzero(~is_picture if allowed is None else allowed & ~is_picture)
        seen = np.flatnonzero(is_picture if allowed is None else allowed & is_picture)
        return (texts, seen) if len(texts) and len(seen) >= FEWEST_PICTURES else None

    def best(self, values: Floats, count: int, notes: int) -> Ids:
        """The places of the `count` highest of all chunks' values, or of more until they are of `notes` notes.

        What is -inf is not allowed.
        """
        possible = int(np.isfinite(values).sum())
        while True:
            count = min(count, possible)
            rows: Ids = np.argpartition(-values, max(count - 1, 0))[:count]
            if count == possible or len(np.unique(self.ids(rows) >> NOTE_BITS)) >= notes:
                return rows
            count *= 10


class ExactVectors(Vectors):
    """All of an index's vectors in float32."""

    def __init__(self, dimension: int, rows: Sequence[tuple[int, bytes]]) -> None:
        super().__init__(dimension, [note for note, _ in rows], _counts(rows, 2 * dimension))
        data = np.frombuffer(b"".join(v for _, v in rows), dtype=np.float16)
        vectors: Floats = data.reshape(-1, dimension).astype(np.float32)
        self.means = note_vectors(vectors, self.first)
        """A vector for each note."""
        vectors += np.repeat(self.means, self.counts, axis=0)
        vectors /= 2
        self.mixed = vectors
        """Of each chunk, its vector's mean with its note's."""

    def _rank(
        self, connection: sqlite3.Connection, query: Floats, allowed: Mask | None, asked: Ids, notes: int
    ) -> Meaning:
        values = products(self.mixed, query)
        lift, kinds = 0.0, self.kinds(allowed)
        if kinds is None:
            mean = float((values if allowed is None else values[allowed]).mean())
        else:
            mean, lift = _lifted(values, *kinds)
        if allowed is not None:
            values[~allowed] = -np.inf
        rows = np.union1d(self.best(values, CHUNKS, notes), asked)
        return self._meaning(rows, values[rows], mean, lift)

    def nearest_notes(
        self, connection: sqlite3.Connection, query: Floats, allowed: Collection[int], count: int
    ) -> list[tuple[int, float]]:
        cosines = products(self.means, query)
        cosines[~self.mask(allowed)] = -np.inf
        found = []
        for place in np.argsort(-cosines, kind="stable")[: min(count, len(allowed))].tolist():
            first, stop = self.first[place : place + 2].tolist()
            number = int(np.argmax(products(self.mixed[first:stop], query)))
            found.append(((int(self.notes[place]) << NOTE_BITS) + number, float(cosines[place])))
        return found

    def note_vectors(self, connection: sqlite3.Connection) -> Floats:
        return self.means


class SignVectors(Vectors):
    """The signs of an index's vectors, and the file for the rest."""

    def __init__(self, dimension: int, rows: Sequence[tuple[int, bytes]]) -> None:
        width = dimension // 8
        super().__init__(dimension, [note for note, _ in rows], [n - 1 for n in _counts(rows, width, least=2)])
        bits = np.frombuffer(b"".join(b for _, b in rows), dtype=np.uint8).reshape(-1, width)
        # Each note's last row is its mean's.
        last = self.first[1:] + np.arange(len(rows))
        self.means = _words(bits[last])
        self.bits = _words(np.delete(bits, last, axis=0))
        self._averages: list[Floats] | None = None

    def _rank(
        self, connection: sqlite3.Connection, query: Floats, allowed: Mask | None, asked: Ids, notes: int
    ) -> Meaning:
        bits = _words(np.packbits(query > 0)[None])
        distances = _distances(self.bits, bits) + np.repeat(_distances(self.means, bits), self.counts)
        values = -distances.astype(np.float32)
        kinds = self.kinds(allowed)
        if kinds is not None:
            _lifted(values, *kinds)
        rows = np.arange(len(self)) if allowed is None else np.flatnonzero(allowed)
        if allowed is not None:
            values[~allowed] = -np.inf
        means = [float(average @ query) for average in self._averages_of(connection, kinds or (rows,), allowed)]
        rescored = self.best(values, max(CHUNKS, int(len(rows) * _RESCORED_SHARE)), notes)
        near, lift = np.union1d(rescored, asked), means[0] - means[-1]
        cosines = products(self._mixed(connection, near), query)
        cosines[np.isin(near, self.pictures)] += lift
        return self._meaning(near, cosines, means[0], lift)

    def nearest_notes(
        self, connection: sqlite3.Connection, query: Floats, allowed: Collection[int], count: int
    ) -> list[tuple[int, float]]:
        distances = _distances(self.means, _words(np.packbits(query > 0)[None])).astype(np.float32)
        distances[~self.mask(allowed)] = np.inf
        near = np.argsort(distances, kind="stable")[: min(max(4 * count, CHUNKS), len(allowed))]
        near = np.sort(near[np.isfinite(distances[near])])
        if not len(near):
            return []
        vectors, first = self._read(connection, near)
        chunks, cosines = products(vectors, query), products(note_vectors(vectors, first), query)
        found = []
        for place in np.argsort(-cosines, kind="stable")[:count].tolist():
            number = int(np.argmax(chunks[first[place] : first[place + 1]]))
            found.append(((int(self.notes[near[place]]) << NOTE_BITS) + number, float(cosines[place])))
        return found

    def note_vectors(self, connection: sqlite3.Connection) -> Floats:
        found = np.empty((len(self.notes), self.dimension), dtype=np.float32)
        for start in range(0, len(found), _NOTES_AT_A_TIME):
            places = np.arange(start, min(start + _NOTES_AT_A_TIME, len(found)))
            found[places] = note_vectors(*self._read(connection, places))
        return found

    def _averages_of(
        self, connection: sqlite3.Connection, kinds: Sequence[Ids], allowed: Mask | None
    ) -> list[Floats]:
        """The mean of what the chunks of each kind are compared as, of some that stand for all."""
        if allowed is None and self._averages is not None:
            return self._averages
        found = [self._mixed(connection, _sample(rows)).mean(axis=0) for rows in kinds]
        if allowed is None:
            self._averages = found
        return found

    def _mixed(self, connection: sqlite3.Connection, rows: Ids) -> Floats:
        """The means of chunks' vectors and their notes', by the places of the chunks, which are sorted."""
        places, inverse = np.unique(np.searchsorted(self.first, rows, side="right") - 1, return_inverse=True)
        vectors, first = self._read(connection, places)
        means = note_vectors(vectors, first)
        own = first[inverse] + rows - self.first[places[inverse]]
        mixed: Floats = (vectors[own] + means[inverse]) / 2
        return mixed

    def _read(self, connection: sqlite3.Connection, places: Ids) -> tuple[Floats, Ids]:
        """The vectors of some notes, by their places here in order, and where each note's begin."""
        # Inlined, as there may be more than SQLite allows to be bound.
        ids = ",".join(map(str, self.notes[places].tolist()))
        data = [v for (v,) in connection.execute(f"select v from vec where note in ({ids}) order by note")]
        if [len(v) for v in data] != (2 * self.dimension * self.counts[places]).tolist():
            raise damaged()
        vectors = np.frombuffer(b"".join(data), dtype=np.float16).reshape(-1, self.dimension).astype(np.float32)
        return vectors, np.concatenate([[0], np.cumsum(self.counts[places])]).astype(np.int64)


def read(connection: sqlite3.Connection, dimension: int) -> Vectors:
    """The vectors of an index, as the connection sees it."""
    chunks = (one(connection, "select count(*) from fts_docsize")) or 0
    found: Vectors
    if 2 * dimension * chunks <= EXACT_BYTES or dimension % 8:
        found = ExactVectors(dimension, connection.execute("select note, v from vec order by note").fetchall())
    else:
        found = SignVectors(dimension, connection.execute("select note, b from bits order by note").fetchall())
    seen = [own for (own,) in connection.execute("select id from chunk where picture is not null")]
    if seen and len(found):
        found.pictures = found.rows(seen)
    return found


def of_note(connection: sqlite3.Connection, note: int, dimension: int) -> Floats | None:
    """The vectors of a note's chunks, (n, D); None if they have not been made."""
    rows = connection.execute("select note, v from vec where note = ?", (note,)).fetchall()
    if not rows:
        return None
    (count,), ((_, data),) = _counts(rows, 2 * dimension), rows
    return np.frombuffer(data, dtype=np.float16).reshape(count, dimension).astype(np.float32)


def _counts(rows: Sequence[tuple[int, bytes]], width: int, least: int = 1) -> list[int]:
    """How many rows of so many bytes each note has. Raises what SQLite does for a damaged file."""
    if any(len(data) % width or len(data) < least * width for _, data in rows):
        raise damaged()
    return [len(data) // width for _, data in rows]


def products(rows: Floats, query: Floats) -> Floats:
    """The product of each row (N, D) with a vector (D,).

    Not by BLAS: memory sets the speed here, and OpenBLAS's threads would spin on for milliseconds, on the cores
    that encode the next query.
    """
    found: Floats = np.einsum("ij,j->i", rows, query)
    return found


def note_vectors(vectors: Floats, first: Ids) -> Floats:
    """A note's vector, of unit length, is the mean of its chunks'. `first` is where notes begin, and the end."""
    counts = np.diff(first)
    sums = np.empty((len(counts), vectors.shape[1]), dtype=np.float32)
    # Notes of as many chunks together: three times as fast as np.add.reduceat.
    for count in np.unique(counts).tolist():
        places = np.flatnonzero(counts == count)
        sums[places] = vectors[first[places][:, None] + np.arange(count)].sum(axis=1)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    # Two chunks may be opposites.
    sums /= np.where(lengths > 0, lengths, 1)
    return sums


def _sample(rows: Ids) -> Ids:
    """Some of many, evenly spaced."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(_SAMPLE, len(rows)), dtype=np.int64))]


def _lifted(values: Floats, texts: Ids, pictures: Ids) -> tuple[float, float]:
    """Give pictures the mean that texts have. Returns this mean, and what is added to pictures."""
    mean = float(values[texts].mean())
    lift = mean - float(values[pictures].mean())
    values[pictures] += lift
    return mean, lift


def _words(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Rows of bytes (N, B), as columns of 64 bits (B / 8, N), which are counted five times as fast as rows."""
    spare = -bits.shape[1] % 8
    return np.ascontiguousarray(np.pad(bits, ((0, 0), (0, spare))).view(np.uint64).T)


def _distances(bits: npt.NDArray[np.uint64], query: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint16]:
    """Hamming distances (N,) of columns (B, N) and a query (B, 1)."""
    different = bits ^ query
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(different).sum(axis=0, dtype=np.uint16)
    # NumPy 1: the bits of every 16 are in a table.
    return _BITS_OF_16[different.view(np.uint16)].reshape(*different.shape, 4).sum(axis=(0, 2), dtype=np.uint16)


_BITS_OF_16 = np.array([0], dtype=np.uint8)
for _ in range(16):
    _BITS_OF_16 = np.concatenate([_BITS_OF_16, _BITS_OF_16 + 1])
