"""How many neighbours do smaller vectors lose? `pocket`, whose weights are trained, on the manual's passages."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import mlx_jina
from bench import models, texts
from bench.harness import Options, Section
from mlx_jina import vectors
from mlx_jina.choices import Precision

PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8", "binary")
PASSAGES, QUICK_PASSAGES, QUERIES, NEIGHBOURS = 2_000, 200, 100, 10


def run(options: Options) -> Section:
    """Neighbours that stay, by precision and dimension."""
    section = Section(
        "Precision of stored vectors",
        f"Of the {NEIGHBOURS} passages nearest to a query of 12 tokens by float32 vectors of full width, how many "
        "stay among as many found with smaller ones; the query's vector is stored as the passages'.",
    )
    model = models.find("pocket")
    encoder = mlx_jina.load(model.folder)
    tokenizer = model.tokenizer()
    count = QUICK_PASSAGES if options.quick else PASSAGES
    batches = (
        texts.of_lengths(tokenizer, [12] * QUERIES, 2),
        texts.of_lengths(tokenizer, texts.mixed_lengths(count)),
    )
    pooled = [encoder.encode(batch, normalize_embeddings=False) for batch in batches]
    truth = _nearest(*map(vectors.normalize, pooled))
    for dimension in sorted(encoder.truncate_dims, reverse=True):
        for precision in PRECISIONS:
            found = [vectors.quantize(vectors.normalize(x[:, :dimension]), precision) for x in pooled]
            if precision == "binary":
                found = [
                    np.unpackbits(x.view(np.uint8) ^ np.uint8(128), axis=1) * np.float32(2) - 1 for x in found
                ]
            kept = [len(set(a) & set(b)) for a, b in zip(truth, _nearest(*found), strict=True)]
            section.rows.append(
                {
                    "model": model.name,
                    "weights": model.weights,
                    "dimensions": dimension,
                    "precision": precision,
                    "bytes a vector": bytes_per_vector(dimension, precision),
                    "of 10 neighbours": float(np.mean(kept)) * 10 / NEIGHBOURS,
                }
            )
    return section


def bytes_per_vector(dimension: int, precision: str) -> int:
    """Bytes of one stored vector."""
    return dimension * {"float32": 32, "float16": 16, "int8": 8, "binary": 1}[precision] // 8


def _nearest(queries: npt.NDArray[np.generic], passages: npt.NDArray[np.generic]) -> list[list[int]]:
    scores = queries.astype(np.float32) @ passages.astype(np.float32).T
    best: list[list[int]] = np.argsort(-scores, axis=1, kind="stable")[:, :NEIGHBOURS].tolist()
    return best
