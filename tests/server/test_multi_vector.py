"""POST /v1/multi-vector, as Jina's API has it, and the models behind it beside those with embeddings."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import mlx_jina
from mlx_jina import vectors
from tests.support import colbert_checkpoints
from tests.support.process import Server
from tests.support.tolerance import bound

TEXTS = [
    "paris is the capital of france.",
    "",
    "how do i bake bread?! " * 3,
    "light travels fast in vacuum " * 200,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return colbert_checkpoints.v1(tmp_path_factory.mktemp("served") / "late")


@pytest.fixture(scope="module")
def late(folder: Path) -> mlx_jina.MultiVectorEncoder:
    return mlx_jina.load_multi_vector(folder)


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    wide = colbert_checkpoints.v2(tmp_path_factory.mktemp("served") / "wide")
    with Server("pocket", f"colbert={folder}", f"wide={wide}", "--preload") as running:
        yield running


def ask(server: Server, texts: Any, status: int = 200, **fields: Any) -> Any:
    answer = server.client.post("/v1/multi-vector", json={"input": texts, "model": "colbert", **fields})
    assert answer.status_code == status, answer.text
    return answer


def rows(answer: Any) -> list[npt.NDArray[Any]]:
    data = answer.json()["data"]
    assert [row["index"] for row in data] == [*range(len(data))]
    assert {row["object"] for row in data} <= {"embeddings"}
    return [np.array(row["embeddings"]) for row in data]


def test_they_are_the_offline_vectors(server: Server, late: mlx_jina.MultiVectorEncoder) -> None:
    for side, encode in (("query", late.encode_query), ("document", late.encode_document)):
        with pytest.warns(mlx_jina.TruncationWarning):
            wanted = encode(TEXTS)
        answer = ask(server, TEXTS, input_type=side)
        for found, own in zip(rows(answer), wanted, strict=True):
            np.testing.assert_allclose(found, own, rtol=0, atol=bound(1e-5))
        longest = 32 if side == "query" else 512
        tokens = 4 * 32 if side == "query" else sum(min(n, longest) for n in late.count_tokens(TEXTS))
        assert answer.json()["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
        assert answer.json()["model"] == "colbert"
        assert answer.json()["object"] == "list"
        assert answer.headers["X-Embedding-Truncated"] == "1"
        assert answer.headers["X-Embedding-Fingerprint"] == late.fingerprint()


def test_a_document_is_what_is_meant(server: Server, late: mlx_jina.MultiVectorEncoder) -> None:
    (found,) = rows(ask(server, TEXTS[0]))
    np.testing.assert_allclose(found, late.encode_document(TEXTS[0]), rtol=0, atol=bound(1e-5))
    (also,) = rows(ask(server, [{"text": TEXTS[0], "id": "7"}], input_type="search_document"))
    np.testing.assert_array_equal(found, also)


def test_encodings(server: Server) -> None:
    exact = rows(ask(server, TEXTS[0]))[0].astype(np.float32)
    packed = ask(server, TEXTS[0], embedding_type="base64").json()["data"][0]["embeddings"]
    np.testing.assert_array_equal([np.frombuffer(base64.b64decode(row), "<f4") for row in packed], exact)
    for kind in ("int8", "uint8", "binary", "ubinary"):
        (found,) = rows(ask(server, TEXTS[0], embedding_type=[kind]))
        wanted = vectors.quantize(exact, kind)
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= 1 or "binary" in kind


def test_dimensions(server: Server) -> None:
    (whole,), (cut,) = (rows(ask(server, TEXTS[0], model="wide", dimensions=size)) for size in (128, 64))
    np.testing.assert_allclose(cut, vectors.normalize(whole[:, :64]), atol=1e-6)
    refused = ask(server, TEXTS[0], 400, model="wide", dimensions=65)
    assert "(64, 96, 128)" in refused.json()["detail"]


def test_refusals(server: Server) -> None:
    assert "INPUT_TOKEN_LIMIT_EXCEEDED" in ask(server, TEXTS, 400, truncate=False).text
    assert "text 3 has" in ask(server, TEXTS, 400, truncate=False).json()["detail"]
    assert "query or document" in ask(server, TEXTS, 400, input_type="passages").json()["detail"]
    assert "contradict" in ask(server, TEXTS, 400, input_type="query", task="retrieval.passage").json()["detail"]
    assert "normalized" in ask(server, TEXTS, 422, normalized=False).json()["detail"]
    assert "late_chunking" in ask(server, TEXTS, 422, late_chunking=True).json()["detail"]
    assert "at least one text" in ask(server, [], 400).json()["detail"]
    assert "/v1/embeddings" in ask(server, TEXTS, 400, model="pocket").json()["detail"]
    refused = server.embed(TEXTS, model="colbert")
    assert refused.status_code == 400
    assert "/v1/multi-vector" in refused.json()["detail"]
    refused = server.client.post("/v1/rerank", json={"model": "colbert", "query": "bread", "documents": TEXTS})
    assert refused.status_code == 400
    assert "scores no documents: POST /v1/multi-vector" in refused.json()["detail"]
    assert ask(server, TEXTS, 404, model="colbert-v9").json()["error"]["code"] == "model_not_found"


def test_the_side_by_other_names(server: Server) -> None:
    (query,) = rows(ask(server, "bread", input_type="query"))
    names: list[dict[str, Any]] = [
        {"input_type": "search_query"},
        {"task": "retrieval.query"},
        {"model": "colbert:query"},
    ]
    for fields in names:
        np.testing.assert_array_equal(rows(ask(server, "bread", **fields))[0], query)


def test_models_say_their_kind(server: Server) -> None:
    ask(server, "a", input_type="query")
    found = {model["id"]: model for model in server.client.get("/v1/models").json()["data"]}
    assert (found["pocket"]["type"], found["colbert"]["type"]) == ("embedding", "multi-vector")
    assert found["colbert"]["dimension"] == 128
    # Clients of these interfaces know embeddings only.
    assert "colbert" not in server.client.get("/api/v0/models").text
    assert "colbert" not in server.client.get("/api/tags").text
    assert server.client.get("/api/ps").status_code == 200


def test_many_at_once(server: Server, late: mlx_jina.MultiVectorEncoder) -> None:
    texts = [f"bread {i} " * (i + 1) for i in range(20)]
    wanted = late.encode_document(texts)
    with ThreadPoolExecutor(8) as threads:
        answers = [*threads.map(lambda i: ask(server, texts if i % 5 == 0 else texts[i]), range(20))]
    for i, answer in enumerate(answers):
        for found, own in zip(rows(answer), wanted if i % 5 == 0 else [wanted[i]], strict=True):
            np.testing.assert_allclose(found, own, rtol=0, atol=bound(1e-5))
