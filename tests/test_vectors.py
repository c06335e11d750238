"""After the model: quantisation bit for bit as sentence-transformers packs it, truncation, similarity."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_jina import InputError, vectors
from mlx_jina.vectors import Precision


@pytest.fixture
def sample() -> vectors.Floats:
    rows = np.random.default_rng(0).normal(size=(50, 24)).astype(np.float32)
    rows[0, :4] = [0, -0.0, 1e-30, -1e-30]
    return vectors.normalize(rows)


def test_packed_bits_are_the_published_ones() -> None:
    """Most significant bit first; binary is ubinary minus 128 (Jina's API: 50, 193, 128, 255)."""
    bits = np.unpackbits(np.array([50, 193, 128, 255], dtype=np.uint8))
    rows = np.where(bits, 0.5, -0.5).astype(np.float32)[None]
    assert vectors.quantize(rows, "ubinary").tolist() == [[50, 193, 128, 255]]
    assert vectors.quantize(rows, "binary").tolist() == [[-78, 65, 0, 127]]


@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
def test_equals_sentence_transformers(sample: vectors.Floats, precision: Precision) -> None:
    quantization = pytest.importorskip(
        "sentence_transformers.util.quantization", reason="pip install --group reference"
    )
    ranges = vectors.ranges_of(sample[:25])
    theirs = quantization.quantize_embeddings(sample, precision=precision, ranges=ranges)
    ours = vectors.quantize(sample, precision, ranges)
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs)


def test_8_bit_buckets_by_hand() -> None:
    ranges = np.array([[-1.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    rows = np.array([[-1, 0], [-0.5, 0], [0, 1], [1.01, -1], [7, 0]], dtype=np.float32)
    assert vectors.quantize(rows, "uint8", ranges).tolist() == [[0, 0], [63, 0], [127, 1], [255, 0], [255, 0]]
    assert vectors.quantize(rows, "int8", ranges)[:, 0].tolist() == [-128, -65, -1, 127, 127]


def test_8_bit_without_calibration_depends_on_no_neighbour(sample: vectors.Floats) -> None:
    together = vectors.quantize(sample, "int8")
    alone = np.concatenate([vectors.quantize(row[None], "int8") for row in sample])
    np.testing.assert_array_equal(together, alone)
    cosines = np.diag(vectors.similarity(together.astype(np.float32) + 0.5, sample))
    assert cosines.min() > 0.999


@pytest.mark.parametrize(
    ("precision", "columns", "dtype"),
    [("float32", 20, "float32"), ("float16", 20, "float16"), ("int8", 20, "int8"), ("binary", 3, "int8")],
)
def test_layout(precision: Precision, columns: int, dtype: str) -> None:
    assert vectors.layout(20, precision) == (columns, np.dtype(dtype))
    rows = np.ones((2, 20), dtype=np.float32)
    assert vectors.quantize(rows, precision).shape == (2, columns)
    assert vectors.quantize(rows, precision).dtype == dtype


def test_similarity_is_the_cosine(sample: vectors.Floats) -> None:
    matrix = vectors.similarity(sample[:3] * 5, sample[:2])
    assert matrix.shape == (3, 2)
    np.testing.assert_allclose(matrix, sample[:3] @ sample[:2].T, atol=1e-6)
    assert vectors.similarity(sample[0], sample[1]).shape == (1, 1)
    with pytest.raises(InputError, match="24 and 8 dimensions"):
        vectors.similarity(sample, sample[:, :8])


def test_calibration_needs_more_than_one_vector(sample: vectors.Floats) -> None:
    with pytest.raises(InputError, match="at least 2 vectors"):
        vectors.ranges_of(sample[:1])
