"""Reranking over HTTP in three dialects: the offline scores, in every client's shape."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mlx_jina
from tests.support import reranker_checkpoints
from tests.support.process import Server

QUERY = "how do i bake bread"
DOCUMENTS = ["paris capital of france", "bake bread", "", "a man riding horse", "bake bread"]
JINA = ("/v1/rerank", "/rerank", "/v1/reranking", "/reranking", "/api/rerank")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("served")
    return {
        "pairs": reranker_checkpoints.v2(root / "v2"),
        "qwen": reranker_checkpoints.qwen(root / "rerank-q"),
        "list": reranker_checkpoints.v3(root / "list"),
    }


@pytest.fixture(scope="module")
def running(folders: dict[str, Path]) -> Iterator[Server]:
    """An embedding model as the default, and two rerankers that only their files show to be some."""
    with Server("pocket", *(f"{name}={folder}" for name, folder in folders.items())) as server:
        yield server


@pytest.fixture(scope="module")
def pairs(folders: dict[str, Path]) -> mlx_jina.Reranker:
    return mlx_jina.load_reranker(folders["pairs"])


def post(server: Server, path: str = "/v1/rerank", status: int = 200, **fields: Any) -> Any:
    answer = server.client.post(path, json={"query": QUERY, **fields})
    assert answer.status_code == status, answer.text
    return answer.json()


@pytest.mark.parametrize("path", JINA)
def test_jinas_shape_on_every_route(running: Server, pairs: mlx_jina.Reranker, path: str) -> None:
    body = post(running, path, documents=DOCUMENTS, model="pairs")
    assert body["results"] == [
        {"index": hit["corpus_id"], "relevance_score": hit["score"], "document": {"text": hit["text"]}}
        for hit in pairs.rank(QUERY, DOCUMENTS, return_documents=True)
    ]
    tokens = int(pairs.details(QUERY, DOCUMENTS).tokens.sum())
    assert body["usage"] == {"total_tokens": tokens, "prompt_tokens": tokens}
    assert (body["model"], body["object"]) == ("pairs", "list")


def test_the_shape_of_cohere(running: Server, pairs: mlx_jina.Reranker) -> None:
    body = post(running, "/v2/rerank", documents=DOCUMENTS, model="pairs", top_n=2)
    ranked = pairs.rank(QUERY, DOCUMENTS, top_k=2)
    assert body["results"] == [{"index": hit["corpus_id"], "relevance_score": hit["score"]} for hit in ranked]
    assert body["meta"]["billed_units"] == {"search_units": 1}
    assert body["id"]


def test_the_shape_of_text_embeddings_inference(running: Server, pairs: mlx_jina.Reranker) -> None:
    ranked = pairs.rank(QUERY, DOCUMENTS, activation="none")
    body = post(running, "/rerank", texts=DOCUMENTS, model="pairs", raw_scores=True)
    assert body == [{"index": hit["corpus_id"], "score": hit["score"]} for hit in ranked]
    body = post(running, "/rerank", texts=DOCUMENTS, model="pairs", return_text=True)
    assert [row["text"] for row in body] == [DOCUMENTS[row["index"]] for row in body]


def test_documents_that_are_objects_come_back_whole(running: Server) -> None:
    documents: list[dict[str, Any]] = [{"text": "bake bread", "id": 7}, {"text": "paris", "meta": {"a": [1]}}]
    body = post(running, documents=documents, model="pairs")
    assert all(hit["document"] == documents[hit["index"]] for hit in body["results"])
    body = post(running, documents=documents, model="pairs", return_documents=False, top_k=99, unknown=None)
    assert len(body["results"]) == 2
    assert all("document" not in hit for hit in body["results"])


def test_fields_of_objects(running: Server, pairs: mlx_jina.Reranker) -> None:
    """Cohere's `rank_fields`, Jina's query as an object, and numbers that are larger than 64 bits."""
    documents: list[dict[str, Any]] = [
        {"title": "bake", "body": "paris", "id": 1 << 80, "more": [-(1 << 70), {"a": 0.5}]},
        {"title": "a man riding horse", "id": True},
    ]
    scores = pairs.score(QUERY, ["paris\nbake", "a man riding horse"])
    fields: dict[str, Any] = {"documents": documents, "rank_fields": ["body", "title"], "model": "pairs"}
    body = post(running, query={"text": QUERY}, **fields)
    assert {hit["index"]: hit["relevance_score"] for hit in body["results"]} == dict(enumerate(scores.tolist()))
    assert all(hit["document"] == documents[hit["index"]] for hit in body["results"])
    wrong_fields: list[dict[str, Any]] = [{"rank_fields": names} for names in (["id"], ["url"], None)]
    for wrong in wrong_fields:
        assert "item 0 is neither" in post(running, status=422, **fields | wrong)["detail"]


def test_the_first_reranker_answers_a_request_without_a_model(running: Server, pairs: mlx_jina.Reranker) -> None:
    body = post(running, documents=DOCUMENTS)
    assert body["model"] == "pairs"
    assert body["results"][0]["relevance_score"] == pairs.rank(QUERY, DOCUMENTS)[0]["score"]
    assert post(running, documents=[])["results"] == []
    assert post(running, documents=DOCUMENTS, model="pairs:latest")["results"] == body["results"]


def test_an_instruction(running: Server, folders: dict[str, Path]) -> None:
    scores = mlx_jina.load_reranker(folders["qwen"]).score(QUERY, DOCUMENTS, instruction="Find recipes")
    for fields in ({"instruction": "Find recipes"}, {"instruct": "Find recipes"}):
        body = post(running, "/v1/rerank", 200, documents=DOCUMENTS, model="qwen", **fields)
        found = {hit["index"]: hit["relevance_score"] for hit in body["results"]}
        assert found == dict(enumerate(scores.tolist()))


def test_a_list(running: Server, folders: dict[str, Path]) -> None:
    """Cosines, also as raw scores; documents in the order of the request."""
    model = mlx_jina.load_reranker(folders["list"])
    body = post(running, documents=DOCUMENTS, model="list", raw_scores=True)
    assert [(hit["index"], hit["relevance_score"]) for hit in body["results"]] == [
        (hit["corpus_id"], hit["score"]) for hit in model.rank(QUERY, DOCUMENTS)
    ]
    total = model.details(QUERY, DOCUMENTS).total_tokens
    assert body["usage"]["total_tokens"] == total


@pytest.mark.parametrize("model", ["pairs", "qwen", "list"])
def test_a_limit_for_each_document(running: Server, folders: dict[str, Path], model: str) -> None:
    documents = ["bake bread " * 9, "bread"]
    fields = {"query": QUERY, "documents": documents, "model": model, "max_tokens_per_doc": 4}
    answer = running.client.post("/v2/rerank", json=fields)
    assert answer.headers["X-Rerank-Truncated"] == "1"
    scores = mlx_jina.load_reranker(folders[model])
    details = scores.details(QUERY, documents, max_document_length=4)
    assert details.cut[0] > 0
    found = {hit["index"]: hit["relevance_score"] for hit in answer.json()["results"]}
    assert found == dict(enumerate(details.scores("default").tolist()))
    assert (
        "max_document_length=4"
        in post(running, "/v2/rerank", 400, truncate=False, **fields | {"query": "a"})["message"]
    )


def test_windows_cut_nothing(running: Server) -> None:
    fields = {"query": QUERY, "documents": ["bread " * 300], "model": "pairs"}
    answer = running.client.post("/v1/rerank", json=fields)
    assert answer.status_code == 200
    assert answer.headers["X-Rerank-Truncated"] == "0"


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"query": " ", "documents": ["a"]}, 400, "the query is empty"),
        ({"query": "bread " * 200, "documents": ["a"], "model": "pairs"}, 400, "the query has"),
        ({"documents": ["a"], "instruct": "x", "model": "pairs"}, 400, "takes no instruction"),
        ({"documents": ["a"], "query": {"image": "x"}}, 422, "query"),
        ({"documents": ["a"], "top_n": 0}, 422, "top_n"),
        ({"documents": ["a", 3]}, 422, "item 1 is neither"),
        ({"documents": "a"}, 422, "a list of texts"),
        ({}, 422, "send documents, or texts"),
        ({"documents": ["a"], "texts": ["a"]}, 422, "send documents, or texts"),
        ({"documents": ["a"], "top_n": 1, "top_k": 2}, 422, "contradict"),
        ({"documents": ["a"], "model": "pocket"}, 400, "scores no documents"),
        ({"documents": ["a"], "model": "nowhere"}, 404, "nowhere"),
        ({"documents": ["a"], "model": "pairs:query"}, 400, "no tasks or sides"),
    ],
)
def test_what_cannot_be_ranked(running: Server, fields: dict[str, Any], status: int, words: str) -> None:
    assert words in post(running, status=status, **fields)["detail"]
    assert words in post(running, "/v2/rerank", status, **fields)["message"]


def test_an_error_names_the_field_at_fault(running: Server) -> None:
    long = "bread " * 200
    body = post(running, status=400, query=long, documents=["a"], model="pairs")
    assert body["error"]["param"] == "query"
    body = post(running, status=400, documents=["a", long], model="pairs", truncate=False, max_tokens_per_doc=9)
    assert body["error"]["param"] == "documents"


def test_a_reranker_gives_no_vectors(running: Server) -> None:
    answer = running.embed(["a"], model="pairs")
    assert answer.status_code == 400
    assert "POST /v1/rerank" in answer.json()["detail"]


def test_the_list_of_models_says_what_each_is_for(running: Server) -> None:
    listed = {row["id"]: row["type"] for row in running.client.get("/v1/models").json()["data"]}
    found = [listed[name] for name in ("pocket", "pairs", "qwen", "list")]
    assert found == ["embedding", "rerank", "rerank", "rerank"]
    assert running.client.post("/api/show", json={"model": "pairs"}).json()["capabilities"] == ["rerank"]


def test_others_are_answered_while_a_long_list_is_ranked(running: Server) -> None:
    documents = ["how do i bake bread and light travels fast in vacuum " * 4] * 160
    ranked: list[int] = []

    def rank() -> None:
        ranked.append(len(post(running, documents=documents, model="list")["results"]))

    long = threading.Thread(target=rank)
    long.start()
    while running.client.get("/health").json()["waiting_tokens"] == 0 and long.is_alive():
        pass
    assert running.embed(["bread"], model="pocket").status_code == 200
    assert post(running, documents=DOCUMENTS, model="pairs")["results"]
    assert long.is_alive()
    long.join()
    assert ranked == [160]
    assert running.client.get("/health").json()["waiting_tokens"] == 0


def test_embeddings_and_reranks_at_once(running: Server, pairs: mlx_jina.Reranker) -> None:
    wanted = {hit["corpus_id"]: hit["score"] for hit in pairs.rank(QUERY, DOCUMENTS)}
    vector = running.embed(["bread"], model="pocket").json()["data"][0]["embedding"]
    wrong: list[object] = []

    def ask(reranks: bool) -> None:
        for _ in range(5):
            if reranks:
                rows = post(running, documents=DOCUMENTS, model="pairs")["results"]
                if {row["index"]: row["relevance_score"] for row in rows} != wanted:
                    wrong.append(rows)
            else:
                got = running.embed(["bread"], model="pocket").json()["data"][0]["embedding"]
                if max(abs(a - b) for a, b in zip(got, vector, strict=True)) > 1e-5:
                    wrong.append(got)

    threads = [threading.Thread(target=ask, args=(i % 2 == 0,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
