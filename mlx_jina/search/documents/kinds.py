"""Kinds of files, by the endings of their names."""

from __future__ import annotations

import os
from importlib.util import find_spec

MISSING_PDF_READER = "PDF files need pypdfium2: pip install 'mlx-jina[pdf]'"
MISSING_PICTURE_READER = "pictures need Pillow: pip install 'mlx-jina[images]'"

CODE = frozenset(
    ".bash .bat .c .cc .cfg .clj .cljs .cpp .cs .css .cu .cxx .dart .el .ex .exs .f90 .fish .fs .go "
    ".gradle .graphql .h .hpp .hs .ini .java .jl .js .jsx .kt .kts .less .lisp .lua .m .metal .ml .mm "
    ".nim .nix .php .pl .pm .proto .ps1 .py .pyi .r .rb .rs .sass .scala .scm .scss .sh .sql .svelte "
    ".swift .tcl .toml .ts .tsx .vim .vue .yaml .yml .zig .zsh".split()
)
MARKDOWN = frozenset(".md .markdown .mdown .mdx .qmd .rmd".split())
HTML = frozenset(".html .htm .xhtml".split())
_TEXT = frozenset(".txt .text .tex .adoc .asciidoc .textile .typ".split())

SUFFIXES = CODE | MARKDOWN | HTML | _TEXT | frozenset(".rst .org .ipynb .canvas .pdf".split())
"""Endings of the files that are read where nobody says which."""
PICTURES = frozenset(".png .jpg .jpeg .webp .gif .bmp .tif .tiff".split())
"""Endings of the files that a model which sees is shown."""


def is_picture(path: str) -> bool:
    """Whether a file is a picture, by its name."""
    return os.path.splitext(path)[1].lower() in PICTURES


def has_pdf_reader() -> bool:
    """Whether PDF files can be read here."""
    return find_spec("pypdfium2") is not None


def has_picture_reader() -> bool:
    """Whether pictures can be decoded here."""
    return find_spec("PIL") is not None
