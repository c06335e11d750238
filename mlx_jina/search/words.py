"""The words half: BM25 of chunks, over any of a query's words.

SQLite's FTS5 ranks for the first searches, which need no NumPy then, and postings in memory for those after them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlx_jina.search.database import damaged, one
from mlx_jina.search.postings import BM25, MOST_FREQUENCY, Postings, idf
from mlx_jina.search.schema import NOTE_BITS

if TYPE_CHECKING:
    from mlx_jina.search.postings import Floats, Integers

CHUNKS = 400
"""That are ranked, of all that match."""
# A pruned search is tried where its bound is up to so many times what the estimate says that it will find.
_HOPE = 1.3


@dataclass(frozen=True)
class Words:
    """What the words of a query found."""

    scores: dict[int, float] = field(default_factory=dict)
    """BM25 by chunk, best first."""
    counts: dict[str, int] = field(default_factory=dict)
    """In how many chunks each term occurs; a term in more than half of all is counted no further."""
    dropped: tuple[str, ...] = ()
    """Terms that are in more than half of all chunks, and say nothing."""
    covered: float = 0.0
    """The best score over the highest that a chunk could have with all terms; one in no chunk counts most."""


def rank(
    connection: sqlite3.Connection,
    terms: Sequence[str],
    allowed: Collection[int] | None,
    notes: int,
    postings: Postings,
) -> Words:
    """The chunks that match any of the terms, best first: of `notes` notes at least, if there are so many.

    `allowed` are the notes that count, all of them if None.
    """
    total = one(connection, "select count(*) from fts_docsize")
    counts = postings.counts(connection, terms, total // 2 + 1)
    dropped = _dropped(counts, total // 2)
    kept = {term: count for term, count in counts.items() if term not in dropped}
    if not kept:
        return Words({}, counts, tuple(dropped))
    scores = postings.scores(connection, kept, total)
    best = _by_fts5(connection, kept, total, allowed) if scores is None else _by_score(*scores, allowed)
    limit = CHUNKS
    while True:
        found = best(limit)
        if len(found) < limit or len({chunk >> NOTE_BITS for chunk in found}) >= notes:
            most = MOST_FREQUENCY * sum(idf(total, count) for count in kept.values())
            return Words(found, counts, tuple(dropped), next(iter(found.values()), 0.0) / most)
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
        f"select rowid, {BM25} as score from fts where fts match ? {condition} order by score desc, rowid limit ?"
    )

    def best(limit: int) -> dict[int, float]:
        found: list[tuple[int, float]] = []
        for expression, least in _plans(counts, total, limit) if allowed is None else [(" OR ".join(counts), 0.0)]:
            found = connection.execute(sql, (expression, limit)).fetchall()
            if found and found[0][1] is None:
                # FTS5 does not know how long the chunks are.
                raise damaged()
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
    weights = {term: idf(total, count) for term, count in counts.items()}
    ordered = sorted(counts, key=counts.__getitem__)
    matches = 0
    for place, term in enumerate(ordered[:-1], 1):
        matches += counts[term]
        others, common = ordered[:place], ordered[place:]
        bound = MOST_FREQUENCY * sum(weights[each] for each in common)
        if matches >= limit and bound <= _HOPE * weights[term]:
            if 2 * sum(counts[each] for each in common) > matches:
                yield f"({every}) NOT (({' OR '.join(common)}) NOT ({' OR '.join(others)}))", bound
            break
    yield every, 0.0


def _by_score(
    chunks: Integers, scores: Floats, allowed: Collection[int] | None
) -> Callable[[int], dict[int, float]]:
    """The same of scores (N) that are known, of `chunks` (N) in ascending order."""
    import numpy as np

    found = np.flatnonzero(scores)
    if allowed is not None:
        notes = np.fromiter(allowed, np.int64, len(allowed))
        found = found[np.isin(chunks[found] >> NOTE_BITS, notes)]
    scores = scores[found]

    def best(limit: int) -> dict[int, float]:
        least = np.partition(scores, -limit)[-limit] if limit < len(scores) else 0.0
        near = np.flatnonzero(scores >= least)
        order = near[np.argsort(-scores[near], kind="stable")][:limit]
        return dict(zip(chunks[found[order]].tolist(), scores[order].tolist(), strict=True))

    return best


def _allow(connection: sqlite3.Connection, notes: Collection[int]) -> None:
    connection.execute("create temp table if not exists allowed(note integer primary key)")
    connection.execute("delete from temp.allowed")
    connection.executemany("insert into temp.allowed values (?)", [(note,) for note in notes])
