"""Published vectors of the real v5 models: `pytest -m network` on a machine that can reach the hub."""

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


# hanxiao/omni-macos, Fixtures/golden_v5_nano.json (Apache-2.0): jina-embeddings-v5-text-nano, as above; the first
# two ids become [7676, 25] for documents.
NANO_FIXTURES = [
    ("What is the capital of France?", [2929, 25, 3639, 374, 279, 6864, 315, 9822, 30, 128001], 0.8801),
    (
        "Die Hauptstadt von Deutschland ist Berlin.",
        [2929, 25, 8574, 91031, 45378, 6675, 46079, 6127, 20437, 13, 128001],
        0.8641,
    ),
    (
        "def cosine(a, b):\n    return sum(x*y for x, y in zip(a, b))",
        [
            2929,
            25,
            711,
            76359,
            2948,
            11,
            293,
            997,
            262,
            471,
            2694,
            2120,
            34347,
            369,
            865,
            11,
            379,
            304,
            10521,
            2948,
            11,
            293,
            595,
            128001,
        ],
        0.9338,
    ),
    ("a", [2929, 25, 264, 128001], 0.7453),
]

# The first 16 components, by prompt and text.
NANO_FIRST_16 = {
    ("query", "What is the capital of France?"): [
        -0.06515,
        0.028427,
        0.03505,
        -0.002399,
        -0.027109,
        0.031031,
        0.008354,
        0.028327,
        -0.083952,
        0.016872,
        0.014494,
        0.003361,
        -0.098788,
        -0.000924,
        0.014385,
        0.013554,
    ],
    ("passage", "What is the capital of France?"): [
        -0.039698,
        0.027909,
        0.025775,
        0.011448,
        -0.018045,
        0.012108,
        0.010377,
        0.036954,
        -0.077632,
        -0.001703,
        0.015064,
        -0.027758,
        -0.094691,
        0.004801,
        0.02677,
        0.021691,
    ],
    ("query", "def cosine(a, b):\n    return sum(x*y for x, y in zip(a, b))"): [
        -0.067027,
        0.018623,
        0.048871,
        0.009509,
        0.030391,
        0.03275,
        0.018102,
        -0.015197,
        -0.074331,
        -0.001567,
        0.035476,
        0.004555,
        -0.085246,
        -0.079467,
        -0.003308,
        0.017093,
    ],
}


@pytest.fixture(scope="module")
def nano() -> mlx_jina.Encoder:
    return mlx_jina.load("v5-nano", task="retrieval", dtype="float32")


@pytest.mark.parametrize(("text", "ids", "_cosine"), NANO_FIXTURES)
def test_nano_token_ids(nano: mlx_jina.Encoder, text: str, ids: list[int], _cosine: float) -> None:
    assert nano.tokenize(["Query: " + text, "Document: " + text]) == [ids, [7676, *ids[1:]]]


@pytest.mark.parametrize(("prompt_name", "text"), NANO_FIRST_16)
def test_nano_vectors(nano: mlx_jina.Encoder, prompt_name: str, text: str) -> None:
    published = np.array(NANO_FIRST_16[prompt_name, text])
    found = nano.encode(text, prompt_name=prompt_name)[:16]
    assert found @ published / np.linalg.norm(found) / np.linalg.norm(published) >= 0.9999
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(published), rel=1e-2)


@pytest.mark.parametrize(("text", "_ids", "cosine"), NANO_FIXTURES)
def test_nano_cosines(nano: mlx_jina.Encoder, text: str, _ids: list[int], cosine: float) -> None:
    assert float(nano.encode_query(text) @ nano.encode_document(text)) == pytest.approx(cosine, abs=2e-3)
