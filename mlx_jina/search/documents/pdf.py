"""The text of a PDF, by PDFium; lines are pages."""

from __future__ import annotations

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
from mlx_jina.vision.pdf import LOCK

WITHOUT_TEXT = "a PDF without text: scanned pages would need OCR, or a model that sees"


def read(data: bytes, *, pictures: bool = False) -> Document:
    """Paragraphs of the pages that have text. Raises UnreadableError, with `pictures` not for scans."""
    try:
        import pypdfium2
    except ImportError:
        raise UnreadableError(MISSING_PDF_READER) from None
    with LOCK:
        document = _read(pypdfium2, data)
    if not document.text and not (pictures and document.scans):
        raise UnreadableError(WITHOUT_TEXT)
    return document


def _read(pypdfium2: Any, data: bytes) -> Document:
    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        raise UnreadableError(f"not a PDF that can be read: {error}") from None
    parts: list[str] = []
    blocks: list[Block] = []
    starts: list[int] = []
    numbers: list[int] = []
    scans: list[int] = []
    here = 0
    try:
        for number in range(len(pdf)):
            page = pdf[number]
            try:
                text = valid(page.get_textpage().get_text_bounded()).replace("\0", "")
                if not text.strip() and next(page.get_objects(max_depth=1), None) is not None:
                    scans.append(number + 1)
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
    if scans and (not numbers or scans[-1] > numbers[-1]):
        # So that the note has as many lines as there are pages to be seen.
        starts.append(here)
        numbers.append(scans[-1])
    return Document("".join(parts), blocks, Lines(starts, numbers), scans=scans)
