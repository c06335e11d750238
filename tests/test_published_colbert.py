"""Published values of the real jina-colbert-v2 and -v1-en: `pytest -m network`, where the hub can be reached."""

from __future__ import annotations

import numpy as np
import pytest

import mlx_jina
from mlx_jina.text import late_interaction

pytestmark = pytest.mark.network

# First five components of unit vectors: qdrant/fastembed, tests/test_late_interaction_embeddings.py (ONNX).
TEXT = "Hello World"
DOCUMENT = [
    [0.0744, 0.059, -0.2404, -0.1776, 0.0198],
    [0.1318, 0.0882, -0.1136, -0.2065, 0.1461],
    [-0.0178, -0.1359, -0.0136, -0.1075, -0.0509],
    [0.0004, -0.1198, -0.0696, -0.0482, -0.065],
    [0.0766, 0.0448, -0.2344, -0.1829, 0.0061],
]
QUERY = [
    [0.0475, 0.025, -0.2225, -0.1087, -0.0297],
    [0.0211, -0.0844, -0.007, -0.1715, 0.0154],
    [-0.0062, -0.0958, -0.0142, -0.1283, -0.0218],
    [0.049, -0.05, -0.1613, 0.0193, 0.028],
    [0.0477, 0.025, -0.2279, -0.1128, -0.0289],
    [0.0597, -0.0676, -0.0955, -0.0756, 0.0234],
]
LAST_OF_QUERY = [0.0205, -0.0859, -0.0385, -0.1231, -0.0331]

# The first id of each punctuation mark in XLM-RoBERTa's vocabulary.
SKIPPED = [
    *(6, 15, 20, 44, 101, 152, 242, 248, 378, 468, 619, 661, 705, 711, 977, 997, 1374, 1388, 1745, 2203, 2819),
    *(3650, 4426, 6780, 9473, 10114, 10666, 13331, 51912),
]


@pytest.fixture(scope="module")
def v2() -> mlx_jina.MultiVectorEncoder:
    return mlx_jina.load_multi_vector("colbert-v2", dtype="float32")


def test_documents(v2: mlx_jina.MultiVectorEncoder) -> None:
    np.testing.assert_allclose(v2.encode_document(TEXT)[:, :5], DOCUMENT, rtol=0, atol=1e-3)


def test_queries(v2: mlx_jina.MultiVectorEncoder) -> None:
    """The published rows might not be of unit length; their directions would show in five components as well."""
    found = v2.encode_query(TEXT)[:, :5]
    assert len(found) == 32
    np.testing.assert_allclose(found[:6], QUERY, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found[-1], LAST_OF_QUERY, rtol=0, atol=1e-3)


def test_what_the_checkpoint_says(v2: mlx_jina.MultiVectorEncoder) -> None:
    assert (v2.query_length, v2.max_length, v2.dimension, v2.truncate_dims) == (32, 8192, 128, (64, 96, 128))
    texts = v2._texts
    assert isinstance(texts, late_interaction.ColBERT)
    assert texts.attends_to_mask
    assert texts._skipped.tolist() == SKIPPED
    (query,), (document,) = texts.uncut("query", ["a"]), texts.uncut("document", ["a"])
    assert (query[1], document[1], texts.mask) == (250002, 250003, 250001)


def test_v1(v2: mlx_jina.MultiVectorEncoder) -> None:
    """No figure of its rows was published; what is known is how it reads texts, and that the order is right."""
    v1 = mlx_jina.load_multi_vector("colbert-v1-en", dtype="float32")
    assert (v1.query_length, v1.max_length, v1.dimension, v1.truncate_dims) == (32, 8192, 128, ())
    texts = v1._texts
    assert isinstance(texts, late_interaction.ColBERT)
    assert not texts.attends_to_mask
    (query,), (document,) = texts.uncut("query", ["a"]), texts.uncut("document", ["a"])
    assert (query[1], document[1], texts.mask) == (1, 2, 103)
    documents = ["Berlin is in Germany.", "Paris is the capital of France.", "Bread is baked."]
    assert v1.rank("what is the capital of France?", documents)[0]["corpus_id"] == 1
    assert v2.rank("what is the capital of France?", documents)[0]["corpus_id"] == 1
