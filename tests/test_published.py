"""Published vectors of the real checkpoints: `pytest -m network` on a machine that can reach the hub."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import mlx_jina
from mlx_jina.nn import ragged

pytestmark = pytest.mark.network

# First five components of the unit vector of "hello world": qdrant/fastembed,
# tests/test_text_onnx_embeddings.py @c48247f (float32 ONNX).
HELLO_WORLD = {
    "v2-small-en": [-0.0455, -0.0428, -0.0122, 0.0613, 0.0015],
    "v2-base-en": [-0.0332, -0.0509, 0.0287, -0.0043, -0.0077],
    "v2-base-de": [-0.0085, 0.0417, 0.0342, 0.0309, -0.0149],
    "v2-base-code": [0.0145, -0.0164, 0.0136, -0.017, 0.0734],
    "v2-base-zh": [0.0381, 0.0286, -0.0231, 0.0052, -0.0151],
    "v2-base-es": [-0.0108, -0.0092, -0.0373, 0.0171, -0.0301],
}

# Model cards of Xenova's ONNX copies, and TEI's snapshot test_jina__jina_batch.snap.
COSINES = [
    ("v2-small-en", "How is the weather today?", "What is the current weather like today?", 0.9399812684),
    ("v2-base-en", "How is the weather today?", "What is the current weather like today?", 0.9341313950),
    ("v2-base-zh", "How is the weather today?", "今天天气怎么样?", 0.7860610759),
    ("v2-small-en", "What is Deep Learning?", "Deep Learning is...", 0.9579492648),
    ("v2-base-code", "What is Deep Learning?", "Deep Learning is...", 0.8762385433),
]


@pytest.mark.parametrize("name", HELLO_WORLD)
def test_hello_world(name: str) -> None:
    got = mlx_jina.load(name, dtype="float32").encode("hello world")
    np.testing.assert_allclose(got[:5], HELLO_WORLD[name], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("name", "a", "b", "cosine"), COSINES)
def test_cosines(name: str, a: str, b: str, cosine: float) -> None:
    first, second = mlx_jina.load(name, dtype="float32").encode([a, b])
    assert float(first @ second) == pytest.approx(cosine, abs=2e-5)


def test_raw_vectors_of_small_en() -> None:
    """text-embeddings-inference @0d124dc, test_jina__jina_batch.snap."""
    raw = mlx_jina.load("v2-small-en", dtype="float32").encode(
        "What is Deep Learning?", normalize_embeddings=False
    )
    np.testing.assert_allclose(raw[:4], [-0.73668385, -0.34012684, -0.0715523, 0.10852202], rtol=0, atol=1e-4)


def test_raw_vectors_of_base_code() -> None:
    """text-embeddings-inference @0d124dc, test_jina_code__jina_code_batch.snap."""
    raw = mlx_jina.load("v2-base-code", dtype="float32").encode(
        "What is Deep Learning?", normalize_embeddings=False
    )
    np.testing.assert_allclose(raw[:4], [-0.15109055, -0.021903634, -0.083914824, -0.12880398], rtol=0, atol=1e-4)


def test_hidden_states_of_small_en_by_ids() -> None:
    """elixir-nx/bumblebee, test/bumblebee/text/jina_bert_test.exs."""
    model = mlx_jina.load("v2-small-en", dtype="float32")
    batch = ragged.flatten([np.arange(10, 90, 10, dtype=np.int32)], np.zeros(1, dtype=np.intp))
    run = model.loaded.model_for(None)
    states = model._thread.run(lambda: np.array(run.hidden(mx.array(batch.ids), batch.ragged)))
    expected = [[-0.1346, 0.1457, 0.5572], [-0.1383, 0.1412, 0.5643], [-0.1125, 0.1354, 0.5599]]
    np.testing.assert_allclose(states[1:4, 1:4], expected, rtol=0, atol=1e-4)


def test_token_ids() -> None:
    small = mlx_jina.load("v2-small-en")
    assert small.tokenize("BoWang met MichaelGuenther.") == [[101, 30522, 2777, 30527, 1012, 102]]
    assert mlx_jina.load("v2-base-zh").tokenize("你好") == [[0, 49226, 2]]
