"""Small changes to a sentence, so that near-duplicates are among the texts."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

VERB = re.compile(r"\b(is|are|was|were|can|will|should|must|has)\b")
Synonyms = Mapping[str, Sequence[str]]


def shorten(text: str, synonyms: Synonyms, rng: random.Random) -> str:
    """The text up to one of its later commas or prepositions."""
    ends = [m.start() for m in re.finditer(r"[,;:]? (with|in|on|at|because|when|which|that|for|but|if)\b", text)]
    ends = [end for end in ends if end > len(text) / 3]
    return text[: rng.choice(ends)] + "." if ends else text


def negate(text: str, synonyms: Synonyms, rng: random.Random) -> str:
    return VERB.sub(r"\1 not", text, count=1)


def renumber(text: str, synonyms: Synonyms, rng: random.Random) -> str:
    return re.sub(r"\b\d+\b", lambda _: str(rng.randint(1, 99)), text, count=1)


def replace_word(text: str, synonyms: Synonyms, rng: random.Random) -> str:
    """One word becomes a word that shares a meaning with it."""
    words = [m for m in re.finditer(r"\b[a-z]{4,}\b", text) if m[0] in synonyms]
    if not words:
        return text
    word = rng.choice(words)
    return text[: word.start()] + rng.choice(synonyms[word[0]]) + text[word.end() :]


def drop_word(text: str, synonyms: Synonyms, rng: random.Random) -> str:
    words = text.split(" ")
    del words[rng.randrange(len(words))]
    return " ".join(words)


def edit(text: str, synonyms: Synonyms, rng: random.Random) -> str:
    """The first of a few random changes that applies, or the text without one word."""
    for change in rng.choices((shorten, negate, renumber, replace_word), weights=(2, 1, 1, 6), k=4):
        changed = change(text, synonyms, rng)
        if changed != text:
            return changed
    return drop_word(text, synonyms, rng)
