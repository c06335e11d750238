"""mlx-embeddings through its own `load` and `generate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.peers.batches import sorted_batches

if TYPE_CHECKING:
    from bench.models import Model

NAME, PACKAGE = "mlx-embeddings", "mlx_embeddings"
FAMILIES = ("qwen3",)
SETTINGS = "`generate`, 32 texts a batch sorted by length, at most 8,192 tokens; the same BLAS as ours"


def options(model: Model) -> tuple[str, ...]:
    """The precision of ours."""
    return (model.precision(),)


def load(folder: Path, option: str) -> Callable[[Sequence[str], int], Any]:
    """Texts to vectors."""
    from mlx_jina.cpu import blas

    blas.open_fast()
    import mlx.core as mx
    import numpy as np
    from mlx_embeddings import generate
    from mlx_embeddings import load as load_model
    from tokenizers import Tokenizer

    model, tokenizer = load_model(str(folder))
    model.set_dtype(getattr(mx, option))
    counter = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def encode(texts: Sequence[str], longest: int) -> Any:
        vectors: list[Any] = [None] * len(texts)
        for chosen in sorted_batches([len(text.ids) for text in counter.encode_batch_fast(list(texts))]):
            output = generate(model, tokenizer, [texts[i] for i in chosen], max_length=longest)
            rows = np.array(output.text_embeds.astype(mx.float32))
            for index, vector in zip(chosen, rows, strict=True):
                vectors[index] = vector
        return np.stack(vectors)

    return encode
