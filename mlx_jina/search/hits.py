"""What a search returns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from mlx_jina.errors import InputError

if TYPE_CHECKING:
    # How hits are found need not be known where a server finds them.
    from mlx_jina.search.expansion import Expansion

Mode = Literal["hybrid", "words", "meaning"]
MODES: tuple[Mode, ...] = ("hybrid", "words", "meaning")

# Programs that open a note, by the names that `--uri` and MLX_JINA_URI take.
URIS = {
    "file": "file://{path}",
    "obsidian": "obsidian://open?path={path}{heading}",
    "adv-uri": "obsidian://adv-uri?vault={vault}&filepath={file}&line={line}",
    "vscode": "vscode://file{path}:{line}",
}
# Notes with the same picture, such as a logo, that are named where people read.
_NAMED = 5
_PARTS = ("path", "file", "vault", "line", "heading")


@dataclass(frozen=True)
class Hit:
    """A chunk that was found, and the note that it is in."""

    id: int
    path: str
    """Of the note, relative to its folder."""
    absolute_path: str
    line: int
    end_line: int
    """From 1; pages of a PDF, cells of a notebook, cards of a canvas."""
    span: tuple[int, int]
    """The characters of the note that the chunk is."""
    title: str
    heading: str
    """The headings above the chunk, as "Heading > Subheading"."""
    tags: tuple[str, ...]
    modified: float
    """Seconds since 1970."""
    score: float
    """0 to 1, comparable within one search only."""
    cosine: float | None
    """Of the query with the chunk and its note, their mean; None if there is no vector, or none was asked for."""
    bm25: float | None
    """None if no word matches."""
    rerank: float | None
    """What a reranker thinks of the chunk, 0 to 1; None if there was none, or it did not read the chunk."""
    text: str
    """The chunk."""
    snippet: str
    """The sentence of the chunk that matches best."""
    highlights: tuple[tuple[int, int], ...]
    """Spans of the snippet that match."""
    more: int
    """Other chunks of the same note that are as good as the last hit of the list."""
    picture: bool = False
    """Whether the chunk is a picture, or a page of a PDF that has no text; `text` is what notes say of it."""
    shown_in: tuple[str, ...] = ()
    """Paths of the notes that show the picture."""

    @property
    def uri(self) -> str:
        """What opens the note: MLX_JINA_URI if that is set, Obsidian in a vault, else the file itself."""
        return self.uri_by(os.environ.get("MLX_JINA_URI") or None)

    def uri_by(self, template: str | None) -> str:
        """A URI by a name in `URIS` or a template with {path}, {file}, {vault}, {line} and {heading}."""
        vault = vault_of(self.absolute_path)
        if template is None:
            template = "obsidian" if vault else "file"
        template = check_uri(template)
        heading = self.heading.rpartition(" > ")[2]
        return template.format(
            path=quote(os.fsencode(self.absolute_path)),
            file=quote(os.fsencode(os.path.relpath(self.absolute_path, vault) if vault else self.path)),
            vault=quote(os.fsencode(os.path.basename(vault or ""))),
            line=self.line,
            heading=quote(f"#{heading}", safe="") if heading else "",
        )

    def marked(self, before: str, after: str) -> str:
        """The snippet with something around every match."""
        return marked(self.snippet, self.highlights, before, after)


@dataclass(frozen=True)
class Explanation:
    """Why hits are where they are."""

    mean: float | None = None
    """Of the cosines with all allowed chunks."""
    best: float | None = None
    """The highest of them."""
    best_bm25: float | None = None
    weight: float | None = None
    """How much of a score is its meaning half, for this query."""
    counts: dict[str, int] = field(default_factory=dict)
    """In how many chunks each word of the query is, at most just over half of all."""
    dropped: tuple[str, ...] = ()
    """Words in more than half of all chunks."""
    expansion: Expansion | None = None
    """What was searched for besides the question."""
    strong: bool = False
    """Whether words matched so well that nothing else was searched for, though it was asked for."""
    chunks: int = 0
    """In the index."""
    allowed: int | None = None
    """Notes that the filters let through."""


@dataclass(frozen=True)
class Found:
    """Hits, and how they were found."""

    hits: Sequence[Hit]
    mode: Mode
    """What was searched: "words" where meaning was asked for and is not to be had."""
    explanation: Explanation
    warning: str | None = None
    """Why there was no search by meaning."""
    model: str | None = None
    fingerprint: str | None = None
    """Of the vectors in the index."""
    waiting: int = 0
    """Notes without vectors."""


def marked(text: str, spans: Sequence[Sequence[int]], before: str, after: str) -> str:
    """A text with something around every span of it."""
    parts, here = [], 0
    for start, stop in spans:
        parts += [text[here:start], before, text[start:stop], after]
        here = stop
    return "".join([*parts, text[here:]])


def some_of(paths: Sequence[str]) -> str:
    """Paths for people: the first of many, and how many others there are."""
    more = len(paths) - _NAMED
    return ", ".join(paths[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def check_uri(template: str) -> str:
    """The template of a name, or the template itself. Raises InputError for what cannot be filled in.

    Python's own templates could do more, such as to ask for a width of a billion characters.
    """
    template = URIS.get(template, template)
    try:
        if not template:
            raise ValueError("it is empty")
        for _, name, form, conversion in Formatter().parse(template):
            if name is not None and (name not in _PARTS or form or conversion):
                raise ValueError(f"{{{name}{f'!{conversion}' if conversion else ''}{f':{form}' if form else ''}}}")
    except ValueError as error:
        names = ", ".join(URIS)
        raise InputError(
            f"{template!r} is no URI template ({error}): use {names}, or text with {{path}}, {{file}}, {{vault}}, "
            "{line} and {heading}"
        ) from None
    return template


def vault_of(path: str) -> str | None:
    """The Obsidian vault that a file is in: the nearest folder above it that has .obsidian."""
    folder = os.path.dirname(path)
    while True:
        if os.path.isdir(os.path.join(folder, ".obsidian")):
            return folder
        folder, below = os.path.dirname(folder), folder
        if folder == below:
            return None
