"""Pages of a PDF as pictures, by PDFium (`mlx-jina[pdf]`)."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mlx_jina.errors import InputError
from mlx_jina.vision.resize import Pixels

# A page is drawn at 150 dots an inch, a large one at fewer: models make it smaller than that.
_SCALE, _MOST = 150 / 72, 8_000_000
LOCK = threading.Lock()
"""PDFium is not to be called by two threads at once."""


def pages(path: str | Path) -> Iterator[Pixels]:
    """Each page as RGB (h, w, 3), one in memory at a time. Raises InputError for what is no PDF to be read."""
    try:
        import pypdfium2
    except ImportError:
        raise InputError(f"{path} is a PDF, whose pages need pypdfium2: pip install 'mlx-jina[pdf]'") from None
    with LOCK:
        try:
            pdf = pypdfium2.PdfDocument(path)
            count = len(pdf)
        except pypdfium2.PdfiumError as error:
            raise InputError(f"{path} is not a PDF that can be read: {error}") from None
    try:
        for number in range(count):
            with LOCK:
                try:
                    page = _drawn(pdf, number)
                except pypdfium2.PdfiumError as error:
                    raise InputError(f"{path}, page {number + 1}: cannot be drawn: {error}") from None
            yield page
    finally:
        with LOCK:
            pdf.close()


def page(data: bytes, number: int) -> Pixels:
    """The page of a PDF's bytes, counted from 1, as RGB (h, w, 3). Raises InputError."""
    import pypdfium2

    with LOCK:
        try:
            pdf = pypdfium2.PdfDocument(data)
            try:
                return _drawn(pdf, number - 1)
            finally:
                pdf.close()
        # A page that is not there is an IndexError.
        except (pypdfium2.PdfiumError, IndexError) as error:
            raise InputError(f"page {number} cannot be drawn: {error}") from None


def _drawn(pdf: Any, number: int) -> Pixels:
    page = pdf[number]
    try:
        width, height = page.get_size()
        scale = min(_SCALE, math.sqrt(_MOST / max(1.0, width * height)))
        drawn: Pixels = page.render(scale=scale, rev_byteorder=True, may_draw_forms=False).to_numpy()
        # The array lies in PDFium's memory; grey pages have one channel.
        drawn = drawn if drawn.ndim == 3 else drawn[:, :, None]
        return np.array(np.repeat(drawn, 3, axis=2) if drawn.shape[2] == 1 else drawn[:, :, :3])
    finally:
        page.close()
