"""Published vectors of the real v5-small: `pytest -m network` on a machine that can reach the hub."""

from __future__ import annotations

import numpy as np
import pytest

import mlx_jina

pytestmark = pytest.mark.network

# hanxiao/omni-macos, Fixtures/text_fixtures.json (Apache-2.0): jina-embeddings-v5-text-small, retrieval, float32
# on Metal. Token ids with the query prompt, whose first two become [7524, 25] for documents, and the cosine of
# each text as query and as document.
FIXTURES = [
    ("What is the capital of France?", [2859, 25, 3555, 374, 279, 6722, 315, 9625, 30], 0.8450),
    (
        "Paris is the capital and most populous city of France.",
        [2859, 25, 12095, 374, 279, 6722, 323, 1429, 94451, 3283, 315, 9625, 13],
        0.7937,
    ),
    ("semantic search over local files on macOS", [2859, 25, 41733, 2711, 916, 2205, 3542, 389, 67178], 0.9274),
    (
        "Die Hauptstadt von Deutschland ist Berlin.",
        [2859, 25, 8408, 89931, 44278, 6538, 44979, 5999, 19846, 13],
        0.8385,
    ),
    (
        "今天天气很好\uff0c我们去公园散步吧。",
        [2859, 25, 220, 100644, 104307, 101243, 3837, 97639, 85336, 102077, 111261, 100003, 1773],
        0.9259,
    ),
    (
        "def cosine(a, b):\n    return sum(x*y for x, y in zip(a, b))",
        [
            2859,
            25,
            707,
            75259,
            2877,
            11,
            293,
            982,
            262,
            470,
            2629,
            2075,
            33247,
            369,
            856,
            11,
            379,
            304,
            10308,
            2877,
            11,
            293,
            593,
        ],
        0.9235,
    ),
    (
        "The quarterly revenue report shows a 12% increase over last year.",
        [2859, 25, 576, 50434, 12957, 1895, 4933, 264, 220, 16, 17, 4, 5263, 916, 1537, 1042, 13],
        0.9459,
    ),
    ("a", [2859, 25, 264], 0.6173),
]

# The first 32 components, by prompt and text.
FIRST_32 = {
    ("query", "What is the capital of France?"): [
        -0.015885,
        0.046453,
        -0.048442,
        -0.037557,
        0.09747,
        -0.054493,
        0.051949,
        -0.056585,
        -0.014421,
        0.003866,
        -0.047747,
        -0.051797,
        0.004069,
        -0.036992,
        0.034416,
        0.027442,
        -0.008531,
        0.04394,
        0.007958,
        0.052956,
        0.061986,
        -0.049943,
        -0.015008,
        0.043568,
        0.032087,
        0.00897,
        0.038684,
        -0.012697,
        0.09217,
        0.019356,
        0.133122,
        -0.009508,
    ],
    ("passage", "What is the capital of France?"): [
        -0.015795,
        0.04835,
        -0.005818,
        -0.053434,
        0.077368,
        -0.054272,
        0.034551,
        -0.028229,
        -0.006154,
        0.021807,
        -0.030586,
        -0.071258,
        0.00598,
        -0.007131,
        0.048939,
        0.029435,
        -0.013171,
        0.040555,
        0.019279,
        0.040241,
        0.085265,
        -0.035157,
        -0.028658,
        0.010147,
        0.037344,
        0.012432,
        0.027616,
        -0.002536,
        0.081347,
        0.013255,
        0.107148,
        -0.03009,
    ],
    ("query", "今天天气很好\uff0c我们去公园散步吧。"): [
        0.045398,
        -0.020841,
        -0.069573,
        0.049875,
        0.061098,
        -0.00913,
        -0.012458,
        -0.032551,
        -0.038042,
        -0.010526,
        -0.008291,
        -0.052515,
        0.075643,
        -0.059986,
        -0.078041,
        -0.021833,
        -0.055851,
        0.023576,
        0.044874,
        -0.01662,
        0.099846,
        0.026421,
        0.040223,
        -0.005092,
        0.009708,
        -0.009658,
        0.084505,
        0.001771,
        0.09213,
        0.051658,
        -0.020478,
        -0.001189,
    ],
}


@pytest.fixture(scope="module")
def model() -> mlx_jina.Encoder:
    return mlx_jina.load("v5-small", task="retrieval", dtype="float32")


@pytest.mark.parametrize(("text", "ids", "_cosine"), FIXTURES)
def test_token_ids(model: mlx_jina.Encoder, text: str, ids: list[int], _cosine: float) -> None:
    assert model.tokenize(["Query: " + text, "Document: " + text]) == [ids, [7524, *ids[1:]]]


@pytest.mark.parametrize(("prompt_name", "text"), FIRST_32)
def test_vectors(model: mlx_jina.Encoder, prompt_name: str, text: str) -> None:
    published = np.array(FIRST_32[prompt_name, text])
    found = model.encode(text, prompt_name=prompt_name)[:32]
    assert found @ published / np.linalg.norm(found) / np.linalg.norm(published) >= 0.9999
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(published), rel=1e-2)


@pytest.mark.parametrize(("text", "_ids", "cosine"), FIXTURES)
def test_cosines(model: mlx_jina.Encoder, text: str, _ids: list[int], cosine: float) -> None:
    assert float(model.encode_query(text) @ model.encode_document(text)) == pytest.approx(cosine, abs=2e-3)
