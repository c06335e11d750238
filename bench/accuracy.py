"""How far are our vectors from a float64 forward pass? Random weights at the published shapes.

    python -m bench.accuracy

Prints a Markdown table: the largest difference of any component of any unit vector in float32, and the
smallest cosine in half precision, over texts of 2 to 300 tokens.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import mlx_jina
from tests import checkpoints, reference

SHAPES = {
    "v2-small-en": ("original", 4, 8),
    "v2-base-en, -de, -zh": ("original", 12, 12),
    "v2-base-es": ("qk-devlin-norm", 12, 12),
    "v2-base-code": ("qk-post-norm", 12, 12),
}
TEXTS = ["", "what is deep learning?", "the quick brown fox jumps over the lazy dog " * 33]


def row(name: str, layout: str, layers: int, heads: int) -> str:
    """One model's line of the table; weights are drawn as the published initialiser draws them."""
    config = checkpoints.jina_bert_config(
        layout, hidden=64 * heads, layers=layers, heads=heads, intermediate=256 * heads, vocab=400
    )
    weights = checkpoints.jina_bert_weights(layout, config, std=0.02)
    exact = {key: value.astype(np.float64) for key, value in weights.items()}
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.write_folder(Path(folder), config, weights, checkpoints.wordpiece_tokenizer(400))
        model = mlx_jina.load(folder, dtype="float32")
        ids = [np.array(text) for text in model.tokenize(TEXTS)]
        truth = reference.unit(
            np.stack([reference.jina_bert(exact, config, layout, text).mean(axis=0) for text in ids])
        )
        difference = np.abs(model.encode(TEXTS) - truth).max()
        cosines = [
            (mlx_jina.load(folder, dtype=dtype).encode(TEXTS) * truth).sum(axis=1).min()
            for dtype in ("float16", "bfloat16")
        ]
    return f"| {name} | {difference:.1e} | {cosines[0]:.7f} | {cosines[1]:.6f} |"


def main() -> None:
    """Print the table."""
    print("| shape of | float32: max abs difference | float16: min cosine | bfloat16: min cosine |")
    print("|---|---|---|---|")
    for name, (layout, layers, heads) in SHAPES.items():
        print(row(name, layout, layers, heads), flush=True)


if __name__ == "__main__":
    main()
