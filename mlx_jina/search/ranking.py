"""Words and meaning in one list: the sum of their scores, each scaled by what the same query found elsewhere.

    score = weight * max(0, (cosine - mean) / (best - mean)) + (1 - weight) * bm25 / best bm25

The best match of words may still be a poor one, so `weight` grows where few of the query's words were found.
Texts and pictures have means of their own: their cosines with a query differ by what has nothing to do with it.
Ranks, as in reciprocal rank fusion, say less than scores: docs/search.md has the comparison.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mlx_jina.search.schema import NOTE_BITS
from mlx_jina.search.words import Words

if TYPE_CHECKING:
    # A search by words does without NumPy.
    from mlx_jina.search.meaning import Meaning

HALF_LIFE = 180 * 86_400
"""Seconds after which a note counts half, where the recent ones are preferred."""


ENOUGH = 0.35
"""Of the BM25 that all words of a query could bring: words of which no chunk has as much count less."""
RERANKED = 30
"""Hits that a reranker reads, if there are as many."""
# Cosines that differ by no more from their mean say nothing.
_ALIKE = 1e-3
# What is below the mean has nothing to do with the query, and how far below only orders equals. Of two notes that
# pass a filter one is below, and may be what the words mean.
_BELOW = 1e-4
# How much of a hit's score stays what it was, by its place (https://github.com/tobi/qmd): a reranker may lift what
# stands low, and does not easily throw out what words and meaning agree on.
_KEPT = ((3, 0.75), (10, 0.6), (RERANKED, 0.4))


class Scorer(Protocol):
    """What `mlx_jina.load_reranker` returns, or anything else that knows how well texts answer a query."""

    def score(self, query: str, documents: list[str], /) -> Iterable[float]:
        """A number from 0 to 1 for each document."""


class Ranked(NamedTuple):
    """A chunk and its scores."""

    chunk: int
    score: float
    cosine: float | None
    bm25: float | None
    named: bool = False
    """Whether the query is its note's title or alias."""
    rerank: float | None = None
    """What a reranker thinks of it, 0 to 1; `score` has a share of it then."""

    @property
    def note(self) -> int:
        """The id of its note."""
        return self.chunk >> NOTE_BITS


def balanced(weight: float, words: Words) -> float:
    """The weight of the meaning half, higher where words found little."""
    trust = min(1.0, words.covered / ENOUGH)
    return weight / (weight + (1 - weight) * trust) if weight else 0.0


def fuse(words: Words, meaning: Meaning | None, weight: float, named: Collection[int] = ()) -> list[Ranked]:
    """All chunks that either half found, best first; those of the `named` notes before the others.

    A half that knows nothing of a chunk gives it 0. Where no word matched at all, meaning decides alone, and words
    do where nothing has a vector.
    """
    bm25s, cosines, mean, spread = words.scores, {}, 0.0, 1.0
    if meaning is None:
        weight = 0.0
    else:
        cosines, mean, spread = meaning.scores, meaning.mean, meaning.best - meaning.mean
        if spread < _ALIKE:
            # All chunks are the best.
            mean, spread = mean - 1, 1.0
        weight = weight if bm25s else 1.0
    share = (1 - weight) / (max(bm25s.values(), default=0.0) or 1.0)
    lifts = meaning.lifts if meaning is not None else {}
    ranked = []
    for chunk in {**bm25s, **cosines}:
        bm25, cosine = bm25s.get(chunk), cosines.get(chunk)
        score = share * bm25 if bm25 is not None else 0.0
        if cosine is not None:
            above = cosine + lifts.get(chunk, 0.0) - mean
            score += weight * (above / spread if above > 0 else _BELOW * above)
        ranked.append(Ranked(chunk, score, cosine, bm25, chunk >> NOTE_BITS in named))
    return ordered(ranked)


def blend(ranked: Sequence[Ranked], scores: Iterable[float]) -> list[Ranked]:
    """The first ones of a sorted list with a reranker's scores, in their new order, and the rest behind them."""
    blended = []
    for place, (each, own) in enumerate(zip(ranked, scores, strict=False)):
        kept = next(share for most, share in _KEPT if place < most)
        own = min(1.0, max(0.0, float(own)))
        blended.append(each._replace(score=kept * each.score + (1 - kept) * own, rerank=own))
    return [*ordered(blended), *ranked[len(blended) :]]


def ordered(ranked: Iterable[Ranked]) -> list[Ranked]:
    """Best first, equal ones as they follow on each other in the index."""
    # One key after another, the last one first: numbers compare much faster than tuples of them.
    found = sorted(ranked, key=attrgetter("chunk"))
    found.sort(key=attrgetter("score"), reverse=True)
    found.sort(key=attrgetter("named"), reverse=True)
    return found


def best_of_notes(ranked: Iterable[Ranked]) -> list[Ranked]:
    """The first chunk of every note in an ordered list."""
    found: dict[int, Ranked] = {}
    for each in ranked:
        found.setdefault(each.chunk >> NOTE_BITS, each)
    return list(found.values())


def with_ties(ranked: Sequence[Ranked], count: int) -> Sequence[Ranked]:
    """The first ones of a sorted list, and those that are as good as the last of them."""
    if len(ranked) <= count:
        return ranked
    stop = count
    while stop < len(ranked) and ranked[stop].score == ranked[count - 1].score:
        stop += 1
    return ranked[:stop]
