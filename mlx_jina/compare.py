"""The same texts through two checkpoints: how far their vectors are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import mlx_jina
from mlx_jina.errors import InputError
from mlx_jina.text.tokenizer import listed
from mlx_jina.vectors import Floats

TEXTS = (
    "What is deep learning?",
    "The quick brown fox jumps over the lazy dog.",
    "A man is riding a horse along the beach.",
    "How do I bake bread without yeast?",
    "Paris is the capital of France.",
    "def add(a, b):\n    return a + b",
    "Der Zug nach München fährt um 7:45 Uhr ab.",
    "El rápido zorro marrón salta sobre el perro perezoso.",
    "今天天气很好 我们去公园散步吧。",
    "नमस्ते दुनिया, आप कैसे हैं?",
    "مرحبا بالعالم",
    "안녕하세요 세계",
    "🙂 👩‍👩‍👧 ok",
    "Embeddings turn a text into a vector whose neighbours mean something similar. " * 20,
)


@dataclass(frozen=True)
class Comparison:
    """Cosine similarity of each text's two vectors."""

    texts: tuple[str, ...]
    cosines: Floats

    @property
    def min(self) -> float:
        """The lowest cosine."""
        return float(self.cosines.min())

    @property
    def mean(self) -> float:
        """The average cosine."""
        return float(self.cosines.mean())


def compare(a: str | Path, b: str | Path, texts: Sequence[str] = TEXTS, task: str | None = None) -> Comparison:
    """Encode `texts` with both checkpoints, of which one at a time is in memory."""
    if not (texts := listed(texts)):
        raise InputError("there are no texts to compare by")
    rows = []
    for name in (a, b):
        encoder = mlx_jina.load(name, task=task)
        rows.append(np.asarray(encoder.encode(texts), dtype=np.float32))
        del encoder
    if rows[0].shape != rows[1].shape:
        raise InputError(f"{a} has {rows[0].shape[1]} dimensions and {b} {rows[1].shape[1]}: no comparison")
    return Comparison(tuple(texts), np.einsum("nd,nd->n", *rows))
