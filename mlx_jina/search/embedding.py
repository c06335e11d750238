"""Vectors for the notes that have none yet: reused where the same text was embedded before, else computed."""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mlx_jina.search import chunks, notes, schema
from mlx_jina.search.database import Database, one
from mlx_jina.search.documents.kinds import is_picture
from mlx_jina.search.model import Model, Progress, Space
from mlx_jina.search.schema import NOTE_BITS
from mlx_jina.search.sources import Source, decoded, source_of

# Tokens that are encoded and written at a time: as many as take about so long.
_WINDOW_SECONDS = 1.5
_FIRST_WINDOW, _LARGEST_WINDOW = 4096, 131_072
# The first window where there is a deadline: a slow model should not miss it by much.
_CAUTIOUS_WINDOW = 512
# Chunks that are written at a time where nothing has to be computed.
_REUSED = 4096
# What a picture counts as: those of v4 and v5-omni have 256 to 1,280 tokens.
PICTURE_TOKENS = 768
# Windows that are tokenised or computed at the same time.
_AHEAD = 2
# How long vectors of chunks that no note has any more are kept, and how many at most.
_CACHE_SECONDS, _CACHE_ROWS = 30 * 86_400, 20_000


class Missing(NamedTuple):
    """A chunk without a vector: the hash and the text of what is embedded of it."""

    hash: bytes
    text: str
    tokens: int
    picture: Source | None = None
    """Where the picture comes from that is embedded instead of the text."""


class Made(NamedTuple):
    """What became of a window's missing vectors: float16 by hash, and why there are none, None for no fault."""

    vectors: dict[bytes, bytes]
    faults: dict[bytes, str | None]


@dataclass
class Window:
    """Notes whose missing vectors are computed together."""

    notes: list[tuple[int, list[bytes]]] = field(default_factory=list)
    """Each with the hashes of its chunks, in order."""
    found: dict[bytes, bytes] = field(default_factory=dict)
    """Vectors that exist already, by hash."""
    missing: dict[bytes, Missing] = field(default_factory=dict)
    tokens: int = 0
    """Of what is missing."""


class Embedder:
    """Gives vectors to notes, in the order they are named in.

    The model is called by two threads at once. `skipped` gets pictures that cannot be decoded, and why.
    """

    def __init__(
        self,
        database: Database,
        space: Space,
        model: Model,
        deadline: float,
        progress: Progress,
        skipped: list[tuple[str, str]],
    ) -> None:
        self.database = database
        self.space = space
        self.model = model
        self.deadline = deadline
        self.progress = progress
        self.skipped = skipped
        self.done = 0
        self._seconds_per_token: float | None = None

    def run(self, waiting: Sequence[int]) -> int:
        """Give vectors to as many of the notes as there is time for. Returns to how many."""
        with ThreadPoolExecutor(_AHEAD, thread_name_prefix="mlx-jina-index") as executor:
            queue: deque[tuple[Window, Future[Made]]] = deque()
            try:
                for window in self._windows(waiting):
                    queue.append((window, executor.submit(self._encode, window)))
                    # Until it is known how fast the model is, one at a time.
                    while len(queue) >= (_AHEAD if self._seconds_per_token is not None else 1):
                        self._write(*queue.popleft(), len(waiting))
                while queue:
                    self._write(*queue.popleft(), len(waiting))
            finally:
                for _, future in queue:
                    future.cancel()
        return self.done

    def _windows(self, waiting: Sequence[int]) -> Iterator[Window]:
        window = Window()
        for note in waiting:
            with self.database.reading() as connection:
                hashes, found, missing = self._look(connection, note)
            tokens = sum(chunk.tokens for chunk in missing)
            if window.notes and (window.tokens + tokens > self._limit() or len(window.found) > _REUSED):
                yield window
                window = Window()
            if missing and time.monotonic() >= self.deadline:
                break
            window.notes.append((note, hashes))
            window.found.update(found)
            for chunk in missing:
                # A note may be larger than any window: what is computed of it waits in the cache for the rest.
                if window.missing and window.tokens + chunk.tokens > self._limit():
                    yield window
                    if time.monotonic() >= self.deadline:
                        return
                    window = Window([(note, hashes)], dict(found))
                if chunk.hash not in window.missing:
                    window.missing[chunk.hash] = chunk
                    window.tokens += chunk.tokens
        if window.notes:
            yield window

    def _limit(self) -> int:
        """Tokens of the next window."""
        if self._seconds_per_token is None:
            return _FIRST_WINDOW if self.deadline == float("inf") else _CAUTIOUS_WINDOW
        seconds = min(_WINDOW_SECONDS, max(self.deadline - time.monotonic(), 0) / _AHEAD)
        return min(_LARGEST_WINDOW, int(seconds / self._seconds_per_token))

    def _look(
        self, connection: sqlite3.Connection, note: int
    ) -> tuple[list[bytes], dict[bytes, bytes], list[Missing]]:
        """A note's chunks: all hashes, the vectors that are known, and the rest."""
        hashes: list[bytes] = []
        found: dict[bytes, bytes] = {}
        missing: list[Missing] = []
        title = one(connection, "select title from note where id = ?", note) or ""
        for chunk, own, heading, lead, body, page in connection.execute(
            "select id, hash, heading, lead, body, picture from chunk where id between ? and ?", schema.span(note)
        ):
            hashes.append(own)
            if (vector := self._cached(connection, own) or self._live(connection, own)) is not None:
                found[own] = vector
            elif page is not None:
                missing.append(Missing(own, title, PICTURE_TOKENS, source_of(connection, chunk)))
            else:
                text = chunks.embedded(title, heading, lead, body)
                missing.append(Missing(own, text, chunks.estimate(text)))
        return hashes, found, missing

    def _cached(self, connection: sqlite3.Connection, own: bytes) -> bytes | None:
        """The vector of a text that a note had, or of a part of one that is not done yet."""
        sql = "select v from cache where hash = ? and fingerprint = ?"
        return self._whole(one(connection, sql, own, self.space.fingerprint))

    def _live(self, connection: sqlite3.Connection, own: bytes) -> bytes | None:
        """The vector of the same text in another note."""
        row = connection.execute(
            f"select id, v from chunk join vec{self.space.suffix} as made on made.note = id >> {NOTE_BITS} "
            "where chunk.hash = ? limit 1",
            (own,),
        ).fetchone()
        if row is None:
            return None
        start = 2 * self.space.dimension * (row[0] & (1 << NOTE_BITS) - 1)
        return self._whole(bytes(row[1][start : start + 2 * self.space.dimension]))

    def _whole(self, vector: bytes | None) -> bytes | None:
        """A vector that is kept, unless it is not as long as the model's: then it is made anew."""
        return vector if vector is not None and len(vector) == 2 * self.space.dimension else None

    def _encode(self, window: Window) -> Made:
        made = Made({}, {})
        if not window.missing:
            return made
        started = time.monotonic()
        missing = list(window.missing.values())
        sources = [(n, chunk.picture) for n, chunk in enumerate(missing) if chunk.picture is not None]
        rows = self._see(sources) if sources else {}
        for n, source in sources:
            own, row = missing[n].hash, rows.get(n)
            if isinstance(row, bytes):
                made.vectors[own] = row
            elif is_picture(source.path) or row is None:
                made.faults[own] = row
        # A page that cannot be drawn is still found, by its title.
        texts = [chunk for chunk in missing if chunk.hash not in made.vectors and chunk.hash not in made.faults]
        if texts:
            vectors = self.model.encode_documents([chunk.text for chunk in texts]).astype(np.float16)
            made.vectors.update((chunk.hash, row.tobytes()) for chunk, row in zip(texts, vectors, strict=True))
        self._seconds_per_token = (time.monotonic() - started) / max(1, window.tokens)
        return made

    def _see(self, sources: Sequence[tuple[int, Source]]) -> dict[int, bytes | str | None]:
        """Vectors of pictures by their places, or why there are none; None for files that are not as they were."""
        if not self.space.sees:
            return dict.fromkeys(place for place, _ in sources)
        faults: dict[int, str | None] = {}
        rows = self.model.encode_pictures(decoded(sources, faults))
        found = {place: row.astype(np.float16).tobytes() for place, row in rows}
        return {**faults, **found}

    def _write(self, window: Window, future: Future[Made], total: int) -> None:
        made, faults = future.result()
        now = time.time()
        used: set[bytes] = set()
        done = 0
        with self.database.writing() as connection:
            for note, hashes in window.notes:
                vectors = [self._vector(connection, own, made, window.found) for own in hashes]
                whole = [vector for vector in vectors if vector is not None]
                if len(whole) == len(hashes):
                    # A note without chunks, or with others meanwhile, would be counted for ever.
                    if self._put(connection, note, hashes, whole, now):
                        used.update(hashes)
                        done += 1
                elif (why := next(filter(None, map(faults.get, hashes)), None)) and (
                    path := notes.give_up(connection, note, hashes, why)
                ):
                    self.skipped.append((path, why))
            fingerprint = self.space.fingerprint
            connection.executemany(
                "replace into cache(hash, fingerprint, v, at) values (?, ?, ?, ?)",
                [(own, fingerprint, vector, now) for own, vector in made.items() if own not in used],
            )
            connection.executemany(
                "delete from cache where hash = ? and fingerprint = ?",
                [(own, fingerprint) for own in used if own in window.found or own not in made],
            )
        self.done += done
        self.progress("vectors", self.done, total)

    def _vector(
        self, connection: sqlite3.Connection, own: bytes, made: Mapping[bytes, bytes], found: Mapping[bytes, bytes]
    ) -> bytes | None:
        return made.get(own) or found.get(own) or self._cached(connection, own)

    def _put(
        self,
        connection: sqlite3.Connection,
        note: int,
        hashes: Sequence[bytes],
        vectors: Sequence[bytes],
        now: float,
    ) -> bool:
        data = b"".join(vectors)
        bits, suffix = signs(data, self.space.dimension), self.space.suffix
        if not notes.put_vectors(connection, note, hashes, data, bits, suffix):
            return False
        if not suffix:
            connection.execute("update note set vectors_at = ? where id = ?", (now, note))
        return True


def signs(vectors: bytes, dimension: int) -> bytes:
    """The sign bits of a note's vectors and of their mean, packed: rows of (n + 1, D / 8) bytes."""
    rows = np.frombuffer(vectors, dtype=np.float16).reshape(-1, dimension).astype(np.float32)
    return np.packbits(np.concatenate([rows, rows.sum(axis=0, keepdims=True)]) > 0, axis=-1).tobytes()


def prune(connection: sqlite3.Connection, now: float) -> None:
    """Forget vectors of chunks that have been gone for long, and the oldest of too many."""
    connection.execute("delete from cache where at < ?", (now - _CACHE_SECONDS,))
    if (rows := one(connection, "select count(*) from cache")) > _CACHE_ROWS:
        connection.execute(
            "delete from cache where (hash, fingerprint) in "
            "(select hash, fingerprint from cache order by at limit ?)",
            (rows - _CACHE_ROWS,),
        )
