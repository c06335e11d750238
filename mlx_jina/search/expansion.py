"""A question in other words: what a small language model makes of it is searched for as well.

Rewordings, and a hypothetical answer whose vector is that of a passage (HyDE, Gao et al. 2022,
https://arxiv.org/abs/2212.10496).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mlx_jina.search.ranking import Ranked, ordered
from mlx_jina.search.schema import NOTE_BITS
from mlx_jina.search.words import Words

WEIGHT = 2.0
"""Of what the question itself finds; each expansion counts 1."""
# Words match strongly where the best note's BM25, as x / (1 + x), is so high, and the next note's so much lower.
_STRONG, _GAP = 0.85, 0.15
# A model that rambles costs no more than this.
_REWORDINGS, _CHARACTERS = 3, 1000


@dataclass(frozen=True)
class Expansion:
    """What is searched for besides a question."""

    rewordings: tuple[str, ...] = ()
    answer: str = ""
    """As a note would give it; "" for none."""

    def bounded(self, query: str) -> Expansion:
        """Without repetitions, and of bounded size."""
        told = {query.casefold().strip()}
        kept = []
        for each in self.rewordings:
            text = each.strip()[:_CHARACTERS]
            if text and text.casefold() not in told:
                told.add(text.casefold())
                kept.append(text)
        return Expansion(tuple(kept[:_REWORDINGS]), self.answer.strip()[:_CHARACTERS])


class Expander(Protocol):
    """What knows other words for a question: a `LanguageModel`, or anything else."""

    def expand(self, query: str, /) -> Expansion:
        """Rewordings, and an answer as it might stand in a note."""


def is_strong(matched: Words, named: Collection[int]) -> bool:
    """Whether words match so well that others could only do harm: a title, or one note far before the next."""
    if named:
        return True
    notes: dict[int, float] = {}
    for chunk, bm25 in matched.scores.items():
        notes.setdefault(chunk >> NOTE_BITS, bm25 / (1 + bm25))
    best, following, *_ = [*list(notes.values())[:2], 0.0, 0.0]
    return best >= _STRONG and best - following >= _GAP


def combine(original: Sequence[Ranked], others: Iterable[Sequence[Ranked]]) -> list[Ranked]:
    """The mean of several searches' scores, in which the original counts double. What one lacks is 0 there."""
    found = {each.chunk: each._replace(score=WEIGHT * each.score) for each in original}
    total = WEIGHT
    for ranked in others:
        total += 1
        for each in ranked:
            before = found.get(each.chunk)
            # Cosines and BM25 are shown of the question itself.
            found[each.chunk] = (
                each._replace(cosine=None, bm25=None)
                if before is None
                else before._replace(score=before.score + each.score)
            )
    return ordered(each._replace(score=each.score / total) for each in found.values())
