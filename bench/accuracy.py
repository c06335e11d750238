"""How far are our vectors from a float64 forward pass, and what does each precision cost in time?"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

import mlx_jina
from bench import harness
from bench.harness import Options, Section
from mlx_jina.choices import DTYPES
from tests.support import checkpoints, reference

SHAPES = {
    "v2-small-en": ("original", 4, 8),
    "v2-base-en, -de, -zh": ("original", 12, 12),
    "v2-base-es": ("qk-devlin-norm", 12, 12),
    "v2-base-code": ("qk-post-norm", 12, 12),
}
TEXTS = ["", "what is deep learning?", "the quick brown fox jumps over the lazy dog " * 33]


def run(options: Options) -> Section:
    """Random weights as the published initialiser draws them, at the published shapes."""
    section = Section(
        "Accuracy by precision",
        "Texts of 2 to 300 tokens, random weights at the published shapes, against float64 NumPy. Half precision "
        "is for GPUs: on a CPU MLX multiplies it in a plain loop.",
    )
    for name, (layout, layers, heads) in list(SHAPES.items())[: 1 if options.quick else None]:
        _measure(section, options.rounds, name, layout, layers, heads)
    return section


def _measure(section: Section, rounds: int, name: str, layout: str, layers: int, heads: int) -> None:
    config = checkpoints.jina_bert_config(
        layout, hidden=64 * heads, layers=layers, heads=heads, intermediate=256 * heads, vocab=400
    )
    weights = checkpoints.jina_bert_weights(layout, config, std=0.02)
    exact = {key: value.astype(np.float64) for key, value in weights.items()}
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.write_folder(Path(folder), config, weights, checkpoints.wordpiece_tokenizer(400))
        encoders = {dtype: mlx_jina.load(folder, dtype=dtype) for dtype in DTYPES}
    ids = [np.array(text) for text in encoders["float32"].tokenize(TEXTS)]
    truth = reference.unit(
        np.stack([reference.jina_bert(exact, config, layout, text).mean(axis=0) for text in ids])
    )
    vectors = {dtype: encoder.encode(TEXTS) for dtype, encoder in encoders.items()}
    times: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
    for _ in range(rounds):
        for dtype, encoder in encoders.items():
            start = time.perf_counter()
            encoder.encode(TEXTS)
            times[dtype].append(time.perf_counter() - start)
    for dtype, found in vectors.items():
        section.rows.append(
            {
                "shape of": name,
                "weights": "random",
                "dtype": dtype,
                "largest difference": float(np.abs(found - truth).max()),
                "lowest cosine": f"{(found * truth).sum(axis=1).min():.7f}",
                "time over float32's": harness.ratio(times[dtype], times["float32"]),
            }
        )
