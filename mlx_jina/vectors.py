"""What happens to vectors after the model: truncate, normalise, quantise, compare. NumPy throughout."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from mlx_jina.errors import InputError

Precision = Literal["float32", "float16", "int8", "uint8", "binary", "ubinary"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Floats = npt.NDArray[np.float32]
Vectors = npt.NDArray[Any]

_DTYPES: dict[Precision, Any] = {
    "float32": np.float32,
    "float16": np.float16,
    "int8": np.int8,
    "uint8": np.uint8,
    "binary": np.int8,
    "ubinary": np.uint8,
}


def check_precision(precision: str) -> Precision:
    """Raise for a precision that does not exist."""
    if precision not in PRECISIONS:
        raise InputError(f"precision={precision!r} is not one of {', '.join(PRECISIONS)}")
    return precision


def layout(dimension: int, precision: Precision) -> tuple[int, Any]:
    """Columns and NumPy dtype of vectors of `dimension` at `precision` (bits are packed, eight a byte)."""
    columns = (dimension + 7) // 8 if precision.endswith("binary") else dimension
    return columns, np.dtype(_DTYPES[precision])


def normalize(vectors: Floats) -> Floats:
    """Scale each row of (N, D) to unit length."""
    unit: Floats = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit


def fixed_ranges(dimension: int) -> Floats:
    """Bounds (2, D) for 8-bit quantisation of unit vectors that depend on no data: four sigma, ±4/√D.

    A unit vector's components have a root mean square of 1/√D whatever the model, so vectors quantised
    years apart remain comparable, and a single text can be quantised. What lies outside is clipped.
    """
    bound = 4 / np.sqrt(dimension)
    return np.array([[-bound], [bound]], dtype=np.float32).repeat(dimension, axis=1)


def ranges_of(calibration: npt.ArrayLike) -> Floats:
    """Bounds (2, D) for 8-bit quantisation: each dimension's minimum and maximum over sample vectors (N, D)."""
    sample = np.asarray(calibration, dtype=np.float32)
    if sample.ndim != 2 or len(sample) < 2:
        raise InputError(f"calibration needs at least 2 vectors as an (N, D) array, got shape {sample.shape}")
    return np.stack([sample.min(axis=0), sample.max(axis=0)])


def quantize(vectors: Floats, precision: Precision, ranges: npt.ArrayLike | None = None) -> Vectors:
    """Store (N, D) float32 vectors at a lower precision, bit for bit as sentence-transformers does.

    int8 and uint8 cut `ranges` (2, D) into 256 buckets per dimension; without `ranges`, `fixed_ranges`.
    binary and ubinary keep each sign, most significant bit first; binary is ubinary minus 128.
    """
    if precision in ("float32", "float16"):
        return vectors.astype(_DTYPES[precision])
    if precision.endswith("binary"):
        packed = np.packbits(vectors > 0, axis=-1)
        return packed if precision == "ubinary" else (packed.astype(np.int16) - 128).astype(np.int8)
    dimension = vectors.shape[-1]
    bounds = fixed_ranges(dimension) if ranges is None else np.asarray(ranges, dtype=np.float32)
    if bounds.shape != (2, dimension):
        raise InputError(f"ranges must have shape (2, {dimension}), got {bounds.shape}")
    steps = (bounds[1] - bounds[0]) / 255
    buckets = np.clip(np.floor((vectors - bounds[0]) / np.where(steps == 0, 1, steps)), 0, 255)
    return buckets.astype(np.uint8) if precision == "uint8" else (buckets - 128).astype(np.int8)


def similarity(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    """Cosine similarity of every vector in `a` (N, D) with every one in `b` (M, D): an (N, M) matrix."""
    rows, columns = (np.atleast_2d(np.asarray(x, dtype=np.float32)) for x in (a, b))
    if rows.shape[-1] != columns.shape[-1]:
        raise InputError(
            f"vectors of {rows.shape[-1]} and {columns.shape[-1]} dimensions cannot be compared; "
            "encode both with one model and one truncate_dim"
        )
    return normalize(rows) @ normalize(columns).T
