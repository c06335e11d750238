"""The sentence of a chunk that shows best why it was found, and the words in it that match."""

from __future__ import annotations

import re
import sqlite3
import threading
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from mlx_jina.search.schema import TOKENIZER, apart, unspaced

LENGTH = 240
"""Characters of a snippet, at most."""

_STOPS = r".!?\u2026\u3002\uff01\uff1f"
# Up to a full stop that a space follows, or any of Chinese and Japanese; the "." of 1.0 and of "e.g" is inside.
_SENTENCE = re.compile(rf"[^{_STOPS}\n]+(?:[.!?\u2026](?!\s)[^{_STOPS}\n]*)*[{_STOPS}]*|[{_STOPS}]+|\n")
# Marks of quotes, lists, headings and tables in front of a sentence.
_FRAME = re.compile(r"(?:\s+|>|\||[*+-]\s|\d{1,9}[.)]\s|#{1,6}\s|[=~-]{3,})*(?:\[[ xX]\]\s+)?")
_HEADING = re.compile(r"\s*#{1,6}\s")
# Markup that says nothing to a reader: where links lead, brackets of wikilinks, signs of emphasis.
_MARKUP = re.compile(
    r"!?\[(?=[^\[\]\n]*\]\()|\]\([^()\s]*\)|\[\[(?:[^\[\]|\n]*\|)?|\]\]|\*\*|==|~~|`+|(?<!\w)__?(?=\w)|(?<=\w)__?(?!\w)"
)
# What joins letters and emoji cannot be printed by itself.
_JOINERS = "\u200c\u200d"
_START, _STOP = "\x01", "\x02"
_MARK = re.compile(f"[{_START}{_STOP}]")
_NOT_IN_TEXT = {ord(_START): " ", ord(_STOP): " "}

Span = tuple[int, int]


class Snippet(NamedTuple):
    """A piece of text, and the spans of it that match."""

    text: str
    highlights: tuple[Span, ...]


class Highlighter:
    """Finds a query's words in texts as FTS5 does, stems and accents included. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._connection.execute(f"create virtual table marks using fts5(body, tokenize='{TOKENIZER}')")

    def spans(self, texts: Sequence[str], terms: Sequence[str]) -> list[list[Span]]:
        """For each text the spans that match any of the terms, which are expressions of FTS5's."""
        found: list[list[Span]] = [[] for _ in texts]
        if not terms:
            return found
        clean = [text.translate(_NOT_IN_TEXT) for text in texts]
        sql = "select rowid, highlight(marks, 0, ?, ?) from marks where marks match ?"
        with self._lock:
            # What is undone at the end costs a quarter of what is deleted.
            self._connection.execute("begin")
            try:
                bodies = [(n, apart(text)) for n, text in enumerate(clean)]
                self._connection.executemany("insert into marks(rowid, body) values (?, ?)", bodies)
                rows = self._connection.execute(sql, (_START, _STOP, " OR ".join(terms))).fetchall()
            finally:
                self._connection.execute("rollback")
        for n, marked in rows:
            found[n] = _spans(clean[n], marked)
        return found

    def close(self) -> None:
        """Free the memory."""
        with self._lock:
            self._connection.close()


def snippet(text: str, spans: Sequence[Span]) -> Snippet:
    """The sentence with most of the matches, different ones first; without any, the first one."""
    best, most = (0, len(text)), (-1, 0)
    places = sorted(a for a, _ in spans)
    for match in _SENTENCE.finditer(text):
        if most >= (0, 0) and bisect_left(places, match.start()) == bisect_left(places, match.end()):
            # No match is in it, and no sentence without one can be better.
            continue
        start, stop = _framed(text, *match.span())
        if start >= stop:
            continue
        inside = [text[a:b].casefold() for a, b in spans if start <= a < stop]
        # Of those without any match the first that is no heading.
        value = len(set(inside)), len(inside) or -bool(_HEADING.match(text, match.start()))
        if value > most:
            best, most = (start, stop), value
    start, stop = _framed(text, *best)
    if stop - start > LENGTH:
        first = next((a for a, _ in spans if start <= a < stop), start)
        start = max(start, min(first - LENGTH // 4, stop - LENGTH))
        stop = min(stop, start + LENGTH)
    return _one_line(text, start, stop, [(a, b) for a, b in spans if start <= a and b <= stop])


def _framed(text: str, start: int, stop: int) -> Span:
    """A span without the marks of lists, headings and tables around it."""
    if (before := _FRAME.match(text, start, stop)) is not None:
        start = before.end()
    return start, start + len(text[start:stop].rstrip(" \t\r\n#|"))


def _one_line(text: str, start: int, stop: int, spans: Sequence[Span]) -> Snippet:
    """White space as single spaces, without markup and what cannot be printed."""
    plain = text[start:stop]
    if (
        plain.isprintable()
        and not plain.startswith(" ")
        and "  " not in plain
        and not _MARKUP.search(text, start, stop)
    ):
        return Snippet(plain.rstrip(), tuple((a - start, b - start) for a, b in spans if a < b))
    markup = {place for match in _MARKUP.finditer(text, start, stop) for place in range(*match.span())}
    kept: list[str] = []
    places: list[int] = []
    for place, char in enumerate(text[start:stop], start):
        places.append(len(kept))
        char = " " if char.isspace() else char
        doubled = char == " " and (not kept or kept[-1] == " ")
        if not doubled and place not in markup and (char.isprintable() or char in _JOINERS):
            kept.append(char)
    places.append(len(kept))
    shown = [(places[a - start], places[b - start]) for a, b in spans]
    return Snippet("".join(kept).rstrip(), tuple(span for span in shown if span[0] < span[1]))


def _spans(text: str, marked: str) -> list[Span]:
    """Where in a text the marks stand that FTS5 put into the same text, characters apart."""
    places: list[int] | range = range(len(text) + 1)
    if not text.isascii():
        places = []
        for place, char in enumerate(text):
            places += [place, place, place + 1] if unspaced().match(char) else [place]
        places.append(len(text))
    found: list[Span] = []
    start = 0
    for number, mark in enumerate(_MARK.finditer(marked)):
        # Every mark before it is one character more than the text has.
        here = mark.start() - number
        if mark[0] == _START:
            start = here
            continue
        first, last = places[start], places[here]
        # The spaces around a character belong to nobody.
        if found and first <= found[-1][1]:
            first, last = found.pop()[0], max(last, places[here])
        found.append((first, last))
    return found
