"""Where a text may be cut, and which tokens each piece has.

Boundaries come from ICU: sentences and line breaks by Unicode's rules (UAX #29, UAX #14), dictionaries for scripts
that write no spaces, and a list of each language's abbreviations. A cut never divides a token or a character as
people count them, and every piece has a word or a sign.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from mlx_jina.choices import CHUNK_KINDS, ChunkKind
from mlx_jina.errors import InputError
from mlx_jina.text.tokenizer import Offsets

Level = ChunkKind | Literal["character"]
# Coarse to fine. A piece that is too long for a chunk is cut at the next level.
LEVELS: tuple[Level, ...] = (*CHUNK_KINDS, "character")

Span = tuple[int, int]

_LINE_END = r"(?:\r\n|\n|\r(?!\n))"
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*")
_BLANK_LINES = re.compile(rf"{_LINE_END}(?:[^\S\r\n]*{_LINE_END})+|\u2029")
# Spaces, which tokenizers count as part of the word that follows.
_SPACES = np.array([code for code in range(0x3001) if chr(code).isspace()], dtype=np.uint32)


@dataclass(frozen=True)
class Chunk:
    """A piece of a document: `text` is `document[start:stop]` of `span`, and `token_span` counts its tokens.

    `token_span` refers to the tokens of `tokenize(prompt + document)`: the first chunk also has the special tokens
    and the prompt before its text, the last chunk the closing token. Without overlap, neither kind of span leaves
    a gap.
    """

    text: str
    span: Span
    token_span: Span


@dataclass(frozen=True)
class Chunking:
    """How to cut: kind of boundary, tokens of a chunk at most, tokens shared with the chunk before, language."""

    kind: ChunkKind
    tokens: int | None
    overlap: int
    language: str

    def __post_init__(self) -> None:
        if self.kind not in CHUNK_KINDS:
            raise InputError(f"chunk={self.kind!r} is not one of {', '.join(CHUNK_KINDS)}")
        if not _LANGUAGE.fullmatch(self.language):
            raise InputError(f"language={self.language!r} is no code of a language, such as en or pt_BR")
        if self.tokens is None:
            if self.kind == "fixed" or self.overlap:
                what = "chunk='fixed'" if self.kind == "fixed" else f"overlap={self.overlap}"
                raise InputError(f"{what} needs chunk_tokens=, a number")
        elif self.tokens < 1:
            raise InputError(f"chunk_tokens={self.tokens} must be at least 1")
        elif not 0 <= self.overlap < self.tokens:
            raise InputError(
                f"overlap={self.overlap} must lie between 0 and {self.tokens - 1}, less than "
                f"chunk_tokens={self.tokens}"
            )


def breaks(level: Level, text: str, language: str) -> list[int]:
    """Positions within a text where a piece of this level ends. Raises InputError without ICU."""
    if level == "paragraph":
        return [match.end() for match in _BLANK_LINES.finditer(text)]
    try:
        from icu4py import breakers
    except ImportError:
        raise InputError("chunking needs icu4py: pip install 'mlx-jina[chunking]'") from None
    if level == "sentence":
        # Without breaks after abbreviations (Unicode Locale Data Markup Language, part 2).
        breaker: breakers.BaseBreaker = breakers.SentenceBreaker(text, f"{language}@ss=standard")
    elif level == "fixed":
        breaker = breakers.LineBreaker(text, language)
    else:
        breaker = breakers.CharacterBreaker(text, language)
    # The breaker's own positions count UTF-16 units, so the lengths of its pieces are added up.
    return list(accumulate(map(len, breaker)))


class Text:
    """A text with the characters that each of its tokens stands for: (N, 2), without special tokens."""

    def __init__(self, text: str, offsets: Offsets) -> None:
        self.text = text
        self.tokens = len(offsets)
        self._stops = np.maximum.accumulate(offsets[:, 1])
        # A token starts at its first character that is no space.
        codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        words = np.where(np.isin(codes, _SPACES), len(text), np.arange(len(text)))
        next_word = np.append(np.minimum.accumulate(words[::-1])[::-1], len(text))
        starts = np.minimum(next_word[offsets[:, 0]], self._stops)
        # How many tokens with a word or a sign come before each token: tokens of nothing but spaces make no chunk.
        self._words = np.append(0, np.cumsum(starts < self._stops))
        # The first character that any token from here on needs.
        self._needed = np.append(np.minimum.accumulate(starts[::-1])[::-1], len(text))

    def before(self, positions: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """How many tokens end at each position, or before it."""
        return np.searchsorted(self._stops, positions, side="right")

    def cuts(self, level: Level, start: int, stop: int, language: str) -> list[int]:
        """Where the text between two positions may be cut at a level."""
        found = np.array(breaks(level, self.text[start:stop], language), dtype=np.int64) + start
        found = found[(found > start) & (found < stop)]
        first, last = self._words[self.before([start, stop])]
        tokens = self.before(found)
        words = self._words[tokens]
        possible = (self._needed[tokens] >= found) & (words > first) & (words < last)
        found, words = found[possible], words[possible]
        # Spaces, and characters that no token stands for, go with what is before them.
        return found[np.append(words[1:] > words[:-1], True)[: len(found)]].tolist()

    def chunks(self, chunking: Chunking) -> list[Span]:
        """Cut the text: the characters of each chunk, of which any text has at least one."""
        levels = LEVELS[LEVELS.index(chunking.kind) :]
        whole = len(self.text)
        if chunking.tokens is None:
            edges = [0, *self.cuts(levels[0], 0, whole, chunking.language), whole]
            return list(pairwise(edges))
        spans = self._pack(0, whole, levels, chunking.tokens - chunking.overlap, chunking.language)
        if not chunking.overlap:
            return spans
        return [
            spans[0],
            *(
                (self._earlier(previous, start, stop, levels[:-1], chunking), stop)
                for (previous, _), (start, stop) in pairwise(spans)
            ),
        ]

    def _pack(self, start: int, stop: int, levels: Sequence[Level], limit: int, language: str) -> list[Span]:
        """Fill chunks with pieces of the first level; cut a piece that does not fit at the next levels."""
        first, last = self.before([start, stop])
        if last - first <= limit or not levels:
            return [(start, stop)]
        edges = [start, *self.cuts(levels[0], start, stop, language), stop]
        counts = self.before(edges)
        spans: list[Span] = []
        here = 0
        while here < len(edges) - 1:
            there = int(np.searchsorted(counts, counts[here] + limit, side="right")) - 1
            if there > here:
                spans.append((edges[here], edges[there]))
            else:
                there = here + 1
                spans += self._pack(edges[here], edges[there], levels[1:], limit, language)
            here = there
        return spans

    def _earlier(self, previous: int, start: int, stop: int, levels: Sequence[Level], chunking: Chunking) -> int:
        """Where a chunk begins that overlaps the one before: at a boundary of the coarsest level that fits."""
        assert chunking.tokens is not None
        first, last = self.before([start, stop])
        # A chunk that could not be cut may leave less room than the overlap, or none.
        earliest = max(first - chunking.overlap, last - chunking.tokens)
        for level in levels:
            cuts = self.cuts(level, previous, start, chunking.language)
            near = self.before(cuts) >= earliest
            if near.any():
                return cuts[int(near.argmax())]
        return start
