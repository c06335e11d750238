"""The words half: BM25 of chunks by SQLite's FTS5, over any of a query's words.

Queries share their common words, and those cost the most. BM25 is a sum over words, so what a word matches is kept
from its second query on, and added up by NumPy. Searches before that are FTS5's, which need not look at every
chunk with a common word (`_plans`); a first one imports no NumPy.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlx_jina.search.database import one
from mlx_jina.search.schema import NOTE_BITS, WEIGHTS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Matches = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
    """Ascending ids of chunks, and BM25 of each."""

CHUNKS = 400
"""That are ranked, of all that match."""
# What is kept: counts of so many terms, and matches of so many and one query more, which take 16 bytes each.
_COUNTS = 10_000
_MATCHES = 4_000_000
# Matches that one search reads at most; more are left to FTS5.
_MANY = 100_000
# In SQLite's bm25 a term brings less than so many times its weight: k1 + 1.
_MOST = 2.2
# A pruned search is tried where its bound is up to so many times what the estimate says that it will find.
_HOPE = 1.3
_BM25 = f"-bm25(fts, {', '.join(map(str, WEIGHTS))})"


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
    asked: set[str] = field(default_factory=set)
    matches: dict[str, Matches] = field(default_factory=dict)
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

    def scores(self, connection: sqlite3.Connection, counts: Mapping[str, int], total: int) -> Matches | None:
        """BM25 of all chunks with any of the terms in `counts`, summed in their order as FTS5 does it.

        None where FTS5 does better: while most matches are of terms that are new, or too many to be kept.
        """
        # Terms in more than half of all chunks, `total`, were counted no further.
        sizes = {term: count if count <= total // 2 else total for term, count in counts.items()}
        kept = self._of(connection)
        known = kept.asked if kept.size < _MATCHES else kept.matches
        new = [term for term in counts if term not in known]
        kept.asked.update(new)
        unread = sum(size for term, size in sizes.items() if term not in kept.matches)
        # To read a match takes twice as long as FTS5 takes to rank it.
        costly = 2 * sum(sizes[term] for term in new) > sum(sizes.values())
        if costly or unread > _MANY or len(new) == len(counts):
            return None
        import numpy as np

        found = [self._matches(connection, kept, term) for term in counts]
        chunks = np.concatenate([chunks for chunks, _ in found])
        scores = np.concatenate([scores for _, scores in found])
        order = np.argsort(chunks, kind="stable")
        chunks, scores = chunks[order], scores[order]
        first = np.flatnonzero(np.diff(chunks, prepend=-1))
        return chunks[first], np.add.reduceat(scores, first)

    def _matches(self, connection: sqlite3.Connection, kept: _Kept, term: str) -> Matches:
        import numpy as np

        if (found := kept.matches.get(term)) is None:
            sql = f"select rowid, {_BM25} from fts where fts match ? order by rowid"
            rows = connection.execute(sql, (term,)).fetchall()
            found = (
                np.fromiter((chunk for chunk, _ in rows), dtype=np.int64, count=len(rows)),
                np.fromiter((score for _, score in rows), dtype=np.float64, count=len(rows)),
            )
            if kept.size < _MATCHES:
                kept.matches[term] = found
                kept.size += len(rows)
        return found

    def _of(self, connection: sqlite3.Connection) -> _Kept:
        generation = one(connection, "select value from meta where key = 'generation'")
        kept = self._kept
        if kept.generation != generation or len(kept.counts) > _COUNTS:
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
    kept = {term: count for term, count in counts.items() if term not in dropped}
    if not kept:
        return Words({}, counts, tuple(dropped))
    # With a filter FTS5 computes only what passes it.
    scores = known.scores(connection, kept, total) if allowed is None else None
    best = _by_fts5(connection, kept, total, allowed) if scores is None else _by_score(*scores)
    limit = CHUNKS
    while True:
        found = best(limit)
        if len(found) < limit or len({chunk >> NOTE_BITS for chunk in found}) >= notes:
            return Words(found, counts, tuple(dropped))
        # One long note may have taken all places.
        limit *= 10


def _dropped(counts: Mapping[str, int], half: int) -> list[str]:
    """Terms that occur in more than `half` of all chunks, unless no others occur at all.

    FTS5's weight of such a word is its smallest (1e-6), but it costs most of the time of a query.
    """
    if not any(0 < count <= half for count in counts.values()):
        return []
    return [term for term, count in counts.items() if count > half]


def _by_fts5(
    connection: sqlite3.Connection, counts: Mapping[str, int], total: int, allowed: Collection[int] | None
) -> Callable[[int], dict[int, float]]:
    """The first chunks of an order that FTS5 makes."""
    condition = ""
    if allowed is not None:
        _allow(connection, allowed)
        # As an expression, so that SQLite does not look up every note in FTS's own index instead.
        condition = f"and (rowid >> {NOTE_BITS}) in (select note from temp.allowed)"
    sql = (
        f"select rowid, {_BM25} as score from fts where fts match ? {condition} order by score desc, rowid limit ?"
    )

    def best(limit: int) -> dict[int, float]:
        found: list[tuple[int, float]] = []
        for expression, least in _plans(counts, total, limit) if allowed is None else [(" OR ".join(counts), 0.0)]:
            found = connection.execute(sql, (expression, limit)).fetchall()
            if len(found) == limit and found[-1][1] >= least:
                break
        return dict(found)

    return best


def _plans(counts: Mapping[str, int], total: int, limit: int) -> Iterator[tuple[str, float]]:
    """Expressions, each for what those before did not find, and the score that the last of its chunks must have.

    A chunk with common words alone has a score below a bound. If enough chunks with others are above it, none such
    has to be looked at (MaxScore, Turtle and Flood 1995, https://doi.org/10.1016/0306-4573(95)00020-H), and
    `all NOT (common NOT others)` has the same first chunks, with the same scores, as all words have.
    """
    every = " OR ".join(counts)
    weights = {term: max(1e-6, math.log((total - n + 0.5) / (n + 0.5))) for term, n in counts.items()}
    ordered = sorted(counts, key=counts.__getitem__)
    matches = 0
    for place, term in enumerate(ordered[:-1], 1):
        matches += counts[term]
        others, common = ordered[:place], ordered[place:]
        bound = _MOST * sum(weights[each] for each in common)
        if matches >= limit and bound <= _HOPE * weights[term]:
            if 2 * sum(counts[each] for each in common) > matches:
                yield f"({every}) NOT (({' OR '.join(common)}) NOT ({' OR '.join(others)}))", bound
            break
    yield every, 0.0


def _by_score(chunks: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]) -> Callable[[int], dict[int, float]]:
    """The same of scores that are known."""
    import numpy as np

    def best(limit: int) -> dict[int, float]:
        least = np.partition(scores, -limit)[-limit] if limit < len(scores) else 0.0
        near = np.flatnonzero(scores >= least)
        order = near[np.lexsort((chunks[near], -scores[near]))][:limit]
        return dict(zip(chunks[order].tolist(), scores[order].tolist(), strict=True))

    return best


def _allow(connection: sqlite3.Connection, notes: Collection[int]) -> None:
    connection.execute("create temp table if not exists allowed(note integer primary key)")
    connection.execute("delete from temp.allowed")
    connection.executemany("insert into temp.allowed values (?)", [(note,) for note in notes])
