"""Markdown as people keep notes in it: CommonMark with tables, front matter, and what Obsidian adds."""

from __future__ import annotations

import datetime
import html
import posixpath
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from mlx_jina.search.documents.base import Block, Document, Kind, Lines, Link, strings, valid
from mlx_jina.search.documents.kinds import is_picture

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_FRONT_MATTER = re.compile(
    r"---[ \t]*(?:\r\n|\r|\n)(.{0,65536}?)(?<=[\r\n])(?:---|\.\.\.)[ \t]*(?:\r\n|\r|\n|\Z)", re.S
)
# Keys of front matter by what is made of them; everything else is kept as it is.
_TITLE, _ALIASES, _TAGS = ("title",), ("aliases", "alias"), ("tags", "tag", "keywords")
_CREATED, _MODIFIED = ("created", "date"), ("modified", "updated", "lastmod")

# No pattern here may look far ahead in vain, again and again: a file can be megabytes of its first character.
_HIDDEN = re.compile(
    r"<!--"  # HTML's comments: their end is looked for apart
    r"|%%[^%\r\n]+%%|^%%[ \t]*$.*?^%%[ \t]*$"  # Obsidian's, inside a line or around some
    r"|(?<=\s)\^[A-Za-z0-9-]+[ \t]*$"  # block ids
    r"|</?[A-Za-z][A-Za-z0-9-]*"  # tags of HTML
    r"(?:\s+[A-Za-z_:][^\s=<>\"']*(?:\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s\"'<>]+))?)*\s*/?>",
    re.S | re.M,
)
# Not where a link's reference is defined, as in "[name]: #heading".
_TAG = re.compile(r"(?<![\w#&/=(\[{])(?<!\]: )(?<!\]:)#(?=[\w/-]*[^\W\d])([\w/-]+)")
_CODE_SPAN = re.compile(r"(?<!`)(`{1,8})(?!`).{1,1000}?(?<!`)\1(?!`)", re.S)
_WIKILINK = re.compile(r"\[\[([^\[\]|#^\r\n]*?)(?:[#^][^\[\]|\r\n]*)?(?:\\?\|([^\[\]\r\n]*))?\]\]")
# An address without spaces, in which parentheses come in pairs.
_ADDRESS = r"[^\s()<>]+(?:\([^\s()<>]*\)[^\s()<>]*)*"
_MARKDOWN_LINK = re.compile(rf"\]\(\s*(?:<([^<>\r\n]*)>|({_ADDRESS})(?=[\s<>)]))[^()\r\n]*\)")
_LINK_WORDS = re.compile(rf"!?\[([^\[\]\r\n]*)\]\((?:<[^<>\r\n]*>|{_ADDRESS}(?=[\s<>)]))?[^()\r\n]*\)")
_IMAGE = re.compile(
    # Words in brackets may stand in a caption.
    r"!\[([^\[\]\r\n]{0,1000}(?:\[[^\[\]\r\n]{0,1000}\][^\[\]\r\n]{0,1000}){0,9})"
    rf"(\]\(\s*(?:<[^<>\r\n]*>|{_ADDRESS}(?=[\s)])))"
    r"(?:[ \t]+(?:\"([^\"\r\n]*)\"|'([^'\r\n]*)'))?[ \t]*\)"
)
_IMAGE_TAG = re.compile(r"<img\s[^<>]{1,2000}>", re.I)
_ATTRIBUTE = re.compile(r"""(?<![\w-])(src|alt|title)\s*=\s*(?:"([^"]*)"|'([^']*)')""", re.I)
# In the place of a caption Obsidian takes the width, or both sides, of a picture.
_SIZE = re.compile(r"(?:^|\|)\s*\d+(?:x\d+)?\s*$")
_MARKS = re.compile(r"[*`]+|==|~~")

_LISTS = ("bullet_list_open", "ordered_list_open")
_KINDS: dict[str, Kind] = {"fence": "code", "code_block": "code", "table_open": "table", "list_item_open": "item"}


class FrontMatter(NamedTuple):
    """Where the front matter ends, and what it holds."""

    stop: int
    values: dict[str, Any]


def read(text: str) -> Document:
    """The blocks of a Markdown text, and what its front matter says."""
    front = front_matter(text)
    lines = Lines.of(text)
    blocks = list(body_blocks(text, front.stop, lines))
    prose = [block for block in blocks if block.kind != "code"]
    values = front.values
    unseen = list(hidden(text, prose))
    tags = [tag.lstrip("#") for key in _TAGS for tag in _tags(values.get(key))]
    return Document(
        text,
        blocks,
        lines,
        title=next(iter(_first(values, _TITLE)), None) or next((b.title for b in blocks if b.level == 1), None),
        aliases=[alias for key in _ALIASES for alias in strings(values.get(key))],
        tags=list(dict.fromkeys([*tags, *inline_tags(text, prose, unseen)])),
        links=list(links(text, prose, lines)),
        properties=values,
        created=next((date for key in _CREATED if (date := timestamp(values.get(key))) is not None), None),
        modified=next((date for key in _MODIFIED if (date := timestamp(values.get(key))) is not None), None),
        hidden=unseen,
    )


@cache
def _yaml_loader() -> Any:
    """YAML's safe loader, in which a date that is none, such as 2024-13-45, is a str."""
    import yaml

    # libyaml's is ten times as fast, and missing where no compiler was.
    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):
        def construct_yaml_timestamp(self, node: Any) -> Any:
            try:
                return super().construct_yaml_timestamp(node)
            except ValueError:
                return self.construct_scalar(node)

    Loader.add_constructor("tag:yaml.org,2002:timestamp", Loader.construct_yaml_timestamp)
    return Loader


def front_matter(text: str) -> FrontMatter:
    """The YAML between two lines of dashes at the start. What is no mapping in valid YAML belongs to the body."""
    if (match := _FRONT_MATTER.match(text)) is None:
        return FrontMatter(0, {})
    import yaml

    try:
        values = yaml.load(match[1], Loader=_yaml_loader())
    # YAML's constructors raise several errors for odd keys.
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, AttributeError, OverflowError):
        return FrontMatter(0, {})
    if values is None:
        return FrontMatter(match.end(), {})
    if not isinstance(values, dict):
        return FrontMatter(0, {})
    return FrontMatter(match.end(), {valid(str(key)).lower(): value for key, value in values.items()})


def body_blocks(text: str, start: int, lines: Lines) -> Iterator[Block]:
    """Blocks from `start`, the beginning of a line, to the end. Items of a list are blocks of their own."""
    first_line = lines.number(start) - 1 if start < len(text) else len(lines)
    found = list(_beginnings(_parser().parse(text[start:])))
    if not found and text[start:].strip():
        yield Block(start, len(text))
    # The first one has the blank lines before it, and all have those behind them.
    edges = [start, *(lines.start(first_line + line) for line, *_ in found[1:]), len(text)]
    for (_, kind, level, words), (here, there) in zip(found, pairwise(edges), strict=False):
        if here < there:
            yield Block(here, there, kind, level, words)


def _beginnings(tokens: Sequence[Token]) -> Iterator[tuple[int, Kind, int, str]]:
    """Lines where blocks begin, counted from 0, what they are, and a heading's level and words."""
    depth = 0
    for token, following in zip_longest(tokens, tokens[1:]):
        if token.level == 0:
            # An item of a list at the top counts, and the list itself does not.
            depth = 1 if token.type in _LISTS else 0
        if token.map is None or token.level > depth or token.type in _LISTS:
            continue
        if token.type == "heading_open":
            words = plain(following.content) if following is not None else ""
            yield token.map[0], "heading", int(token.tag[1:]), words
        else:
            yield token.map[0], _KINDS.get(token.type, "text"), 0, ""


def plain(inline: str) -> str:
    """The words of a heading or a line without Markdown's marks."""
    inline = _WIKILINK.sub(lambda match: match[2] or match[1], _LINK_WORDS.sub(r"\1", inline))
    return valid(" ".join(_MARKS.sub("", inline).split()))


def inline_tags(text: str, prose: list[Block], unseen: Sequence[tuple[int, int]]) -> Iterator[str]:
    """Tags such as #project/house, which have a letter somewhere, outside code and what `hidden` found."""
    if "#" not in text:
        return
    ends = [stop for _, stop in unseen]
    for block in prose:
        source = _CODE_SPAN.sub(lambda code: " " * len(code[0]), text[block.start : block.stop])
        for match in _TAG.finditer(source):
            place = block.start + match.start()
            following = bisect_right(ends, place)
            if following == len(ends) or place < unseen[following][0]:
                yield match[1].strip("/-")


def links(text: str, prose: list[Block], lines: Lines) -> Iterator[Link]:
    """Wikilinks by the note's name, and Markdown links to files as they are written, unquoted.

    Those that show a picture have what is said of it.
    """
    for block in prose:
        for match in _WIKILINK.finditer(text, block.start, block.stop):
            if target := match[1].strip():
                shown = is_picture(target) and text[max(match.start() - 1, block.start)] == "!"
                words = plain(_SIZE.sub("", match[2] or ""))
                yield Link(valid(target), lines.number(match.start()), words if shown else None)
        shown_at = {
            match.start(2): plain(" ".join(filter(None, (_SIZE.sub("", match[1]), match[3] or match[4]))))
            for match in _IMAGE.finditer(text, block.start, block.stop)
        }
        for match in _MARKDOWN_LINK.finditer(text, block.start, block.stop):
            if target := path_of(match[1] or match[2] or ""):
                alt = shown_at.get(match.start()) if is_picture(target) else None
                yield Link(target, lines.number(match.start()), alt)
        for match in _IMAGE_TAG.finditer(text, block.start, block.stop):
            values = {name.lower(): html.unescape(a or b) for name, a, b in _ATTRIBUTE.findall(match[0])}
            target = path_of(values.get("src", ""))
            if target and is_picture(target):
                words = " ".join(filter(None, (values.get("alt"), values.get("title"))))
                yield Link(target, lines.number(match.start()), plain(words))


def path_of(address: str) -> str | None:
    """The path of a file, relative to the note, that an address leads to; None for other places."""
    target = unquote(address.partition("#")[0], errors="replace")
    if not target or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:|/", target):
        return None
    # With its extension and the dot in front, a path differs from a name.
    return "./" + posixpath.normpath(valid(target))


def hidden(text: str, prose: list[Block]) -> Iterator[tuple[int, int]]:
    """Comments, block ids and the tags of HTML, outside code."""
    if not any(mark in text for mark in ("<", "%%", "^")):
        return
    for start, stop in _joined(prose):
        # A code span may talk about comments and tags.
        code = [match.span() for match in _CODE_SPAN.finditer(text, start, stop)] if "`" in text else []
        code.append((stop, stop))
        here, spans = start, iter(code)
        span = next(spans)
        while match := _HIDDEN.search(text, here, stop):
            first, here = match.span()
            while span[1] <= first < stop:
                span = next(spans)
            if span[0] <= first:
                continue
            if match[0] == "<!--":
                if (end := text.find("-->", here, stop)) < 0:
                    return
                here = end + 3
            yield first, here


def timestamp(value: object) -> float | None:
    """Seconds since 1970 of a date in front matter, local time where no zone is given."""
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value.strip().replace("Z", "+00:00"))
        except ValueError:
            return None
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    try:
        return value.timestamp() if isinstance(value, datetime.datetime) else None
    # Years that the system's clock cannot count to.
    except (OverflowError, ValueError, OSError):
        return None


def _first(values: dict[str, Any], keys: tuple[str, ...]) -> list[str]:
    found = [values[key] for key in keys if isinstance(values.get(key), (str, int, float))]
    return [" ".join(valid(str(value)).split()) for value in found]


def _tags(value: object) -> list[str]:
    """Tags also stand between spaces."""
    return strings(value.replace(" ", ",")) if isinstance(value, str) else strings(value)


def _joined(blocks: list[Block]) -> Iterator[tuple[int, int]]:
    """Spans of blocks that touch each other: a comment may have blank lines in it."""
    start = stop = -1
    for block in blocks:
        if block.start != stop:
            if start >= 0:
                yield start, stop
            start = block.start
        stop = block.stop
    if start >= 0:
        yield start, stop


@cache
def _parser() -> MarkdownIt:
    """CommonMark's blocks and tables; what stands inside a line is not parsed."""
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable("table").disable("inline")
