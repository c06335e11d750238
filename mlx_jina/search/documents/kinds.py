"""Kinds of files, by the endings of their names."""

from __future__ import annotations

from importlib.util import find_spec

MISSING_PDF_READER = "PDF files need pypdfium2: pip install 'mlx-jina[pdf]'"

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


def has_pdf_reader() -> bool:
    """Whether PDF files can be read here."""
    return find_spec("pypdfium2") is not None
