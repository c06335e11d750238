"""After the model: quantisation bit for bit as sentence-transformers packs it, truncation, similarity."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_jina import InputError, vectors
from mlx_jina.choices import Precision


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
    for wrong in (ranges[::-1], np.full_like(ranges, np.nan)):
        with pytest.raises(InputError, match="each dimension's lowest value, and then each one's high"):
            vectors.check_ranges(wrong, 2)


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


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_dequantised_is_quantised_to_the_same(sample: vectors.Floats, precision: Precision) -> None:
    stored = vectors.quantize(sample, precision)
    middles = vectors.dequantize(stored, precision)
    np.testing.assert_array_equal(vectors.quantize(middles, precision), stored)
    if precision.endswith("int8"):
        inside = np.abs(sample) < 4 / np.sqrt(24)
        np.testing.assert_array_less(np.abs(middles - sample)[inside], 4 / np.sqrt(24) / 255 + 1e-6)


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_packed_bits_compare_by_hamming_distance(sample: vectors.Floats, precision: Precision) -> None:
    a, b = vectors.quantize(sample[:7], precision), vectors.quantize(sample, precision)
    bits = [
        [f"{int(byte) & 255:08b}" for byte in row] for row in b.astype(np.int16) + 128 * (precision == "binary")
    ]
    strings = ["".join(row) for row in bits]
    distances = [[sum(x != y for x, y in zip(p, q, strict=True)) for q in strings] for p in strings[:7]]
    matrix = vectors.similarity(a, b, precision=precision)
    np.testing.assert_allclose(matrix, 1 - 2 * np.array(distances) / 24, atol=1e-6)
    # Ties are ties, to the bit.
    assert len(np.unique(matrix)) == len(np.unique(distances))


@pytest.mark.parametrize("precision", ["int8", "uint8"])
@pytest.mark.parametrize("calibrated", [False, True])
def test_8_bit_vectors_compare_as_what_they_stand_for(
    sample: vectors.Floats, precision: Precision, calibrated: bool
) -> None:
    ranges = vectors.ranges_of(sample) if calibrated else None
    stored = vectors.quantize(sample, precision, ranges)
    exact = sample @ sample.T
    both = vectors.similarity(stored, stored, precision=precision, ranges=ranges)
    one = vectors.similarity(sample, stored, ranges=ranges)
    np.testing.assert_allclose(both, exact, atol=0.015)
    np.testing.assert_allclose(one, exact, atol=0.01)


@pytest.mark.parametrize("dimension", [24, 20])
def test_a_float_query_rescores_binary_documents(sample: vectors.Floats, dimension: int) -> None:
    rows = vectors.normalize(sample[:, :dimension])
    for precision in ("binary", "ubinary"):
        packed = vectors.quantize(rows, precision)
        signs = np.where(rows > 0, 1, -1)
        expected = rows @ signs.T / np.sqrt(dimension)
        np.testing.assert_allclose(vectors.similarity(rows, packed), expected, atol=1e-6)
        np.testing.assert_allclose(vectors.similarity(packed, rows), expected.T, atol=1e-6)


def test_a_large_index_is_compared_in_blocks(sample: vectors.Floats, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = vectors.quantize(sample, "ubinary")
    whole = vectors.similarity(packed, packed, precision="ubinary")
    monkeypatch.setattr(vectors, "SIMILARITY_ROWS", 7)
    np.testing.assert_array_equal(vectors.similarity(packed, packed, precision="ubinary"), whole)
    assert vectors.similarity(sample, sample[:0]).shape == (50, 0)


def test_what_may_be_two_things_is_asked(sample: vectors.Floats) -> None:
    buckets, bits = vectors.quantize(sample, "int8"), vectors.quantize(sample, "ubinary")
    with pytest.raises(InputError, match="precision='int8' or precision='binary'"):
        vectors.similarity(buckets, buckets)
    with pytest.raises(InputError, match="uint8 vectors of 3 columns may hold buckets or packed bits"):
        vectors.similarity(bits, bits)
    with pytest.raises(InputError, match="precision='ubinary' is stored as uint8, and these vectors are int8"):
        vectors.similarity(buckets, buckets, precision="ubinary")
    with pytest.raises(InputError, match="24 and 32 dimensions"):
        vectors.similarity(sample, np.zeros((1, 4), dtype=np.uint8), precision="ubinary")
    with pytest.raises(InputError, match="8 and 24 dimensions"):
        vectors.similarity(sample[:, :8], bits, precision="ubinary")
    with pytest.raises(InputError, match="precision='bits' is not one of"):
        vectors.similarity(bits, bits, precision="bits")  # type: ignore[arg-type]


def test_calibration_needs_more_than_one_vector(sample: vectors.Floats) -> None:
    with pytest.raises(InputError, match="at least 2 vectors"):
        vectors.ranges_of(sample[:1])
