"""Spearman correlation on an STS file: csv rows of sentence, sentence, score."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def ranks(values: Array) -> Array:
    """Ranks with ties averaged."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean: Array = ends - (counts - 1) / 2
    return mean[inverse]


def spearman(a: Array, b: Array) -> float:
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def unit(x: Array) -> Array:
    out: Array = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return out


def sts(path: Path, encode: Callable[[list[str]], Array], dims: list[int]) -> dict[int, float]:
    """Spearman of cosine against the gold score at every width in `dims`."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    gold = np.array([float(r[2]) for r in rows])
    a, b = encode([r[0] for r in rows]), encode([r[1] for r in rows])
    return {d: spearman((unit(a[:, :d]) * unit(b[:, :d])).sum(1), gold) for d in dims}


def retrieval(folder: Path, encode: Callable[[list[str]], Array], dims: list[int]) -> dict[int, float]:
    """nDCG@10 of exact search by cosine at every width, on a collection in BEIR's layout.

    A document is "title. text".
    """
    from bench import search

    collection = search.read(folder)
    documents = [". ".join(filter(None, (d.get("title"), d["text"]))) for d in collection.documents]
    names = [d["_id"] for d in collection.documents]
    asked = [query for query, gains in collection.relevant.items() if max(gains.values()) > 0]
    passages, queries = encode(documents), encode([collection.queries[query] for query in asked])
    scores = {}
    for dim in dims:
        found = np.argsort(-(unit(queries[:, :dim]) @ unit(passages[:, :dim]).T), kind="stable")[:, : search.DEPTH]
        ranked = {query: [names[i] for i in row] for query, row in zip(asked, found, strict=True)}
        scores[dim] = search.mean_ndcg(ranked, collection.relevant)
    return scores
