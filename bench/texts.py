"""Texts to measure with: the English prose of Python's own reference manual, cut to exact numbers of tokens.

Every Python has the manual (`pydoc_data.topics`), so nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pydoc_data.topics import topics

import numpy as np

from mlx_jina.text.tokenizer import Tokenizer

FILLER = "the"
# Texts of the corpus that mixed lengths are drawn from, and texts of a padded batch.
CORPUS, BATCH = 2048, 32


@cache
def words() -> tuple[str, ...]:
    """The manual's words in order, ASCII only: some tokenizers disagree about the rest."""
    # Lines of "=" and "-" are underlines and tables, not prose.
    return tuple(w for w in " ".join(topics.values()).split() if w.isascii() and len(set(w)) > 1)


def of_lengths(tokenizer: Tokenizer, lengths: Sequence[int], seed: int = 0) -> list[str]:
    """One passage for each length in tokens, special tokens included, each from somewhere else in the manual."""
    rng = np.random.default_rng(seed)
    return [_passage(tokenizer, int(length), int(rng.integers(len(words())))) for length in lengths]


def mixed_lengths(count: int, seed: int = 0) -> list[int]:
    """Lengths as passages of real documents have them: log-normal around 80, from 5 to 1,024."""
    drawn = np.exp(np.random.default_rng(seed).normal(np.log(80), 0.9, count))
    return [int(n) for n in np.clip(drawn, 5, 1024)]


def sample_of_mixed(count: int, least: int) -> list[int]:
    """Lengths of about `count` texts that stand for a corpus: some of its batches, evenly spread over the lengths.

    A padded batch of a few random texts would have all lengths, and up to twice as many tokens as its texts. A
    padded batch of a sorted corpus has texts of nearly one length. `least` is the lowest number of batches.
    """
    ordered = sorted(mixed_lengths(CORPUS), reverse=True)
    total = CORPUS // BATCH
    batches = min(total, max(least, round(count / BATCH)))
    starts = [int((i + 0.5) * total / batches) * BATCH for i in range(batches)]
    return [length for start in starts for length in ordered[start : start + BATCH]]


def _passage(tokenizer: Tokenizer, length: int, start: int) -> str:
    def text(count: int) -> list[str]:
        return [FILLER, *(words()[(start + i) % len(words())] for i in range(count))]

    def tokens(text: list[str]) -> int:
        return len(tokenizer.encode([" ".join(text)])[0])

    # A word is at least one token, so at most `length` words are needed: bisect for their number.
    low, high = 0, length - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if tokens(text(middle)) <= length else (low, middle - 1)
    cut = text(low)
    return " ".join(cut + [FILLER] * (length - tokens(cut)))
