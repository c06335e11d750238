"""Files of many formats as sections: a title, and paragraphs in reading order."""

from __future__ import annotations

import ast
import gzip
import html
import json
import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

STOP = frozenset("the of and to a in is it that for with as be on by this are or from an at not you can".split())


class Section(NamedTuple):
    title: str
    paragraphs: list[str]


def squeeze(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def is_prose(text: str) -> bool:
    """Mostly letters, mostly ASCII, and for longer texts some English function words."""
    letters = sum(c.isalpha() or c == " " for c in text)
    if len(text) < 8 or letters < 0.8 * len(text) or sum(c.isascii() for c in text) < 0.98 * len(text):
        return False
    words = text.lower().split()
    return len(words) < 7 or sum(word in STOP for word in words) >= 0.12 * len(words)


def text_of(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix in (".gz", ".dz") else data).decode("utf-8", "replace")


class _Page(HTMLParser):
    """Collects the sections of a page; code, tables and navigation are left out."""

    HEADINGS = frozenset("h1 h2 h3 h4 h5 h6".split())
    BLOCKS = frozenset("p li dd dt div td blockquote section article main".split())
    HIDDEN = frozenset("script style pre nav footer header table head button form".split())

    def __init__(self) -> None:
        super().__init__()
        self.sections = [Section("", [])]
        self.held = ""
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.HIDDEN:
            self.hidden += 1
        if tag in self.HEADINGS or tag in self.BLOCKS:
            self.flush()

    def handle_endtag(self, tag: str) -> None:
        if tag in self.HEADINGS:
            if title := self.take().rstrip("¶# "):
                self.sections.append(Section(title, []))
        elif tag in self.BLOCKS:
            self.flush()
        if tag in self.HIDDEN:
            self.hidden = max(0, self.hidden - 1)

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.held += data

    def take(self) -> str:
        text, self.held = squeeze(self.held.replace("¶", "")), ""
        return text

    def flush(self) -> None:
        if text := self.take():
            self.sections[-1].paragraphs.append(text)


def sections_of_html(text: str) -> list[Section]:
    page = _Page()
    page.feed(text)
    page.flush()
    return page.sections


def of_html(path: Path) -> Iterator[Section]:
    """A page, if it is in English or does not say."""
    text = text_of(path)
    language = re.search(r"<html[^>]*\blang=[\"']?(\w+)", text[:2000])
    if language is None or language[1] == "en":
        yield from sections_of_html(text)


def of_dict(path: Path) -> Iterator[Section]:
    """A dictd file: a word at the margin, and indented lines about it."""
    for entry in re.split(r"\n(?=\S)", text_of(path)):
        word, _, body = entry.partition("\n")
        body = re.sub(r"[{}]|\[[^\]]*\]", "", body)
        # The pronunciation and the part of speech.
        body = re.sub(r"^\s*(//.*?//,?)?\s*(\w{1,5}\.)? *$", "", body, flags=re.M)
        yield Section(squeeze(word), [squeeze(p) for p in re.split(r"\n\s*\n", body) if squeeze(p)])


def of_wordnet(path: Path) -> Iterator[Section]:
    """A data file of WordNet: the words of a synset, its definition and examples."""
    for line in text_of(path).splitlines():
        if not line.startswith("  "):
            head, _, gloss = line.partition(" | ")
            cells = head.split(" ")
            words = [re.sub(r"\(\w+\)$", "", w) for w in cells[4 : 4 + 2 * int(cells[3], 16) : 2]]
            definition, *examples = re.split(r';\s*(?=")', gloss.strip())
            paragraphs = [definition.strip(" ;"), *(e.strip(' ";') for e in examples)]
            yield Section(", ".join(words).replace("_", " "), paragraphs)


def of_rdata(path: Path) -> Iterator[Section]:
    """The data of an R package of novels: each a vector of lines in a zlib block. A section is a chapter."""
    data = path.read_bytes()
    while len(data) > 4:
        block = zlib.decompressobj()
        content, data = block.decompress(data[4:]), block.unused_data
        # A string has a tag of four bytes, its length and its bytes.
        tag, lines = b"\x00\x04\x00\x09", []
        at = content.find(tag)
        while content[at : at + 4] == tag:
            end = at + 8 + int.from_bytes(content[at + 4 : at + 8], "big")
            lines.append(content[at + 8 : end].decode("utf-8", "replace"))
            at = end
        title, *paragraphs = (squeeze(p) for p in "\n".join(lines).replace("_", "").split("\n\n"))
        section = Section(title.title(), [])
        for paragraph in filter(None, paragraphs):
            if len(paragraph) < 40 and re.match(r"(chapter|volume) \w+", paragraph, re.I):
                yield section
                section = Section(f"{title.title()}, {paragraph.lower()}", [])
            else:
                section.paragraphs.append(paragraph)
        yield section


def of_speech(path: Path) -> Iterator[Section]:
    """An address to Congress: its file is named by year and president, its headings are in capitals."""
    year, president, *_ = path.stem.split("-")
    subject = f"State of the Union {year}, {president}"
    section = Section(subject, [])
    for paragraph in map(squeeze, re.split(r"\n\s*\n", text_of(path))):
        if paragraph.isupper() and len(paragraph) < 80:
            yield section
            section = Section(f"{paragraph.capitalize()} ({subject})", [])
        else:
            section.paragraphs.append(paragraph)
    yield section


def of_bible(path: Path) -> Iterator[Section]:
    """JSON lines of verses; a paragraph has five."""
    chapters: dict[str, list[str]] = defaultdict(list)
    for verse in map(json.loads, text_of(path).splitlines()):
        chapters[f"{verse['book']} {verse['chapter']}"].append(verse["text"])
    for title, verses in chapters.items():
        yield Section(title, [" ".join(verses[i : i + 5]) for i in range(0, len(verses), 5)])


def of_factbook(path: Path) -> Iterator[Section]:
    """A country's profile: a section for every field."""
    profile = json.loads(text_of(path))
    names = profile.get("Government", {}).get("Country name", {})
    country = names.get("conventional short form", {}).get("text") or path.stem

    def texts(value: dict[str, Any]) -> Iterator[str]:
        for key, inner in value.items():
            if isinstance(inner, dict):
                yield from (text if key in ("text", "") else f"{key}: {text}" for text in texts(inner))
            elif inner:
                yield squeeze(html.unescape(str(inner)).replace(" ++ ", "; "))

    for fields in profile.values():
        for field, value in fields.items() if isinstance(fields, dict) else ():
            if isinstance(value, dict):
                yield Section(f"{country}: {field}", list(texts(value)))


def of_obo(path: Path) -> Iterator[Section]:
    """An ontology: the name of a term, and its definition, unless that was taken from Wikipedia (CC-BY-SA)."""
    for term in text_of(path).split("\n[Term]\n")[1:]:
        name = re.search(r"^name: (.*)$", term, re.M)
        definition = re.search(r'^def: "((?:[^"\\]|\\.)*)"(.*)$', term, re.M)
        quoted = definition and re.search("wiki|WP:", definition[2], re.I)
        if name and definition and not quoted and "is_obsolete: true" not in term:
            yield Section(name[1], [definition[1].replace('\\"', '"').replace("\\n", " ")])


def of_service(path: Path) -> Iterator[Section]:
    """What the operations of a web service do."""
    service = json.loads(text_of(path))
    name = service["metadata"]["serviceFullName"]
    entries = {name: service, **service["operations"]}
    for key, entry in entries.items():
        paragraphs = [p for s in sections_of_html(entry.get("documentation", "")) for p in s.paragraphs]
        spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key)
        yield Section(spaced if entry is service else f"{spaced} ({name})", paragraphs)


def of_dialogue(path: Path) -> Iterator[Section]:
    """Questions and answers in YAML."""
    for question, answer in re.findall(r"^- - (.*(?:\n    .*)*)\n  - (.*(?:\n    .*)*)", text_of(path), re.M):
        yield Section(squeeze(question).strip("'\""), [squeeze(answer).strip("'\"")])


def of_book(path: Path) -> Iterator[Section]:
    """A book as plain text. A short paragraph in capitals, or one that begins with "chapter", is a heading."""
    section = Section("", [])
    for paragraph in map(squeeze, re.split(r"\n\s*\n", text_of(path).replace("_", ""))):
        if len(paragraph) < 80 and (paragraph.isupper() or re.match(r"chapter \w+", paragraph, re.I)):
            yield section
            section = Section(paragraph.capitalize() if paragraph.isupper() else paragraph, [])
        else:
            section.paragraphs.append(paragraph)
    yield section


def of_devil(path: Path) -> Iterator[Section]:
    """The Devil's Dictionary for dictd: an entry begins with a word in capitals and its part of speech."""
    section = Section("", [])
    for block in re.split(r"\n\s*\n", text_of(path)):
        entry = re.match(r"([A-Z][A-Z' -]+),\s+(?:\w{1,5}\.\s*)+(.*)", block, re.S)
        if entry:
            yield section
            section = Section(squeeze(entry[1]).capitalize(), [])
        if text := squeeze(entry[2] if entry else block):
            section.paragraphs.append(text)
    yield section


def of_commentary(path: Path) -> Iterator[Section]:
    """A commentary of the SWORD project: compressed blocks of XML, and beside them a file that says where."""
    data = path.read_bytes()
    for start, size, _ in struct.iter_unpack("<III", path.with_name(path.name[:-1] + "s").read_bytes()):
        yield from sections_of_html(zlib.decompress(data[start : start + size]).decode())


# Of JATS, the format of scientific articles.
HIDDEN = frozenset("fig table-wrap disp-formula inline-formula supplementary-material".split())
COMMON_HEADING = re.compile(
    r"(introduction|background|(\w+ and )?methods|results|discussion|conclusions?)\b", re.I
)


def _words_of(element: ElementTree.Element | None) -> str:
    """The text of an element without figures, tables, formulas and citations."""
    if element is None or element.tag in HIDDEN or element.get("ref-type") == "bibr":
        return ""
    return (element.text or "") + "".join(_words_of(child) + (child.tail or "") for child in element)


def _is_free(article: ElementTree.Element) -> bool:
    """Whether an article says that it is under CC-BY or CC0."""
    parts = [part for found in article.iter("license") for part in found.iter()]
    licence = squeeze(" ".join(f"{' '.join(part.itertext())} {' '.join(part.attrib.values())}" for part in parts))
    named = re.search(r"Creative Commons|creativecommons\.org/(licenses/by/|publicdomain/)", licence)
    return bool(named) and not re.search(r"non-?commercial|share-?alike|no-?deriv|licenses/by-", licence, re.I)


def of_article(path: Path) -> Iterator[Section]:
    """A scientific article in JATS, if it is under CC-BY or CC0. Its title stands for common headings."""
    article = ElementTree.fromstring(text_of(path))
    if not _is_free(article):
        return
    title = squeeze(_words_of(article.find(".//title-group/article-title")))
    for top in (*article.iter("abstract"), *article.findall("body")):
        for part in (top, *top.iter("sec")):
            heading = squeeze(_words_of(part.find("title")))
            paragraphs = [squeeze(_words_of(paragraph)) for paragraph in part.findall("p")]
            paragraphs = [re.sub(r"\s*[\[(][\s,;\u2013-]*[\])]", "", paragraph) for paragraph in paragraphs]
            yield Section(title if not heading or COMMON_HEADING.match(heading) else heading, paragraphs)


PROSE = frozenset(("", "Notes", "Summary", "Description", "Theory", "Extended Summary", "Warnings", "Background"))
"""Of numpydoc's sections, those in prose."""
LISTS = r"\s*(Args|Arguments|Parameters|Returns?|Raises|Yields|Attributes|Examples?|Usage|References)\s*:"
MARKUP = re.compile(
    r">>>|^\s*(\.\. |:\w+.*:|\\|\$|\||\[\d+\]|```)|\\(frac|left|begin)|:math:|\$.*\$|https?:", re.M
)


def prose_of_docstring(text: str) -> Iterator[str]:
    """Its paragraphs. Parameters, examples, references, formulas and paragraphs with an address are left out."""
    section = ""
    for block in re.split(r"\n\s*\n", text):
        lines = block.strip("\n").splitlines()
        if len(lines) > 1 and re.fullmatch(r"\s*([-=~^])\1{2,}\s*", lines[1]):
            section, lines = lines[0].strip(), lines[2:]
        elif re.match(LISTS, block):
            section = "Parameters"
        paragraph = "\n".join(lines)
        if section not in PROSE or MARKUP.search(paragraph):
            continue
        paragraph = re.sub(r":[\w:+-]+:`~?([^`<]*?)\s*(<[^`]*>)?`", r"\1", paragraph)
        paragraph = squeeze(re.sub(r"\s*\[\w+\]_|(?<!\w)_{1,2}(?=\w)|\*\*|`+_*", "", paragraph))
        if len(paragraph) > 40 and paragraph[0].isupper() and paragraph[-1] in ".:!?)":
            yield paragraph


def of_docstrings(path: Path) -> Iterator[Section]:
    """A module in Python: what it, its public classes and functions say of themselves in more than a line."""
    if path.parent.name == "tests" or path.name.startswith(("test_", "conftest")):
        return
    for node in ast.walk(ast.parse(text_of(path))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = path.stem if isinstance(node, ast.Module) else node.name
            paragraphs = list(prose_of_docstring(ast.get_docstring(node) or ""))
            if sum(map(len, paragraphs)) > 120 and not name.startswith("_"):
                spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ")
                yield Section(spaced.strip(), paragraphs)
