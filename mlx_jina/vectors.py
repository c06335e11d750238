"""What happens to vectors after the model: truncate, normalise, quantise, compare. NumPy throughout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_jina.choices import PRECISIONS, Precision
from mlx_jina.errors import InputError, shown

# How many quantised vectors are expanded to float32 at a time, so that a large index fits into memory.
SIMILARITY_ROWS = 16_384
# How many token vectors of queries are compared at a time.
MAX_SIM_ROWS = 1024
Floats = npt.NDArray[np.float32]
Vectors = npt.NDArray[Any]
# Types by the number of axes: one vector (D,), or one vector for each row (N, D).
FloatVector = np.ndarray[tuple[int], np.dtype[np.float32]]
FloatRows = np.ndarray[tuple[int, int], np.dtype[np.float32]]
AnyVector = np.ndarray[tuple[int], np.dtype[Any]]
AnyRows = np.ndarray[tuple[int, int], np.dtype[Any]]

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
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise InputError(f"precision={shown(precision)} is not one of {', '.join(PRECISIONS)}")
    return precision


def check_dimension(wanted: int | None, full: int, trained: Sequence[int], allow_untrained: bool) -> int:
    """How many of `full` dimensions to keep; None keeps all. `trained` is empty for a model without Matryoshka."""
    if wanted is None:
        return full
    if not 1 <= wanted <= full:
        raise InputError(f"truncate_dim={wanted} must lie between 1 and {full}")
    if wanted not in (*trained, full) and not allow_untrained:
        sizes = ", ".join(map(str, trained)) or "none: it has no Matryoshka training"
        raise InputError(
            f"truncate_dim={wanted} is not a size that this model was trained for ({sizes}); "
            "allow_untrained_dim=True cuts anyway"
        )
    return wanted


def check_ranges(ranges: npt.ArrayLike, dimension: int) -> Floats:
    """Bounds (2, D) of 8-bit quantisation as an array. Raises InputError for what is none."""
    bounds = _numbers(ranges, "ranges")
    if bounds.shape != (2, dimension):
        raise InputError(f"ranges must have shape (2, {dimension}), got {bounds.shape}")
    if not np.isfinite(bounds).all() or (bounds[0] > bounds[1]).any():
        raise InputError("ranges must be each dimension's lowest value, and then each one's highest, all finite")
    return bounds.astype(np.float32)


def _numbers(values: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    """Anything that NumPy takes for an array of real numbers, as one. Raises InputError."""
    try:
        array = np.asarray(values)
        # Lists of numbers of other libraries arrive as objects.
        array = array.astype(np.float32) if array.dtype == object else array
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be an array of numbers ({error})") from None
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} must be an array of numbers, not of {array.dtype}")
    return array


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
    years apart remain comparable, and a single text can be quantised. Values outside the bounds are clipped.
    """
    bound = 4 / np.sqrt(dimension)
    return np.array([[-bound], [bound]], dtype=np.float32).repeat(dimension, axis=1)


def ranges_of(calibration: npt.ArrayLike) -> Floats:
    """Bounds (2, D) for 8-bit quantisation: each dimension's minimum and maximum over sample vectors (N, D)."""
    sample = _numbers(calibration, "calibration").astype(np.float32)
    if sample.ndim != 2 or len(sample) < 2:
        raise InputError(f"calibration needs at least 2 vectors as an (N, D) array, got shape {sample.shape}")
    return np.stack([sample.min(axis=0), sample.max(axis=0)])


def quantize(vectors: Floats, precision: Precision, ranges: npt.ArrayLike | None = None) -> Vectors:
    """Store (N, D) float32 vectors at a lower precision, bit for bit as sentence-transformers does.

    int8 and uint8 cut `ranges` (2, D) into 256 buckets per dimension; without `ranges`, `fixed_ranges`.
    binary and ubinary keep each sign, most significant bit first; binary is ubinary minus 128.
    """
    check_precision(precision)
    if precision in ("float32", "float16"):
        return vectors.astype(_DTYPES[precision])
    if precision.endswith("binary"):
        packed = np.packbits(vectors > 0, axis=-1)
        return packed if precision == "ubinary" else (packed.astype(np.int16) - 128).astype(np.int8)
    dimension = vectors.shape[-1]
    bounds = fixed_ranges(dimension) if ranges is None else check_ranges(ranges, dimension)
    steps = (bounds[1] - bounds[0]) / 255
    buckets = np.clip(np.floor((vectors - bounds[0]) / np.where(steps == 0, 1, steps)), 0, 255)
    return buckets.astype(np.uint8) if precision == "uint8" else (buckets - 128).astype(np.int8)


def dequantize(vectors: npt.ArrayLike, precision: Precision, ranges: npt.ArrayLike | None = None) -> Floats:
    """Float32 vectors (N, D) from quantised ones: the middle of each bucket, or each sign as 1 or -1.

    Packed bits fill whole bytes, so their D is a multiple of eight.
    """
    expected = np.dtype(_DTYPES[check_precision(precision)])
    stored = _numbers(vectors, "vectors")
    if precision in ("float32", "float16"):
        return stored.astype(np.float32)
    if stored.dtype != expected:
        raise InputError(f"precision={precision!r} is stored as {expected}, and these vectors are {stored.dtype}")
    # int8 and binary are uint8 and ubinary minus 128.
    unsigned = stored if expected == np.uint8 else (stored.astype(np.int16) + 128).astype(np.uint8)
    if precision.endswith("binary"):
        return np.unpackbits(unsigned, axis=-1).astype(np.float32) * 2 - 1
    bounds = fixed_ranges(stored.shape[-1]) if ranges is None else check_ranges(ranges, stored.shape[-1])
    middles: Floats = bounds[0] + (unsigned + np.float32(0.5)) * (bounds[1] - bounds[0]) / 255
    return middles


def similarity(
    a: npt.ArrayLike, b: npt.ArrayLike, precision: Precision | None = None, ranges: npt.ArrayLike | None = None
) -> Floats:
    """Cosine similarity of every vector in `a` (N, D) with every one in `b` (M, D): an (N, M) matrix.

    Quantised vectors are compared as the vectors they stand for. Two sides of packed bits give 1 - 2h/D, where h
    is the Hamming distance; a float query against packed documents rescores the hits of a search by Hamming
    distance. `precision` says whether int8 and uint8 arrays hold buckets ("int8", "uint8") or packed bits
    ("binary", "ubinary"); beside a float array, the width of the other array says so. `ranges` are the bounds that
    `quantize` cut into buckets.
    """
    if precision is not None:
        check_precision(precision)
    sides = [rows_of(a, "a"), rows_of(b, "b")]
    kinds = [_stored_as(own, other, precision) for own, other in (sides, sides[::-1])]
    dimension = _common_dimension(sides, kinds)
    rows = dequantize(sides[0], kinds[0], ranges)[:, :dimension]
    out = np.empty((len(rows), len(sides[1])), dtype=np.float32)
    # A large index might not fit into memory, so a part of it is unpacked at a time.
    for start in range(0, out.shape[1], SIMILARITY_ROWS):
        block = slice(start, start + SIMILARITY_ROWS)
        columns = dequantize(sides[1][block], kinds[1], ranges)[:, :dimension]
        # The division comes last, so that equal Hamming distances give exactly equal cosines.
        lengths = np.linalg.norm(rows, axis=-1)[:, None] * np.linalg.norm(columns, axis=-1)
        out[:, block] = rows @ columns.T / lengths
    return out


def max_sim(
    queries: npt.ArrayLike | Sequence[npt.ArrayLike],
    documents: npt.ArrayLike | Sequence[npt.ArrayLike],
    precision: Precision | None = None,
    ranges: npt.ArrayLike | None = None,
) -> Floats:
    """MaxSim, the late interaction of N queries with M documents: an (N, M) matrix.

    A text is an array of token vectors (n, D). Each row of a query has its largest dot product with a document's
    rows, and their sum is the score (Khattab and Zaharia 2020, arXiv 2004.12832). One array (n, D) is one text.

    Quantised vectors are compared as the vectors they stand for, packed bits as unit vectors of signs; float
    queries against quantised documents lose least. `precision` and `ranges` are those of `similarity`. Raises
    InputError for texts without rows, or of different dimensions.
    """
    if precision is not None:
        check_precision(precision)
    sides = [_multi_vectors(queries, "queries"), _multi_vectors(documents, "documents")]
    if not sides[0] or not sides[1]:
        return np.empty((len(sides[0]), len(sides[1])), dtype=np.float32)
    stored = [np.concatenate(texts) for texts in sides]
    kinds = [_stored_as(own, other, precision) for own, other in (stored, stored[::-1])]
    dimension = _common_dimension(stored, kinds)

    def unit(rows: Vectors, kind: Precision) -> Floats:
        found = dequantize(rows, kind, ranges)[:, :dimension]
        # A sign stands for 1 or -1, and a unit vector of signs is shorter.
        return found / np.float32(np.sqrt(dimension)) if kind.endswith("binary") else found

    lengths = [np.array([len(text) for text in texts]) for texts in sides]
    out = np.empty((len(lengths[0]), len(lengths[1])), dtype=np.float32)
    # The products of all rows might not fit into memory, so a part of either side is compared at a time.
    for of_queries, query_rows in _spans(lengths[0], MAX_SIM_ROWS):
        rows, query_starts = unit(stored[0][query_rows], kinds[0]), _starts(lengths[0][of_queries])
        for of_documents, document_rows in _spans(lengths[1], SIMILARITY_ROWS):
            products = rows @ unit(stored[1][document_rows], kinds[1]).T
            best = np.maximum.reduceat(products, _starts(lengths[1][of_documents]), axis=1)
            out[of_queries, of_documents] = np.add.reduceat(best, query_starts, axis=0)
    return out


def _multi_vectors(texts: npt.ArrayLike | Sequence[npt.ArrayLike], side: str) -> list[Vectors]:
    """Arrays (n, D) of one width and type, checked."""
    arrays = [texts] if isinstance(texts, np.ndarray) and texts.ndim == 2 else texts
    if not isinstance(arrays, Iterable):
        raise InputError(f"{side} must be an array (n, D) or a list of such arrays, not {type(texts).__name__}")
    found = [_numbers(text, side) for text in arrays]
    for position, text in enumerate(found):
        if text.ndim != 2 or not text.size:
            raise InputError(
                f"of the {side} has the shape {text.shape}; a text has token vectors (n, D), at least one",
                position=position,
            )
        if text.shape[1] != found[0].shape[1] or text.dtype != found[0].dtype:
            raise InputError(
                f"of the {side} has vectors of {text.shape[1]} columns of {text.dtype}, and text 0 of "
                f"{found[0].shape[1]} of {found[0].dtype}",
                position=position,
            )
    return found


def _starts(lengths: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """The first row of each text in one array of all."""
    return np.concatenate([[0], np.cumsum(lengths)[:-1]])


def _spans(lengths: npt.NDArray[np.intp], rows: int) -> Iterator[tuple[slice, slice]]:
    """Neighbouring texts of together at most so many rows, or one longer text, and their rows."""
    starts = _starts(lengths)
    first = 0
    for index in range(1, len(lengths) + 1):
        if index == len(lengths) or starts[index] + lengths[index] - starts[first] > rows:
            yield slice(first, index), slice(starts[first], starts[index - 1] + lengths[index - 1])
            first = index


def rows_of(vectors: npt.ArrayLike, name: str) -> Vectors:
    """Vectors (N, D); one vector (D,) is a row. Raises InputError, which calls them `name`, for anything else."""
    rows = _numbers(vectors, name)
    if rows.ndim not in (1, 2):
        raise InputError(f"{name} must be a vector (D,) or vectors (N, D), not of shape {rows.shape}")
    return np.atleast_2d(rows)


def _common_dimension(sides: Sequence[Vectors], kinds: Sequence[Precision]) -> int:
    """The dimension that both sides have; the last byte of packed bits may hold more bits than dimensions."""
    packed = [kind.endswith("binary") for kind in kinds]
    widths = [8 * x.shape[1] if bits else x.shape[1] for x, bits in zip(sides, packed, strict=True)]
    if widths[0] != widths[1]:
        narrow, wide = sorted(widths)
        if packed[0] == packed[1] or not packed[widths.index(wide)] or wide - narrow >= 8:
            raise InputError(
                f"vectors of {widths[0]} and {widths[1]} dimensions cannot be compared; "
                "encode both with one model and one truncate_dim"
            )
    return min(widths)


def _stored_as(own: Vectors, other: Vectors, precision: Precision | None) -> Precision:
    """The precision of one side of a comparison."""
    if own.dtype not in (np.int8, np.uint8):
        return "float32"
    if precision is not None:
        return precision
    buckets: Precision = "int8" if own.dtype == np.int8 else "uint8"
    bits: Precision = "binary" if own.dtype == np.int8 else "ubinary"
    if other.dtype not in (np.int8, np.uint8):
        if own.shape[1] == other.shape[1]:
            return buckets
        if own.shape[1] == layout(other.shape[1], bits)[0]:
            return bits
    raise InputError(
        f"{own.dtype} vectors of {own.shape[1]} columns may hold buckets or packed bits: say "
        f"precision={buckets!r} or precision={bits!r}"
    )
