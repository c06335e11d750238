"""HTML to text, by the standard library's parser: words without tags, and the line that each block stands in."""

from __future__ import annotations

from html.parser import HTMLParser

from mlx_jina.search.documents.base import Block, Document, Kind, Lines, Link, valid
from mlx_jina.search.documents.kinds import is_picture
from mlx_jina.search.documents.markdown import path_of

_SKIPPED = {"script", "style", "template", "svg", "noscript", "nav", "iframe", "select", "button"}
_BREAKING = frozenset(
    "address article aside blockquote body br caption dd details div dl dt fieldset figcaption figure "
    "footer form h1 h2 h3 h4 h5 h6 header hr html legend li main ol option p pre section summary table "
    "tbody td tfoot th thead title tr ul".split()
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}


def read(text: str) -> Document:
    """The words of a page. Spans count characters of what was extracted; lines are the file's."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    parser.finish()
    body = "".join(parser.parts)
    blocks = parser.blocks or ([Block(0, len(body))] if body.strip() else [])
    starts, numbers = [block.start for block in blocks] or [0], parser.lines or [1]
    title = " ".join(valid("".join(parser.title)).split())
    return Document(
        body,
        blocks,
        Lines(starts, numbers[: len(starts)]),
        title=title or next((block.title for block in blocks if block.level == 1), None),
        links=parser.links,
    )


class _Parser(HTMLParser):
    """Collects a block of text for each element that begins a new line on a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.blocks: list[Block] = []
        self.lines: list[int] = []
        self.title: list[str] = []
        self.links: list[Link] = []
        self._length = 0
        self._skipping = 0
        self._words: list[str] = []
        self._line = 1
        self._heading = 0
        self._preformatted = False
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SKIPPED:
            self._skipping += 1
        elif tag in _BREAKING:
            self._end_block()
            self._heading = _HEADINGS.get(tag, 0)
            self._preformatted = self._preformatted or tag == "pre"
            self._in_title = tag == "title"
        elif tag == "img" and not self._skipping:
            self._show(dict(attrs))

    def _show(self, attributes: dict[str, str | None]) -> None:
        """A picture, by a path."""
        target = path_of(attributes.get("src") or "")
        if target is not None and is_picture(target):
            words = " ".join(filter(None, (attributes.get("alt"), attributes.get("title"))))
            self.links.append(Link(target, self.getpos()[0], valid(" ".join(words.split()))))

    def handle_endtag(self, tag: str) -> None:
        if tag in _SKIPPED:
            self._skipping = max(0, self._skipping - 1)
        elif tag in _BREAKING:
            self._end_block()
            self._heading = 0
            self._preformatted = self._preformatted and tag != "pre"
            self._in_title = False

    def handle_data(self, data: str) -> None:
        if self._skipping:
            return
        if self._in_title:
            self.title.append(data)
            return
        if not self._words:
            if not data.strip():
                return
            self._line = self.getpos()[0] + data[: len(data) - len(data.lstrip())].count("\n")
        self._words.append(data)

    def finish(self) -> None:
        """After the last element."""
        self._end_block()

    def _end_block(self) -> None:
        data = valid("".join(self._words))
        self._words = []
        words = data.strip("\r\n") if self._preformatted else " ".join(data.split())
        if not words.strip():
            return
        kind: Kind = "heading" if self._heading else "code" if self._preformatted else "text"
        stop = self._length + len(words) + 2
        self.blocks.append(Block(self._length, stop, kind, self._heading, words if self._heading else ""))
        self.lines.append(self._line)
        self.parts.append(words + "\n\n")
        self._length = stop
