"""The words half: BM25 of chunks by SQLite's FTS5, over any of a query's words.

FTS5's BM25 is a sum over terms, so it is asked for one term at a time and its answers are kept: what people type
repeats its common words, which cost the most.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mlx_jina.search.database import one
from mlx_jina.search.schema import NOTE_BITS, WEIGHTS

CHUNKS = 400
"""That are ranked, of all that match."""
# What is kept at most: counts of terms, and chunks of terms, which take 16 bytes each.
_COUNTS = 10_000
_POSTINGS = 2_000_000
_BM25 = f"select rowid, -bm25(fts, {', '.join(map(str, WEIGHTS))}) from fts where fts match ? order by rowid"


@dataclass(frozen=True)
class Words:
    """What the words of a query found."""

    scores: dict[int, float] = field(default_factory=dict)
    """BM25 by chunk, best first."""
    counts: dict[str, int] = field(default_factory=dict)
    """In how many chunks each term occurs; a term in more than half of all is counted no further."""
    dropped: tuple[str, ...] = ()
    """Terms that are in more than half of all chunks, and say nothing."""


@dataclass
class _Kept:
    """What is known of terms in one state of an index."""

    generation: int
    counts: dict[str, int] = field(default_factory=dict)
    postings: dict[str, tuple[array[int], array[float]]] = field(default_factory=dict)
    size: int = 0


class Terms:
    """What terms match, kept while an index stays as it is. Safe to share between threads."""

    def __init__(self) -> None:
        self._kept = _Kept(-1)

    def counts(self, connection: sqlite3.Connection, terms: Iterable[str], most: int) -> dict[str, int]:
        """In how many chunks each term occurs, counted up to `most`, which is the same while the index is."""
        kept = self._of(connection)
        sql = "select count(*) from (select 1 from fts where fts match ? limit ?)"
        for term in terms:
            if term not in kept.counts:
                kept.counts[term] = one(connection, sql, term, most)
        return {term: kept.counts[term] for term in terms}

    def scores(self, connection: sqlite3.Connection, terms: Iterable[str]) -> dict[int, float]:
        """BM25 of all chunks with any of the terms, by chunk.

        Summed in the order of the terms, as FTS5 does it: bit for bit what it gives for all of them together.
        """
        kept = self._of(connection)
        scores: dict[int, float] = {}
        for term in terms:
            found = kept.postings.get(term)
            if found is None:
                rows = connection.execute(_BM25, (term,)).fetchall()
                found = array("q", [chunk for chunk, _ in rows]), array("d", [score for _, score in rows])
                if kept.size < _POSTINGS:
                    kept.postings[term] = found
                    kept.size += len(rows)
            if not scores:
                scores = dict(zip(*found, strict=True))
                continue
            before = scores.get
            for chunk, score in zip(*found, strict=True):
                scores[chunk] = before(chunk, 0.0) + score
        return scores

    def _of(self, connection: sqlite3.Connection) -> _Kept:
        generation = one(connection, "select value from meta where key = 'generation'")
        kept = self._kept
        if kept.generation != generation or len(kept.counts) > _COUNTS or kept.size >= _POSTINGS:
            kept = self._kept = _Kept(generation)
        return kept


def rank(
    connection: sqlite3.Connection,
    terms: Sequence[str],
    allowed: Collection[int] | None,
    notes: int,
    known: Terms,
) -> Words:
    """The chunks that match any of the terms, best first: of `notes` notes at least, if there are so many.

    `allowed` are the notes that count, all of them if None.
    """
    total = one(connection, "select count(*) from fts_docsize")
    counts = known.counts(connection, terms, total // 2 + 1)
    dropped = _dropped(counts, total // 2)
    scores = known.scores(connection, [term for term in terms if term not in dropped])
    if allowed is not None:
        scores = {chunk: score for chunk, score in scores.items() if chunk >> NOTE_BITS in allowed}
    return Words(_best(scores, notes), counts, tuple(dropped))


def _dropped(counts: Mapping[str, int], half: int) -> list[str]:
    """Terms that occur in more than `half` of all chunks, unless no others occur at all.

    FTS5's weight of such a word is its smallest (1e-6), but it costs most of the time of a query.
    """
    if not any(0 < count <= half for count in counts.values()):
        return []
    return [term for term, count in counts.items() if count > half]


def _best(scores: dict[int, float], notes: int) -> dict[int, float]:
    """The first `CHUNKS`, or ten times as many and so on where one long note took all places."""
    limit = CHUNKS
    ordered = sorted(scores.values(), reverse=True)
    while True:
        least = ordered[limit - 1] if limit < len(ordered) else 0.0
        # Numbers alone sort much faster than pairs, of which few are left then.
        found = sorted((-score, chunk) for chunk, score in scores.items() if score >= least)[:limit]
        best = {chunk: -score for score, chunk in found}
        if len(best) < limit or len({chunk >> NOTE_BITS for chunk in best}) >= notes:
            return best
        limit *= 10
