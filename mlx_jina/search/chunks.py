"""A document cut into chunks: consecutive blocks, as many as fit, each an exact span of the text.

Chunks depend on the text alone, and on no model: a search by words needs none, and a change of models keeps every
chunk. The number of a text's tokens is therefore estimated, for English from above (docs/search.md has figures).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlx_jina.search.documents.base import LINE_END, Block, Document, Kind

TOKENS = 256
"""Of a chunk, at most."""
WHOLE_TOKENS = 512
"""Of code and tables, which are cut only if they are longer than this."""
MERGED_TOKENS = 64
"""Sections that have fewer together share a chunk."""

# Pieces of words as long as most tokens are; of other scripts, and of signs, every character.
_TOKEN = re.compile(r"[A-Za-zÀ-ɏ]{1,5}|[0-9]{1,2}|[^\sA-Za-zÀ-ɏ0-9]")
# In Chinese and Japanese a sentence ends at its stop and the brackets that close there, without a space.
_SENTENCE_END = re.compile(
    r"[.!?\u2026][\"'\u201d\u2019)\]]*\s+"
    r"|[\u3002\uff01\uff1f\uff61\uff1b][\u300d\u300f\u201d\u2019\uff09]*\s*"
    r"|(?:\r\n|\r|\n)[^\S\r\n]*(?:\r\n|\r|\n)\s*"
)
_WORD_END = re.compile(r"\s+|(?<=[,;:/\u3001\uff0c])")
# What a chunk's own heading looks like in its text, and where links lead, which is no part of what they say.
_HEADING_MARKS = re.compile(r"^\s{0,3}(?:#{1,6}\s+|\*+\s+)?(.*?)\s*#*\s*$")
_UNDERLINE = re.compile(r"^\s*([=\-`:.'\"~^_*+#])\1+\s*$")
_TARGET = re.compile(r"\]\((?:<[^<>]*>|[^\s()<>]*)(?:\s[^()]*)?\)")
_WIKI_TARGET = re.compile(r"\[\[[^\[\]|]*\|([^\[\]]*)\]\]")
_BLANK_LINES = re.compile(r"(?:[^\S\r\n]*(?:\r\n|\r|\n))*")
_LEVELS: dict[Kind, Sequence[re.Pattern[str]]] = {
    "text": (_SENTENCE_END, LINE_END, _WORD_END),
    "heading": (_WORD_END,),
    "item": (LINE_END, _SENTENCE_END, _WORD_END),
    "code": (LINE_END, _WORD_END),
    "table": (LINE_END, _WORD_END),
}
_FLAG_LETTERS = "".join(map(chr, range(0x1F1E6, 0x1F200)))
# More marks than this after one character are no accents.
_JOINED = 64
# A title is cut at this many characters in front of a chunk's text.
_TITLE_CHARACTERS = 200


@dataclass(frozen=True)
class Chunk:
    """A piece of a document: `text[start:stop]`, lines `line` to `end_line`, below the headings in `heading`."""

    start: int
    stop: int
    line: int
    end_line: int
    heading: str
    body: str
    """The text of the span, with as many spaces instead of what nobody searches for."""
    lead: str = ""
    """What an embedding needs to see in front of it: the first rows of the table it is a part of."""
    picture: int | None = None
    """What is embedded instead of the text: the page of a PDF, from 1, or 1 for the file of a picture."""


def chunks(document: Document, tokens: int | None = None) -> list[Chunk]:
    """Cut a document. One without words has a single chunk of nothing, for the sake of its title.

    `tokens` is how many a chunk may have by the estimate, `TOKENS` where nobody says.
    """
    found: list[Chunk] = []
    path: list[tuple[int, str]] = []
    for piece in _pieces(document, tokens or TOKENS):
        for block in piece.headings:
            path = [(level, words) for level, words in path if level < block.level]
            path.append((block.level, block.title))
        stop = piece.start + len(document.text[piece.start : piece.stop].rstrip())
        start = piece.start + _indent(document.text, piece.start, stop)
        body = document.visible(start, stop)
        if not body.strip():
            continue
        heading = " > ".join(words for _, words in path if words and words != document.title)
        line, end_line = document.lines.number(start), document.lines.number(max(start, stop - 1))
        found.append(Chunk(start, stop, line, end_line, heading, body, piece.lead))
        for block in piece.later_headings:
            path = [(level, words) for level, words in path if level < block.level]
            path.append((block.level, block.title))
    return found or [Chunk(0, 0, document.lines.number(0), document.lines.number(0), "", "")]


def with_scans(found: list[Chunk], scans: Sequence[int]) -> list[Chunk]:
    """A document's chunks and, in their places, the pages that only a picture shows."""
    words = [chunk for chunk in found if chunk.body]
    pages = [Chunk(0, 0, page, page, "", "", picture=page) for page in scans]
    return sorted([*words, *pages], key=lambda chunk: chunk.line)


def embedded(title: str, heading: str, lead: str, body: str) -> str:
    """What a model sees of a chunk: the note's title and its headings in a line, then the text, without markup.

    The headings that the text itself begins with are not repeated.
    """
    lines = body.splitlines()
    known = {" ".join(words.split()) for words in (title, *heading.split(" > "))}
    while lines and (not lines[0].strip() or _is_heading(lines[0], known)):
        lines.pop(0)
    first = " > ".join(words for words in (title[:_TITLE_CHARACTERS], heading[:_TITLE_CHARACTERS]) if words)
    words = "\n".join(filter(None, map(_tidied, [lead, *lines])))
    return f"{first}\n{_without_targets(words)}" if words else first


def estimate(text: str) -> int:
    """About how many tokens a text has: more than most tokenizers make of English."""
    return len(_TOKEN.findall(text))


@dataclass
class _Piece:
    start: int
    stop: int
    tokens: int
    headings: list[Block]
    """Those that it begins with."""
    later_headings: list[Block]
    lead: str = ""


def _pieces(document: Document, limit: int) -> Iterator[_Piece]:
    """Sections, each packed by itself; small ones together."""
    sections = _sections(document)
    waiting: list[tuple[Block, int]] = []
    size = 0
    for section in sections:
        own = sum(tokens for _, tokens in section)
        if waiting and size + own >= MERGED_TOKENS:
            yield from _packed(document, waiting, limit)
            waiting, size = [], 0
        waiting += section
        size += own
    yield from _packed(document, waiting, limit)


def _sections(document: Document) -> list[list[tuple[Block, int]]]:
    """Blocks and their tokens, apart at headings of the first two levels."""
    sections: list[list[tuple[Block, int]]] = [[]]
    for block in document.blocks:
        if 1 <= block.level <= 2 and any(not each.level for each, _ in sections[-1]):
            sections.append([])
        sections[-1].append((block, estimate(document.text[block.start : block.stop])))
    return sections


def _packed(document: Document, blocks: Sequence[tuple[Block, int]], limit: int) -> Iterator[_Piece]:
    """As many blocks to a piece as fit; headings stay with what follows them."""
    piece: _Piece | None = None
    for unit in _units(document, blocks, limit):
        full = piece is not None and piece.tokens + unit.tokens > limit
        # Below the second level a heading is a good place to stop, if there is something to stop after.
        if piece is not None and (full or (unit.headings and piece.tokens > limit // 2) or unit.lead):
            yield piece
            piece = None
        if piece is None:
            piece = unit
        else:
            piece.stop = unit.stop
            piece.tokens += unit.tokens
            piece.later_headings += [*unit.headings, *unit.later_headings]
    if piece is not None:
        yield piece


def _units(document: Document, blocks: Sequence[tuple[Block, int]], limit: int) -> Iterator[_Piece]:
    """Blocks with the headings above them, those that are too long cut."""
    headings: list[Block] = []
    start, size = -1, 0
    for block, tokens in blocks:
        if start < 0:
            start = block.start
        size += tokens
        if block.level:
            headings.append(block)
            continue
        allowed = max(limit, WHOLE_TOKENS) if block.kind in ("code", "table") else limit
        if size <= allowed:
            yield _Piece(start, block.stop, size, headings, [])
        else:
            lead = _table_head(document.text[block.start : block.stop]) if block.kind == "table" else ""
            for n, (first, last) in enumerate(
                _cut_at(document.text, start, block.stop, limit, _LEVELS[block.kind])
            ):
                part = estimate(document.text[first:last])
                yield _Piece(first, last, part, [] if n else headings, [], lead if n else "")
        headings, start, size = [], -1, 0
    if start >= 0:
        yield _Piece(start, blocks[-1][0].stop, size, headings, [])


def _cut_at(
    text: str, start: int, stop: int, limit: int, levels: Sequence[re.Pattern[str]]
) -> Iterator[tuple[int, int]]:
    """A span in parts of at most `limit` tokens: at the first level if that is enough, else at the next ones."""
    if not levels:
        yield from _cut_anywhere(text, start, stop, limit)
        return
    here, size = start, 0
    edge = start
    for end in [*(match.end() for match in levels[0].finditer(text, start, stop)), stop]:
        if end <= edge:
            continue
        tokens = estimate(text[edge:end])
        if size and size + tokens > limit:
            yield here, edge
            here, size = edge, 0
        if tokens > limit:
            # By itself too long: what comes before it stands alone, and its last part may take more.
            parts = list(_cut_at(text, edge, end, limit, levels[1:]))
            yield from parts[:-1]
            here, edge = parts[-1]
            size = estimate(text[here:edge])
        else:
            size += tokens
        edge = end
    if here < stop:
        yield here, stop


def _cut_anywhere(text: str, start: int, stop: int, limit: int) -> Iterator[tuple[int, int]]:
    """Between characters as people count them: no accent, joiner or half of a flag begins a part."""
    here, size = start, 0
    for match in _TOKEN.finditer(text, start, stop):
        position = match.start()
        if size >= limit and (size >= limit + _JOINED or not _continues(text, here, position)):
            yield here, position
            here, size = position, 0
        size += 1
    if here < stop:
        yield here, stop


def _continues(text: str, start: int, position: int) -> bool:
    """Whether the character at a position belongs to the one before it, in a text from `start` on."""
    char = text[position]
    if text[position - 1] == "\u200d" or char == "\u200d" or unicodedata.category(char).startswith("M"):
        return True
    if "\U0001f1e6" <= char <= "\U0001f1ff":
        # Flags are pairs of letters.
        letters = len(text[start:position]) - len(text[start:position].rstrip(_FLAG_LETTERS))
        return letters % 2 == 1
    return "\U0001f3fb" <= char <= "\U0001f3ff"


def _table_head(text: str) -> str:
    """The row of names of a Markdown table."""
    return text.lstrip().splitlines()[0] if text.strip() else ""


def _indent(text: str, start: int, stop: int) -> int:
    """Blank lines at the start; the first line keeps its indentation, which means something in code."""
    match = _BLANK_LINES.match(text, start, stop)
    return match.end() - start if match else 0


def _tidied(line: str) -> str:
    """A line with its indentation and single spaces."""
    words = line.lstrip()
    return line[: len(line) - len(words)] + " ".join(words.split()) if words else ""


def _is_heading(line: str, known: set[str]) -> bool:
    match = _HEADING_MARKS.match(line)
    words = " ".join(re.sub(r"[*`]+|==|~~", "", match[1]).split()) if match else ""
    return words in known or bool(_UNDERLINE.match(line))


def _without_targets(words: str) -> str:
    """Where links lead to is no part of what a sentence means."""
    return _WIKI_TARGET.sub(r"\1", _TARGET.sub("]", words)) if "](" in words or "[[" in words else words
