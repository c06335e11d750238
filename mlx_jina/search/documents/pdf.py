"""The text of a PDF, by PDFium; lines are pages."""

from __future__ import annotations

import threading
from typing import Any

from mlx_jina.search.documents.base import (
    Block,
    Document,
    Lines,
    UnreadableError,
    paragraphs,
    valid,
)
from mlx_jina.search.documents.kinds import MISSING_PDF_READER

_lock = threading.Lock()


def read(data: bytes) -> Document:
    """Paragraphs of the pages that have text in them. Raises UnreadableError."""
    try:
        import pypdfium2
    except ImportError:
        raise UnreadableError(MISSING_PDF_READER) from None
    # PDFium is not to be called by two threads at once.
    with _lock:
        return _read(pypdfium2, data)


def _read(pypdfium2: Any, data: bytes) -> Document:
    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        raise UnreadableError(f"not a PDF that can be read: {error}") from None
    parts: list[str] = []
    blocks: list[Block] = []
    starts: list[int] = []
    numbers: list[int] = []
    here = 0
    try:
        for number in range(len(pdf)):
            page = pdf[number]
            try:
                text = valid(page.get_textpage().get_text_bounded()).replace("\0", "")
            except pypdfium2.PdfiumError:
                continue
            finally:
                page.close()
            # PDFium marks a hyphen at the end of a line.
            text = text.replace("\ufffe", "").replace("\x02", "").strip() + "\n\n"
            if not text.strip():
                continue
            starts.append(here)
            numbers.append(number + 1)
            blocks += [Block(b.start + here, b.stop + here) for b in paragraphs(text)]
            parts.append(text)
            here += len(text)
    finally:
        pdf.close()
    if not parts:
        raise UnreadableError("a PDF without text: scanned pages would need OCR")
    return Document("".join(parts), blocks, Lines(starts, numbers))
