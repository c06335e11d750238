"""Rerankers in LangChain and LlamaIndex: the order and the scores of `rank`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mlx_jina
from mlx_jina.errors import InputError
from tests.support import reranker_checkpoints

QUERY = "how do i bake bread"
DOCUMENTS = ["paris capital of france", "bake bread", "a man riding horse"]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(reranker_checkpoints.v1(tmp_path_factory.mktemp("integrations") / "v1"))


@pytest.fixture(scope="module")
def ranked(folder: str) -> list[Any]:
    return list(mlx_jina.load_reranker(Path(folder)).rank(QUERY, DOCUMENTS))


def test_langchain(folder: str, ranked: list[Any]) -> None:
    documents = pytest.importorskip("langchain_core.documents")
    from mlx_jina.integrations.langchain import MLXJinaRerank

    given = [documents.Document(text, metadata={"n": n}) for n, text in enumerate(DOCUMENTS)]
    kept = MLXJinaRerank(model_name=folder, top_n=2).compress_documents(given, QUERY)
    assert [(d.metadata["n"], d.metadata["relevance_score"]) for d in kept] == [
        (hit["corpus_id"], hit["score"]) for hit in ranked[:2]
    ]
    assert all("relevance_score" not in document.metadata for document in given)
    assert len(MLXJinaRerank(model_name=folder, top_n=None).compress_documents(given, QUERY)) == 3
    assert MLXJinaRerank(model_name=folder).compress_documents([], QUERY) == []


def test_rerankers(folder: str, ranked: list[Any]) -> None:
    documents = pytest.importorskip("rerankers.documents")
    from mlx_jina.integrations.rerankers import MLXJinaRanker

    model = MLXJinaRanker(folder)
    found = model.rank(QUERY, DOCUMENTS, doc_ids=["a", "b", "c"])
    assert [(each.doc_id, each.score, each.rank) for each in found] == [
        ("abc"[hit["corpus_id"]], hit["score"], rank) for rank, hit in enumerate(ranked, 1)
    ]
    assert found.top_k(1)[0].text == DOCUMENTS[ranked[0]["corpus_id"]]
    own = [documents.Document(text, doc_id=i, metadata={"n": i}) for i, text in enumerate(DOCUMENTS)]
    assert [each.metadata["n"] for each in model.rank(QUERY, own)] == [hit["corpus_id"] for hit in ranked]
    assert model.score(QUERY, DOCUMENTS[0]) == next(hit["score"] for hit in ranked if hit["corpus_id"] == 0)
    assert model.rank(QUERY, []).results == []


def test_mteb(folder: str, ranked: list[Any]) -> None:
    mteb = pytest.importorskip("mteb")
    from mlx_jina.integrations.mteb import MLXJinaCrossEncoder

    model = MLXJinaCrossEncoder(folder)
    assert isinstance(model, mteb.CrossEncoderProtocol)
    assert not isinstance(model, mteb.EncoderProtocol)
    loaders = [{"text": [QUERY, QUERY]}, {"text": [QUERY]}], [{"text": DOCUMENTS[:1]}, {"text": DOCUMENTS[1:]}]
    given = {"task_metadata": None, "hf_split": "test", "hf_subset": "default"}
    scores = model.predict(*loaders, **given)
    wanted = mlx_jina.load_reranker(folder).score(QUERY, DOCUMENTS, activation="none")
    assert scores.tolist() == wanted.tolist()


def test_llama_index(folder: str, ranked: list[Any]) -> None:
    schema = pytest.importorskip("llama_index.core.schema")
    from mlx_jina.integrations.llama_index import MLXJinaRerank

    nodes = [schema.NodeWithScore(node=schema.TextNode(text=text), score=0.5) for text in DOCUMENTS]
    kept = MLXJinaRerank(model_name=folder, top_n=2).postprocess_nodes(nodes, query_str=QUERY)
    assert [(node.node.get_content(), node.score) for node in kept] == [
        (DOCUMENTS[hit["corpus_id"]], hit["score"]) for hit in ranked[:2]
    ]
    with pytest.raises(InputError, match="needs the query"):
        MLXJinaRerank(model_name=folder).postprocess_nodes(nodes)
