"""Files to documents: by the name's ending, which reader a file goes to."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec

from mlx_jina.search.documents import plain
from mlx_jina.search.documents.base import MISSING_PDF_READER, Block, Document, Lines, Link, UnreadableError, valid
from mlx_jina.search.documents.decode import decode

__all__ = [
    "MISSING_PDF_READER",
    "SUFFIXES",
    "Block",
    "Document",
    "Lines",
    "Link",
    "UnreadableError",
    "has_pdf_reader",
    "read",
    "valid",
]

_CODE = frozenset(
    ".bash .bat .c .cc .cfg .clj .cljs .cpp .cs .css .cu .cxx .dart .el .ex .exs .f90 .fish .fs .go "
    ".gradle .graphql .h .hpp .hs .ini .java .jl .js .jsx .kt .kts .less .lisp .lua .m .metal .ml .mm "
    ".nim .nix .php .pl .pm .proto .ps1 .py .pyi .r .rb .rs .sass .scala .scm .scss .sh .sql .svelte "
    ".swift .tcl .toml .ts .tsx .vim .vue .yaml .yml .zig .zsh".split()
)
_MARKDOWN = frozenset(".md .markdown .mdown .mdx .qmd .rmd".split())
_HTML = frozenset(".html .htm .xhtml".split())
_TEXT = frozenset(".txt .text .tex .adoc .asciidoc .textile .typ".split())

SUFFIXES = _CODE | _MARKDOWN | _HTML | _TEXT | frozenset(".rst .org .ipynb .canvas .pdf".split())
"""Endings of the files that are read where nobody says which."""


def read(name: str, data: bytes) -> Document:
    """The document in a file's bytes. Raises UnreadableError."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix == ".pdf":
        from mlx_jina.search.documents import pdf

        return pdf.read(data)
    text, remark = decode(data)
    document = _reader(suffix)(text)
    return document if remark is None else replace(document, remark=remark)


def has_pdf_reader() -> bool:
    """Whether PDF files can be read here."""
    return find_spec("pypdfium2") is not None


def _reader(suffix: str) -> Callable[[str], Document]:
    # Each imported when the first of its files comes.
    if suffix in _MARKDOWN:
        from mlx_jina.search.documents import markdown

        return markdown.read
    if suffix in _HTML:
        from mlx_jina.search.documents import html

        return html.read
    if suffix in (".ipynb", ".canvas"):
        from mlx_jina.search.documents import cells

        return cells.read_notebook if suffix == ".ipynb" else cells.read_canvas
    if suffix == ".rst":
        return plain.read_rst
    if suffix == ".org":
        return plain.read_org
    return plain.read_code if suffix in _CODE else plain.read_text
