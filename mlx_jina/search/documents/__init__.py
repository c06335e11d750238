"""Files to documents: by the name's ending, which reader a file goes to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mlx_jina.search.documents.kinds import CODE, HTML, MARKDOWN

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_jina.search.documents.base import Document


def read(name: str, data: bytes, *, pictures: bool = False) -> Document:
    """The document in a file's bytes; with `pictures` a PDF needs no text. Raises base.UnreadableError."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix == ".pdf":
        from mlx_jina.search.documents import pdf

        return pdf.read(data, pictures=pictures)
    from mlx_jina.search.documents.decode import decode

    text, remark = decode(data)
    document = _reader(suffix)(text)
    return document if remark is None else document.with_remark(remark)


def _reader(suffix: str) -> Callable[[str], Document]:
    # Each imported when the first of its files comes: a search where nothing changed needs none.
    if suffix in MARKDOWN:
        from mlx_jina.search.documents import markdown

        return markdown.read
    if suffix in HTML:
        from mlx_jina.search.documents import html

        return html.read
    if suffix in (".ipynb", ".canvas"):
        from mlx_jina.search.documents import cells

        return cells.read_notebook if suffix == ".ipynb" else cells.read_canvas
    from mlx_jina.search.documents import plain

    if suffix in (".rst", ".org"):
        return plain.read_rst if suffix == ".rst" else plain.read_org
    return plain.read_code if suffix in CODE else plain.read_text
