"""Real clients of Cohere's and Jina's reranking, and the bare body of Open WebUI, against a server."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mlx_jina
from tests.support import reranker_checkpoints
from tests.support.process import Server

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
QUERY = "how do i bake bread"
DOCUMENTS = ["paris capital of france", "bake bread", "a man riding horse"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reranker_checkpoints.v2(tmp_path_factory.mktemp("served") / "v2")


@pytest.fixture(scope="module")
def ranked(folder: Path) -> list[tuple[int, float]]:
    return [(hit["corpus_id"], hit["score"]) for hit in mlx_jina.load_reranker(folder).rank(QUERY, DOCUMENTS)]


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with Server("pocket", f"pairs={folder}") as process:
        yield process.url


def test_cohere(url: str, ranked: list[tuple[int, float]]) -> None:
    cohere = pytest.importorskip("cohere")
    client = cohere.ClientV2("any", base_url=url)
    answer = client.rerank(model="pairs", query=QUERY, documents=DOCUMENTS)
    assert [(row.index, row.relevance_score) for row in answer.results] == ranked
    assert answer.meta.billed_units.search_units == 1
    assert answer.id
    answer = client.rerank(model="pairs", query=QUERY, documents=DOCUMENTS, top_n=1, max_tokens_per_doc=2)
    assert len(answer.results) == 1
    with pytest.raises(cohere.NotFoundError, match="nowhere"):
        client.rerank(model="nowhere", query=QUERY, documents=DOCUMENTS)


def test_coheres_older_client(url: str, ranked: list[tuple[int, float]]) -> None:
    cohere = pytest.importorskip("cohere")
    client = cohere.Client("any", base_url=url)
    answer = client.rerank(model="pairs", query=QUERY, documents=[{"text": text} for text in DOCUMENTS], top_n=2)
    assert [(row.index, row.relevance_score) for row in answer.results] == ranked[:2]


def documents_of_langchain() -> list[Any]:
    documents = pytest.importorskip("langchain_core.documents")
    return [documents.Document(text, metadata={"n": n}) for n, text in enumerate(DOCUMENTS)]


def test_langchain_cohere(url: str, ranked: list[tuple[int, float]]) -> None:
    library = pytest.importorskip("langchain_cohere")
    compressor = library.CohereRerank(model="pairs", cohere_api_key="any", base_url=url, top_n=2)
    kept = compressor.compress_documents(documents_of_langchain(), QUERY)
    assert [(each.metadata["n"], each.metadata["relevance_score"]) for each in kept] == ranked[:2]


def test_langchain_jina(url: str, ranked: list[tuple[int, float]], monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("langchain_community.document_compressors.jina_rerank")
    # The class has no option for the address.
    monkeypatch.setattr(module, "JINA_API_URL", f"{url}/v1/rerank")
    compressor = module.JinaRerank(model="pairs", jina_api_key="any", top_n=2)
    kept = compressor.compress_documents(documents_of_langchain(), QUERY)
    assert [(each.metadata["n"], each.metadata["relevance_score"]) for each in kept] == ranked[:2]
    with pytest.raises(RuntimeError, match="nowhere"):
        compressor.rerank(DOCUMENTS, QUERY, model="nowhere")


def test_open_webui(url: str, ranked: list[tuple[int, float]]) -> None:
    """Its external reranker: an address, a key, and this body."""
    body = {"model": "pairs", "query": QUERY, "documents": DOCUMENTS, "top_n": len(DOCUMENTS)}
    headers = {"Authorization": "Bearer any", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/rerank", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        results = json.load(answer)["results"]
    assert [(row["index"], row["relevance_score"]) for row in results] == ranked
