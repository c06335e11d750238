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
