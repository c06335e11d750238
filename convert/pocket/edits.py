"""Small changes to a sentence, so that a batch holds near-duplicates as well as strangers."""

from __future__ import annotations

import random
import re

from convert.pocket.grammar import phrase
from convert.pocket.lexicon import Lexicon

CUTS = frozenset("with in on at because when while which that for from by and but if after before".split())
VERB = re.compile(r"\b(is|are|was|were|can|will|should|must|has)\b")


def shorten(text: str, rng: random.Random) -> str:
    """The text up to one of its later clauses or phrases."""
    tokens = text.split(" ")
    ends = [i for i, t in enumerate(tokens) if i > 3 and (tokens[i - 1][-1:] in ",;" or t in CUTS)]
    if len(tokens) <= 7 or not ends:
        return text
    return " ".join(tokens[: rng.choice(ends)]).rstrip(",;:") + "."


def negate(text: str) -> str:
    return VERB.sub(r"\1 not", text, count=1)


def renumber(text: str, rng: random.Random) -> str:
    return re.sub(r"\b\d+\b", lambda _: str(rng.randint(1, 99)), text, count=1)


def swap_clauses(text: str) -> str:
    clauses = re.match(r"(.{9,}?), (.{9,}?)\.?$", text)
    return f"{phrase(clauses[2])}, {clauses[1]}." if clauses else text


def replace_word(text: str, lex: Lexicon, rng: random.Random) -> str:
    """One word becomes a synonym (two times in five), an opposite or a sister term."""
    tokens = text.split(" ")
    i = rng.randrange(len(tokens))
    word = tokens[i].strip(".,;:!?\"'()").lower()
    if len(word) < 4:
        return text
    kind = rng.random()
    if kind < 0.4:
        by = next((found for pos in "nva" if (found := lex.synonyms(word, pos))), [])
    else:
        by = lex.antonyms(word) if kind < 0.5 else lex.sisters(word)
    if by:
        tokens[i] = tokens[i].lower().replace(word, rng.choice(by))
    return " ".join(tokens)


def drop_word(text: str, rng: random.Random) -> str:
    tokens = text.split(" ")
    del tokens[rng.randrange(len(tokens))]
    return " ".join(tokens)


def edit(text: str, lex: Lexicon, rng: random.Random) -> str:
    """The first of a few random changes that applies to the text, or the text without one word."""
    for _ in range(4):
        kind = rng.random()
        if kind < 0.2:
            changed = shorten(text, rng)
        elif kind < 0.3:
            changed = negate(text)
        elif kind < 0.36:
            changed = renumber(text, rng)
        elif kind < 0.42:
            changed = swap_clauses(text)
        else:
            changed = replace_word(text, lex, rng)
        if changed != text:
            return changed
    return drop_word(text, rng)
