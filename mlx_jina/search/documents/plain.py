"""Text that is no Markdown: paragraphs, with the headings that Org and reStructuredText have, and code."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mlx_jina.search.documents.base import Block, Document, Lines, paragraphs, valid

# reStructuredText underlines titles with any of these, and perhaps overlines them.
_RST_LINE = re.compile(r"^([=\-`:.'\"~^_*+#])\1{2,}[ \t\r]*$", re.M)
_ORG_HEADING = re.compile(r"^(\*+)[ \t]+(?:(?:TODO|DONE)[ \t]+)?(.*?)[ \t]*(?:[ \t](:[\w@#%:]+:))?[ \t\r]*$", re.M)
_ORG_KEYWORD = re.compile(r"^#\+(TITLE|FILETAGS):[ \t]*(.*?)[ \t\r]*$", re.M | re.I)
_ORG_HIDDEN = re.compile(
    r"^[ \t]*:PROPERTIES:[ \t\r]*\n(?:[ \t]*:[^\n]*\n){0,64}?[ \t]*:END:[ \t\r]*$|^# [^\n]*$", re.M | re.I
)


def read_text(text: str) -> Document:
    """Paragraphs."""
    return Document(text, list(paragraphs(text)), Lines.of(text))


def read_code(text: str) -> Document:
    """What stands between blank lines, as code."""
    return Document(text, list(paragraphs(text, kind="code")), Lines.of(text))


def read_rst(text: str) -> Document:
    """Sections and paragraphs of reStructuredText. Which sign is which level, each file shows by its order."""
    levels: dict[tuple[str, bool], int] = {}
    headings: list[Block] = []
    for line in _RST_LINE.finditer(text):
        stop = line.start()
        start = text.rfind("\n", 0, max(stop - 1, 0)) + 1
        words = text[start:stop].strip()
        # A transition stands alone, and far shorter lines than the title belong to a table.
        if not words or _RST_LINE.match(words) or len(line[0].rstrip()) < len(words) - 2:
            continue
        above = text.rfind("\n", 0, max(start - 1, 0)) + 1
        over = text[above:start].strip() == line[0].strip()
        level = levels.setdefault((line[1], over), len(levels) + 1)
        headings.append(Block(above if over else start, line.end(), "heading", min(level, 6), valid(words)))
    title = next((heading.title for heading in headings), None)
    return Document(text, list(_between(text, headings)), Lines.of(text), title=title)


def read_org(text: str) -> Document:
    """Headings, tags and paragraphs of Org; drawers and comments are left out of what is searched."""
    words = {match[1].upper(): match[2] for match in _ORG_KEYWORD.finditer(text)}
    tags = words.get("FILETAGS", "").replace(":", " ").split()
    headings = []
    for match in _ORG_HEADING.finditer(text):
        headings.append(Block(match.start(), match.end(), "heading", min(len(match[1]), 6), valid(match[2])))
        tags += (match[3] or "").strip(":").split(":") if match[3] else []
    return Document(
        text,
        list(_between(text, headings)),
        Lines.of(text),
        title=valid(words.get("TITLE", "")) or None,
        tags=list(dict.fromkeys(tags)),
        hidden=[match.span() for match in _ORG_HIDDEN.finditer(text)],
    )


def _between(text: str, headings: list[Block]) -> Iterator[Block]:
    """Headings, and the paragraphs between them."""
    here = 0
    for heading in headings:
        if heading.start < here:
            continue
        yield from _filled(text, here, heading.start)
        yield heading
        here = heading.stop
    yield from _filled(text, here, len(text))


def _filled(text: str, start: int, stop: int) -> Iterator[Block]:
    if start < stop:
        yield from paragraphs(text, start, stop)
