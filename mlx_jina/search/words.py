"""The words half: BM25 of chunks by SQLite's FTS5, over any of a query's words."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from mlx_jina.search.database import one
from mlx_jina.search.postings import BM25, Terms
from mlx_jina.search.schema import NOTE_BITS

if TYPE_CHECKING:
    from mlx_jina.search.postings import Floats, Integers

CHUNKS = 400
"""That are ranked, of all that match."""


@dataclass(frozen=True)
class Words:
    """What the words of a query found."""

    scores: dict[int, float] = field(default_factory=dict)
    """BM25 by chunk, best first."""
    counts: dict[str, int] = field(default_factory=dict)
    """In how many chunks each term occurs; a term in more than half of all is counted no further."""
    dropped: tuple[str, ...] = ()
    """Terms that are in more than half of all chunks, and say nothing."""


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
    scores = known.scores(connection, kept, total)
    best = _by_fts5(connection, kept, allowed) if scores is None else _by_score(*scores, allowed)
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
    connection: sqlite3.Connection, terms: Collection[str], allowed: Collection[int] | None
) -> Callable[[int], dict[int, float]]:
    """The first chunks of an order that FTS5 makes."""
    sql = f"select rowid, {BM25} as score from fts where fts match ? order by score desc, rowid"

    def best(limit: int) -> dict[int, float]:
        rows = connection.execute(sql, (" OR ".join(terms),))
        return dict(islice((row for row in rows if allowed is None or row[0] >> NOTE_BITS in allowed), limit))

    return best


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
