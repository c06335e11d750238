"""Return, store and compare vectors as sentence-transformers does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlx_jina import vectors
from mlx_jina.vectors import Floats

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]
SimilarityName = Literal["cosine", "dot", "euclidean", "manhattan"]
# One vector or many, of NumPy or torch, or a list of vectors.
Embeddings = Any


@cache
def torch() -> Any:
    """The torch library, or None where it is not installed."""
    return import_module("torch") if find_spec("torch") else None


def as_tensor(array: npt.NDArray[Any]) -> Any:
    """The array as a torch.Tensor, where torch is installed."""
    library = torch()
    return library.from_numpy(np.ascontiguousarray(array)) if library else array


def rows_of(embeddings: Embeddings) -> Floats:
    """One vector or many, of NumPy, torch or lists of either, as (N, D)."""

    def plain(x: Any) -> Any:
        return x.detach().cpu() if hasattr(x, "detach") else x

    given = [plain(x) for x in embeddings] if isinstance(embeddings, list | tuple) else plain(embeddings)
    return vectors.rows_of(given, "embeddings").astype(np.float32)


def quantized(parts: Sequence[Floats], precision: Precision) -> list[vectors.Vectors]:
    """A call's results at a lower precision; 8-bit buckets span each dimension's range over all parts."""
    ranges = vectors.ranges_of(np.concatenate(parts)) if parts and precision.endswith("int8") else None
    return [vectors.quantize(part, precision, ranges) for part in parts]


def _unit(rows: Floats) -> Floats:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), np.float32(1e-12))


def _distances(order: int) -> Callable[[Floats, Floats], Floats]:
    # A row at a time, because the differences of all pairs might not fit into memory.
    return lambda a, b: -np.stack([np.linalg.norm(row - b, ord=order, axis=-1) for row in a])


MATRICES: dict[SimilarityName, Callable[[Floats, Floats], Floats]] = {
    "cosine": lambda a, b: _unit(a) @ _unit(b).T,
    "dot": lambda a, b: a @ b.T,
    "euclidean": _distances(2),
    "manhattan": _distances(1),
}
PAIRS: dict[SimilarityName, Callable[[Floats, Floats], Floats]] = {
    "cosine": lambda a, b: (_unit(a) * _unit(b)).sum(axis=-1),
    "dot": lambda a, b: (a * b).sum(axis=-1),
    "euclidean": lambda a, b: -np.linalg.norm(a - b, ord=2, axis=-1),
    "manhattan": lambda a, b: -np.linalg.norm(a - b, ord=1, axis=-1),
}
