"""What every reader makes of a file: a text, and the blocks that it may be cut between."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Literal

Kind = Literal["text", "heading", "item", "code", "table"]

LINE_END = re.compile(r"\r\n|\r|\n")
_SURROGATE = re.compile("[\ud800-\udfff]")
_BLANK_LINES = re.compile(r"(?:\r\n|\r|\n)(?:[^\S\r\n]*(?:\r\n|\r|\n))+")


class UnreadableError(Exception):
    """A file that has no text for an index; the message says why. Other files are not concerned."""


@dataclass(frozen=True)
class Block:
    """Characters `start` to `stop` of a text that belong together. `level` is a heading's, and 0 otherwise."""

    start: int
    stop: int
    kind: Kind = "text"
    level: int = 0
    title: str = ""
    """A heading's words."""


@dataclass(frozen=True)
class Link:
    """A link to another note: the target as written, and the line it stands in."""

    target: str
    line: int
    alt: str | None = None
    """What is said of a picture that is shown in the place of the link; None for other links."""


@dataclass(frozen=True)
class Document:
    """A file's text and what it says of itself.

    Spans count characters of `text`: of the decoded file itself for Markdown, plain text and code, of what was
    extracted from it for the other formats. Blocks follow on each other without gaps.
    """

    text: str
    blocks: Sequence[Block]
    lines: Lines
    title: str | None = None
    aliases: Sequence[str] = ()
    tags: Sequence[str] = ()
    links: Sequence[Link] = ()
    properties: dict[str, object] = field(default_factory=dict)
    created: float | None = None
    modified: float | None = None
    """Dates that the file states, in seconds since 1970."""
    hidden: Sequence[tuple[int, int]] = ()
    """Spans that nobody searches for, such as comments, in order and apart from each other."""
    remark: str | None = None
    """What a person should know of how the file was read."""
    scans: Sequence[int] = ()
    """Pages without text that show something, from 1."""

    def with_remark(self, remark: str) -> Document:
        """The same document, read in a way that a person should know of."""
        return replace(self, remark=remark)

    def visible(self, start: int, stop: int) -> str:
        """The text between two positions, hidden parts replaced by as many spaces."""
        parts = []
        here = start
        for first, last in self.hidden[bisect_right(self.hidden, start, key=itemgetter(1)) :]:
            if first >= stop:
                break
            first, last = max(first, here), min(last, stop)
            parts += [self.text[here:first], _blank(self.text[first:last])]
            here = last
        return "".join([*parts, self.text[here:stop]])


class Lines:
    """From positions in a text to the numbers that a person would look for: lines, or pages and cells."""

    def __init__(self, starts: Sequence[int], numbers: Sequence[int] | None = None) -> None:
        self._starts = starts
        self._numbers = numbers

    @classmethod
    def of(cls, text: str) -> Lines:
        """The lines of a text, from 1. A line ends as Markdown's does: LF, CRLF or CR."""
        return cls([0, *(match.end() for match in LINE_END.finditer(text))])

    def number(self, position: int) -> int:
        """The line, page or cell of a position."""
        index = bisect_right(self._starts, position) - 1
        return index + 1 if self._numbers is None else self._numbers[index]

    @property
    def last(self) -> int:
        """The number of the last line, page or cell."""
        return len(self._starts) if self._numbers is None else self._numbers[-1]

    def span(self, first: int, behind: int) -> tuple[int, int | None]:
        """Where number `first` begins, and where `behind` does; the end of the text is None."""
        numbers = self._numbers or range(1, len(self._starts) + 1)
        start, stop = bisect_left(numbers, first), bisect_left(numbers, behind)
        if start == len(numbers):
            return self._starts[-1], self._starts[-1]
        return self._starts[start], None if stop == len(numbers) else self._starts[stop]

    def start(self, line: int) -> int:
        """Where the line of an index, from 0, begins; behind the last one, the last one's end."""
        return self._starts[min(line, len(self._starts) - 1)]

    def __len__(self) -> int:
        return len(self._starts)


def valid(text: str) -> str:
    """The text without lone surrogates, which JSON can spell and UTF-8 cannot."""
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def paragraphs(text: str, start: int = 0, stop: int | None = None, kind: Kind = "text") -> Iterator[Block]:
    """Blocks ended by blank lines, which belong to the block before."""
    stop = len(text) if stop is None else stop
    here = start
    for match in _BLANK_LINES.finditer(text, start, stop):
        # Blank lines at the very start belong to the first paragraph.
        if text[here : match.start()].strip():
            yield Block(here, match.end(), kind)
            here = match.end()
    if here < stop:
        yield Block(here, stop, kind)


def strings(value: object) -> list[str]:
    """A list of words, as people write one in front matter: a list, one word, or words between commas."""
    if isinstance(value, str):
        found: Iterable[object] = value.split(",")
    elif isinstance(value, (list, tuple, set)):
        found = value
    else:
        found = [] if value is None or isinstance(value, (dict, bool)) else [value]
    kept = (valid(" ".join(str(each).split())) for each in found if not isinstance(each, (dict, list)))
    return list(dict.fromkeys(each for each in kept if each and each != "None"))


def _blank(text: str) -> str:
    return re.sub(r"[^\r\n]", " ", text)
