"""Ollama's dialect, with Ollama's own client and the libraries that use it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlx_jina import Encoder
from tests.clients.conftest import TEXTS, UNCLOSED

pytestmark = UNCLOSED
ATOL = 1e-6


@pytest.fixture(scope="module")
def client(server: str) -> Any:
    return pytest.importorskip("ollama").Client(server)


class TestClient:
    def test_embed(self, client: Any, pocket: Encoder) -> None:
        answer = client.embed("pocket", TEXTS)
        np.testing.assert_allclose(answer.embeddings, pocket.encode(TEXTS), atol=ATOL)
        assert answer.model == "pocket"
        assert answer.prompt_eval_count == sum(pocket.count_tokens(TEXTS))
        assert answer.total_duration > 0

    def test_one_string_and_dimensions(self, client: Any, pocket: Encoder) -> None:
        answer = client.embed("pocket:latest", TEXTS[0], dimensions=64)
        np.testing.assert_allclose(answer.embeddings, [pocket.encode(TEXTS[0], truncate_dim=64)], atol=ATOL)

    def test_a_side_by_the_models_name(self, client: Any, tiny: Encoder) -> None:
        answer = client.embed("tiny-embedding:retrieval.query", TEXTS)
        np.testing.assert_allclose(answer.embeddings, tiny.encode(TEXTS, task="retrieval.query"), atol=ATOL)

    @pytest.mark.slow
    def test_long_texts_are_cut_unless_forbidden(self, client: Any, tiny: Encoder) -> None:
        import ollama

        model, long = "tiny-embedding:clustering", "word " * 9000
        cut = client.embed(model, long)
        with pytest.warns(UserWarning, match="1 text was longer"):
            np.testing.assert_allclose(cut.embeddings, [tiny.encode(long, task="clustering")], atol=ATOL)
        assert cut.prompt_eval_count == tiny.max_length
        with pytest.raises(ollama.ResponseError) as caught:
            client.embed(model, long, truncate=False)
        assert caught.value.status_code == 400

    def test_the_older_route(self, client: Any, pocket: Encoder) -> None:
        answer = client.embeddings("pocket", "just one")
        np.testing.assert_allclose(answer.embedding, pocket.encode("just one"), atol=ATOL)
        assert client.embeddings("pocket", "").embedding == []

    def test_models(self, client: Any) -> None:
        """Smart Connections offers names with "embed" in them, and reads the lengths of `show`."""
        listed = {model.model: model for model in client.list().models}
        assert {"pocket-embedding", "tiny-embedding"} <= listed.keys()
        assert listed["pocket-embedding"].size > 10_000_000
        shown = client.show("pocket-embedding")
        assert shown.capabilities == ["embedding"]
        assert shown.modelinfo["jina_bert.context_length"] == 8192
        assert shown.modelinfo["jina_bert.embedding_length"] == 256
        assert "pocket-embedding" in {model.model for model in client.ps().models}

    def test_an_unknown_model(self, client: Any) -> None:
        import ollama

        with pytest.raises(ollama.ResponseError, match="'llama3' is not on this server") as caught:
            client.embed("llama3", "text")
        assert caught.value.status_code == 404


class TestLibraries:
    def test_langchain(self, server: str, pocket: Encoder) -> None:
        """It sends thirteen nulls as `options`."""
        langchain = pytest.importorskip("langchain_ollama")
        embeddings = langchain.OllamaEmbeddings(model="pocket", base_url=server)
        np.testing.assert_allclose(embeddings.embed_documents(TEXTS), pocket.encode(TEXTS), atol=ATOL)

    def test_chroma(self, server: str, pocket: Encoder) -> None:
        pytest.importorskip("ollama")
        functions = pytest.importorskip("chromadb.utils.embedding_functions")
        function = functions.OllamaEmbeddingFunction(url=server, model_name="pocket")
        np.testing.assert_allclose(function(TEXTS), pocket.encode(TEXTS), atol=ATOL)

    def test_lancedb(self, server: str, pocket: Encoder) -> None:
        pytest.importorskip("ollama")
        lancedb = pytest.importorskip("lancedb.embeddings")
        function = lancedb.get_registry().get("ollama").create(name="pocket", host=server)
        np.testing.assert_allclose(function.compute_source_embeddings(TEXTS), pocket.encode(TEXTS), atol=ATOL)
