"""Words and meaning in one list: the sum of their scores, each scaled by what the same query found elsewhere.

    score = weight * (cosine - mean) / (best - mean) + (1 - weight) * bm25 / best bm25

Ranks, as in reciprocal rank fusion, say less than scores: docs/search.md has the comparison.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_jina.search.schema import NOTE_BITS
from mlx_jina.search.words import Words

if TYPE_CHECKING:
    # A search by words does without NumPy.
    from mlx_jina.search.meaning import Meaning

WEIGHT = 0.5
"""Of the meaning half, where an index says nothing else."""
HALF_LIFE = 180 * 86_400
"""Seconds after which a note counts half, where the recent ones are preferred."""


@dataclass(frozen=True)
class Ranked:
    """A chunk and its scores."""

    chunk: int
    score: float
    cosine: float | None
    bm25: float | None
    named: bool = False
    """Whether the query is its note's title or alias."""

    @property
    def note(self) -> int:
        """The id of its note."""
        return self.chunk >> NOTE_BITS


def fuse(words: Words, meaning: Meaning | None, weight: float, named: Collection[int] = ()) -> list[Ranked]:
    """All chunks that either half found, best first; those of the `named` notes before the others.

    A half that knows nothing of a chunk gives it 0. Where no word matched at all, meaning decides alone, and words
    do where nothing has a vector.
    """
    if meaning is None:
        weight = 0.0
    elif not words.scores:
        weight = 1.0
    best = max(words.scores.values(), default=0.0) or 1.0
    chunks: Iterable[int] = words.scores if meaning is None else {**words.scores, **meaning.scores}
    ranked = []
    for chunk in chunks:
        bm25 = words.scores.get(chunk)
        cosine = meaning.scores.get(chunk) if meaning is not None else None
        score = (1 - weight) * (bm25 or 0.0) / best
        if meaning is not None and cosine is not None:
            score += weight * _scaled(cosine, meaning)
        ranked.append(Ranked(chunk, score, cosine, bm25, chunk >> NOTE_BITS in named))
    return sorted(ranked, key=_order)


def best_of_notes(ranked: Iterable[Ranked]) -> list[Ranked]:
    """The best chunk of every note, best first; of equal ones the earlier."""
    found: dict[int, Ranked] = {}
    for each in sorted(ranked, key=_order):
        found.setdefault(each.note, each)
    return list(found.values())


def with_ties(ranked: Sequence[Ranked], count: int) -> Sequence[Ranked]:
    """The first ones of a sorted list, and those that are as good as the last of them."""
    if len(ranked) <= count:
        return ranked
    stop = count
    while stop < len(ranked) and ranked[stop].score == ranked[count - 1].score:
        stop += 1
    return ranked[:stop]


def _order(each: Ranked) -> tuple[bool, float, int]:
    return not each.named, -each.score, each.chunk


def _scaled(cosine: float, meaning: Meaning) -> float:
    """0 for an average chunk, 1 for the best. Where all are alike, all are best."""
    spread = meaning.best - meaning.mean
    return (cosine - meaning.mean) / spread if spread > 1e-6 else 1.0
