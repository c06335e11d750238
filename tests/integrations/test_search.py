"""LangChain, LlamaIndex, Chroma, LanceDB and llm with their adapters, end to end."""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlx_jina
from mlx_jina import Encoder, catalog
from mlx_jina.integrations import open_encoder

DOCUMENTS = [
    "Bread needs flour, water, salt and time.",
    "The GPU driver crashed after the update.",
    "Paris is the capital of France.",
]
QUERY = "how do I bake bread?"


@pytest.fixture(scope="module")
def documents(tiny: Encoder) -> Any:
    return tiny.encode(DOCUMENTS, prompt_name="document")


@pytest.fixture(scope="module")
def query(tiny: Encoder, documents: Any) -> Any:
    vector = tiny.encode(QUERY, prompt_name="query")
    assert np.abs(vector - tiny.encode(QUERY, prompt_name="document")).max() > 0.01
    return vector


def test_known_models_that_retrieve_do_so(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task is fused when the model is loaded."""
    entry = catalog.find("v5-nano")
    monkeypatch.setattr(catalog, "find", lambda *_: entry)
    assert open_encoder.__wrapped__(folder).tasks == ("retrieval",)
    assert open_encoder.__wrapped__(folder, "clustering").tasks == ("clustering",)


class TestLangChain:
    def test_sides(self, folder: str, documents: Any, query: Any) -> None:
        pytest.importorskip("langchain_core")
        from mlx_jina.integrations.langchain import MLXJinaEmbeddings

        embeddings = MLXJinaEmbeddings(folder, task="retrieval")
        np.testing.assert_allclose(embeddings.embed_documents(DOCUMENTS), documents, atol=1e-6)
        np.testing.assert_allclose(embeddings.embed_query(QUERY), query, atol=1e-6)
        np.testing.assert_allclose(asyncio.run(embeddings.aembed_query(QUERY)), query, atol=1e-6)
        assert embeddings.embed_documents([]) == []

    def test_a_vector_store(self) -> None:
        stores = pytest.importorskip("langchain_core.vectorstores")
        from mlx_jina.integrations.langchain import MLXJinaEmbeddings

        store = stores.InMemoryVectorStore.from_texts(DOCUMENTS, MLXJinaEmbeddings("pocket", truncate_dim=64))
        assert store.similarity_search(QUERY, k=1)[0].page_content == DOCUMENTS[0]


class TestLlamaIndex:
    def test_sides(self, folder: str, documents: Any, query: Any) -> None:
        pytest.importorskip("llama_index.core")
        from mlx_jina.integrations.llama_index import MLXJinaEmbedding

        embedding = MLXJinaEmbedding(model_name=folder, task="retrieval")
        np.testing.assert_allclose(embedding.get_text_embedding_batch(DOCUMENTS), documents, atol=1e-6)
        np.testing.assert_allclose(embedding.get_text_embedding(DOCUMENTS[0]), documents[0], atol=1e-6)
        np.testing.assert_allclose(embedding.get_query_embedding(QUERY), query, atol=1e-6)
        got = asyncio.run(embedding.aget_text_embedding_batch(DOCUMENTS))
        np.testing.assert_allclose(got, documents, atol=1e-6)
        np.testing.assert_allclose(asyncio.run(embedding.aget_query_embedding(QUERY)), query, atol=1e-6)

    @pytest.mark.parametrize("texts", ["abc", {"a": "b"}, {"a", "b"}])
    def test_what_iterates_over_something_else(self, texts: Any) -> None:
        pytest.importorskip("llama_index.core")
        from mlx_jina.integrations.llama_index import MLXJinaEmbedding

        embedding = MLXJinaEmbedding(model_name="pocket")
        with pytest.raises(mlx_jina.InputError, match="texts must"):
            embedding.get_text_embedding_batch(texts)
        with pytest.raises(mlx_jina.InputError, match="texts must"):
            asyncio.run(embedding.aget_text_embedding_batch(texts))

    def test_it_travels(self) -> None:
        """Ingestion pipelines send it to other processes and key their cache by its fields."""
        pytest.importorskip("llama_index.core")
        from mlx_jina.integrations.llama_index import MLXJinaEmbedding

        embedding = MLXJinaEmbedding(model_name="pocket", truncate_dim=64)
        for copy in (pickle.loads(pickle.dumps(embedding)), MLXJinaEmbedding.from_dict(embedding.to_dict())):
            np.testing.assert_array_equal(copy.get_query_embedding(QUERY), embedding.get_query_embedding(QUERY))


class TestChroma:
    @pytest.fixture
    def chroma(self) -> Any:
        return pytest.importorskip("chromadb")

    def test_sides(self, chroma: Any, folder: str, documents: Any, query: Any) -> None:
        from mlx_jina.integrations.chroma import MLXJinaEmbeddingFunction

        function = MLXJinaEmbeddingFunction(folder, task="retrieval")
        np.testing.assert_allclose(function(DOCUMENTS), documents, atol=1e-6)
        np.testing.assert_allclose(function.embed_query([QUERY]), [query], atol=1e-6)
        for each in (function, function.embed_query):
            with pytest.raises(mlx_jina.InputError, match="letter of which would be one"):
                each(DOCUMENTS[0])

    def test_a_collection_is_reopened_with_its_function(
        self, chroma: Any, folder: str, documents: Any, query: Any, tmp_path: Path
    ) -> None:
        from mlx_jina.integrations.chroma import MLXJinaEmbeddingFunction

        function = MLXJinaEmbeddingFunction(folder, task="retrieval")
        made = chroma.PersistentClient(tmp_path).create_collection("notes", embedding_function=function)
        made.add(ids=["a", "b", "c"], documents=DOCUMENTS)
        chroma.api.client.SharedSystemClient.clear_system_cache()

        collection = chroma.PersistentClient(tmp_path).get_collection("notes")
        stored = collection.get(include=["embeddings"])["embeddings"]
        np.testing.assert_allclose(stored, documents, atol=1e-6)
        found = collection.query(query_texts=[QUERY], n_results=3)
        distances = dict(zip(found["ids"][0], found["distances"][0], strict=True))
        np.testing.assert_allclose([distances[i] for i in "abc"], 1 - documents @ query, atol=1e-5)


class TestLanceDB:
    def test_a_table_is_reopened_with_its_function(
        self, folder: str, documents: Any, query: Any, tmp_path: Path
    ) -> None:
        lancedb = pytest.importorskip("lancedb")
        import pyarrow
        from lancedb.embeddings import EmbeddingFunctionConfig, get_registry

        import mlx_jina.integrations.lancedb  # noqa: F401

        function = get_registry().get("mlx-jina").create(name=folder, task="retrieval", truncate_dim=64)
        width = pyarrow.list_(pyarrow.float32(), function.ndims())
        schema = pyarrow.schema({"text": pyarrow.string(), "vector": width})
        config = EmbeddingFunctionConfig(source_column="text", vector_column="vector", function=function)
        table = lancedb.connect(tmp_path).create_table("notes", schema=schema, embedding_functions=[config])
        table.add([{"text": text} for text in DOCUMENTS])

        table = lancedb.connect(tmp_path).open_table("notes")
        half, asked = (
            x[..., :64] / np.linalg.norm(x[..., :64], axis=-1, keepdims=True) for x in (documents, query)
        )
        rows = {row["text"]: row for row in table.search(QUERY).distance_type("cosine").to_list()}
        np.testing.assert_allclose([rows[text]["vector"] for text in DOCUMENTS], half, atol=1e-6)
        np.testing.assert_allclose([rows[text]["_distance"] for text in DOCUMENTS], 1 - half @ asked, atol=1e-5)


# llm leaves its own files open.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
class TestLLM:
    @pytest.fixture
    def run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        pytest.importorskip("llm")
        monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
        from click.testing import CliRunner
        from llm.cli import cli

        def run(*arguments: str, status: int = 0) -> str:
            done = CliRunner().invoke(cli, arguments)
            assert done.exit_code == status, done.output
            return done.output

        return run

    def test_models(self, run: Any) -> None:
        """Both sides, where a model has them."""
        models = run("embed-models")
        for name in ("pocket", "v5-small", "v5-small-query"):
            assert f"mlx-jina/{name}\n" in models
        assert "mlx-jina/pocket-query" not in models

    def test_embed(self, run: Any) -> None:
        vector = json.loads(run("embed", "-m", "mlx-jina/pocket", "-c", QUERY))
        np.testing.assert_allclose(vector, mlx_jina.load("pocket").encode(QUERY), atol=1e-6)

    def test_a_collection(self, run: Any, tmp_path: Path) -> None:
        notes = tmp_path / "notes.json"
        notes.write_text(json.dumps([{"id": str(n), "text": text} for n, text in enumerate(DOCUMENTS)]))
        run("embed-multi", "notes", str(notes), "-m", "mlx-jina/pocket", "--store")
        assert json.loads(run("similar", "notes", "-c", QUERY, "-n", "1"))["content"] == DOCUMENTS[0]

    def test_a_model_that_is_not_here(self, run: Any) -> None:
        words = run("embed", "-m", "mlx-jina/v2-base-zh", "-c", "text", status=1)
        assert "is not in the cache" in words
        assert "Traceback" not in words


@pytest.mark.parametrize(
    ("library", "reopen"),
    [
        (
            "chromadb",
            "chromadb.PersistentClient(path).get_collection('notes').query(query_texts=['bread'], n_results=1)",
        ),
        ("lancedb", "lancedb.connect(path).open_table('notes').search('bread').to_list()"),
    ],
)
def test_a_new_process_is_told_what_to_import(library: str, reopen: str, tmp_path: Path) -> None:
    """These libraries have no entry points, so their own errors have to name the module."""
    pytest.importorskip(library)
    module = {"chromadb": "mlx_jina.integrations.chroma", "lancedb": "mlx_jina.integrations.lancedb"}[library]
    if library == "chromadb":
        import chromadb

        from mlx_jina.integrations.chroma import MLXJinaEmbeddingFunction

        function = MLXJinaEmbeddingFunction("pocket")
        made = chromadb.PersistentClient(tmp_path).create_collection("notes", embedding_function=function)
        made.add(ids=["a"], documents=["bread"])
    else:
        import lancedb
        import pyarrow
        from lancedb.embeddings import EmbeddingFunctionConfig, get_registry

        import mlx_jina.integrations.lancedb  # noqa: F401

        function = get_registry().get("mlx-jina").create(name="pocket")
        width = pyarrow.list_(pyarrow.float32(), function.ndims())
        config = EmbeddingFunctionConfig(vector_column="vector", source_column="text", function=function)
        table = lancedb.connect(tmp_path).create_table(
            "notes",
            schema=pyarrow.schema({"text": pyarrow.string(), "vector": width}),
            embedding_functions=[config],
        )
        table.add([{"text": "bread"}])
    for imports, words in ((library, module), (f"{library}, {module}", "")):
        code = f"import {imports}; path = {str(tmp_path)!r}; print({reopen})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == bool(words), done.stderr
        assert words in done.stderr
