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
