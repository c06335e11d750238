"""The words half: BM25 of chunks by SQLite's FTS5, over any of a query's words."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mlx_jina.search.database import one
from mlx_jina.search.schema import NOTE_BITS, WEIGHTS

CHUNKS = 400
"""That are ranked, of all that match."""
# Terms whose counts are kept, at most.
_KEPT = 10_000


@dataclass(frozen=True)
class Words:
    """What the words of a query found."""

    scores: dict[int, float] = field(default_factory=dict)
    """BM25 by chunk, best first."""
    counts: dict[str, int] = field(default_factory=dict)
    """In how many chunks each term occurs; a term in more than half of all is counted no further."""
    dropped: tuple[str, ...] = ()
    """Terms that are in more than half of all chunks, and say nothing."""


class Counts:
    """In how many chunks terms occur, kept while an index stays as it is. Safe to share between threads."""

    def __init__(self) -> None:
        self._kept: tuple[int, dict[str, int]] = (-1, {})

    def of(self, connection: sqlite3.Connection, terms: Iterable[str], most: int) -> dict[str, int]:
        """By term, counted up to `most`, which is the same while the index is."""
        generation = one(connection, "select value from meta where key = 'generation'")
        kept = self._kept
        if kept[0] != generation or len(kept[1]) > _KEPT:
            kept = self._kept = (generation, {})
        sql = "select count(*) from (select 1 from fts where fts match ? limit ?)"
        for term in terms:
            if term not in kept[1]:
                kept[1][term] = one(connection, sql, term, most)
        return {term: kept[1][term] for term in terms}


def rank(
    connection: sqlite3.Connection,
    terms: Sequence[str],
    allowed: Collection[int] | None,
    notes: int,
    counts_of: Counts,
) -> Words:
    """The chunks that match any of the terms, best first: of `notes` notes at least, if there are so many.

    `allowed` are the notes that count, all of them if None.
    """
    total = one(connection, "select count(*) from fts_docsize")
    counts = counts_of.of(connection, terms, total // 2 + 1)
    dropped = _dropped(counts, total // 2)
    kept = [term for term in terms if term not in dropped]
    if not kept:
        return Words({}, counts, tuple(dropped))
    condition = ""
    if allowed is not None:
        _allow(connection, allowed)
        # As an expression, so that SQLite does not look up every note in FTS's own index instead.
        condition = f"and (rowid >> {NOTE_BITS}) in (select note from temp.allowed)"
    weights = ", ".join(map(str, WEIGHTS))
    sql = (
        f"select rowid, -bm25(fts, {weights}) as score from fts where fts match ? {condition} "
        f"order by score desc, rowid limit ?"
    )
    limit = CHUNKS
    while True:
        scores: dict[int, float] = dict(connection.execute(sql, (" OR ".join(kept), limit)).fetchall())
        if len(scores) < limit or len({chunk >> NOTE_BITS for chunk in scores}) >= notes:
            return Words(scores, counts, tuple(dropped))
        # One long note may have taken all places.
        limit *= 10


def _dropped(counts: Mapping[str, int], half: int) -> list[str]:
    """Terms that occur in more than `half` of all chunks, unless no others occur at all.

    FTS5's weight of such a word is its smallest (1e-6), but it costs most of the time of a query.
    """
    if not any(0 < count <= half for count in counts.values()):
        return []
    return [term for term, count in counts.items() if count > half]


def _allow(connection: sqlite3.Connection, notes: Collection[int]) -> None:
    connection.execute("create temp table if not exists allowed(note integer primary key)")
    connection.execute("delete from temp.allowed")
    connection.executemany("insert into temp.allowed values (?)", [(note,) for note in notes])
