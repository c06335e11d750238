"""`mlx-jina similarity`: the cosines of a few texts, as a small table."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from mlx_jina.cli.encode import open_model
from mlx_jina.errors import InputError

if TYPE_CHECKING:
    from mlx_jina.options import EncodeOptions, LoadOptions

# Columns of the terminal that a text may take.
TEXT_WIDTH = 40


def run(texts: Sequence[str], model: str | None, loading: LoadOptions, options: EncodeOptions) -> None:
    """Print the cosine similarity of every text with every other."""
    if len(texts) < 2:
        raise InputError(f"similarity needs at least two texts, got {len(texts)}")
    encoder = open_model(model, loading)
    embeddings = encoder.encode(list(texts), **options)
    print(table(texts, encoder.similarity(embeddings, embeddings).tolist()))


def table(texts: Sequence[str], matrix: Sequence[Sequence[float]]) -> str:
    """Rows named by number and shortened text, columns by number."""
    names = [_shortened(" ".join(text.split())) for text in texts]
    width = max(map(_width, names))
    digits = len(str(len(texts)))
    lines = [" " * (digits + width + 2) + "".join(f"{i:>7}" for i in range(1, len(texts) + 1))]
    for i, (name, row) in enumerate(zip(names, matrix, strict=True), 1):
        # Adding zero turns -0.00 into 0.00.
        values = "".join(f"{round(value, 2) + 0:>7.2f}" for value in row)
        lines.append(f"{i:>{digits}}  {name}{' ' * (width - _width(name))}{values}")
    return "\n".join(lines)


def _width(text: str) -> int:
    """Terminal columns: Chinese characters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def _shortened(text: str) -> str:
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    if _width(printable) <= TEXT_WIDTH:
        return printable
    kept = sum(width < TEXT_WIDTH for width in accumulate(map(_width, printable)))
    return printable[:kept] + "…"
