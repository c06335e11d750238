"""The dialects of Ollama, text-embeddings-inference, LM Studio and Cohere as bare requests, where need be."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import InferenceClient

import mlx_jina
from mlx_jina import Encoder, vectors
from tests.clients.conftest import TEXTS, UNCLOSED
from tests.support.process import Server
from tests.support.tolerance import bound

pytestmark = UNCLOSED
ATOL = 1e-6


def ask(url: str, body: Any = None) -> Any:
    """POST a body, or GET."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=60) as answer:
        return json.load(answer)


class TestOllama:
    """What does not need Ollama's client; the rest is in test_ollama.py."""

    def test_null_is_as_good_as_absent(self, server: str, pocket: Encoder) -> None:
        """LangChain sends such options."""
        options = dict.fromkeys(("mirostat", "num_ctx", "num_gpu", "temperature", "stop"))
        body = {"model": "pocket:latest", "input": TEXTS, "truncate": None, "dimensions": None, "options": options}
        answer = ask(f"{server}/api/embed", body)
        np.testing.assert_allclose(answer["embeddings"], pocket.encode(TEXTS), atol=ATOL)
        assert answer["prompt_eval_count"] == sum(pocket.count_tokens(TEXTS))

    def test_what_smart_connections_asks(self, server: str) -> None:
        names = [model["name"] for model in ask(f"{server}/api/tags")["models"]]
        assert names[:2] == ["pocket-embedding", "tiny-embedding"]
        info = ask(f"{server}/api/show", {"model": names[0]})["model_info"]
        assert next(value for key, value in info.items() if "context_length" in key) == 8192
        assert next(value for key, value in info.items() if "embedding_length" in key) == 256

    def test_what_is_known_is_not_loaded_to_be_shown(self, folder: Path) -> None:
        """Smart Connections asks it of every model."""
        with Server("pocket", f"tiny-embedding={folder}") as server:
            for name, length in (("pocket-embedding", 8192), ("tiny-embedding", mlx_jina.load(folder).max_length)):
                assert ask(f"{server.url}/health")["models"] == []
                info = ask(f"{server.url}/api/show", {"model": name})["model_info"]
                assert info[f"{info['general.architecture']}.context_length"] == length
            assert ask(f"{server.url}/health")["models"] == ["tiny-embedding"]

    def test_errors_are_strings(self, server: str) -> None:
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(f"{server}/api/embed", {"model": "llama3", "input": "text"})
        assert caught.value.code == 404
        with caught.value as answer:
            assert "'llama3' is not on this server" in json.load(answer)["error"]

    def test_what_is_not_there_says_so(self, server: str) -> None:
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(f"{server}/api/pull", {"model": "llama3"})
        with caught.value as answer:
            assert json.load(answer)["error"].startswith("this server has no /api/pull")


class TestTextEmbeddingsInference:
    def test_chroma(self, server: str, pocket: Encoder) -> None:
        functions = pytest.importorskip("chromadb.utils.embedding_functions")
        function = functions.HuggingFaceEmbeddingServer(url=f"{server}/embed")
        np.testing.assert_allclose(function(TEXTS), pocket.encode(TEXTS), atol=ATOL)

    def test_hugging_faces_client(self, server: str, pocket: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
        """At the root, and at /embed where libraries give the address of the model itself."""
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        for client in (InferenceClient(base_url=server), InferenceClient(model=f"{server}/embed")):
            got = client.feature_extraction(TEXTS[0], normalize=True)
            np.testing.assert_allclose(got, [pocket.encode(TEXTS[0])], atol=ATOL)

    def test_options(self, server: str, pocket: Encoder) -> None:
        got = ask(f"{server}/embed", {"inputs": TEXTS, "normalize": False, "dimensions": 64, "prompt_name": None})
        want = pocket.encode(TEXTS, normalize_embeddings=False, truncate_dim=64)
        np.testing.assert_allclose(got, want, atol=bound(1e-5))

    def test_tokens_and_their_places(self, server: str, pocket: Encoder) -> None:
        texts = ["Bread 🍞, 日本語 and co.", ""]
        for special in (True, False):
            got = ask(f"{server}/tokenize", {"inputs": texts, "add_special_tokens": special})
            own = [[token for token in tokens if not token["special"]] for tokens in got]
            for text, tokens in zip(texts, own, strict=True):
                assert all(text[token["start"] : token["stop"]] == token["text"] for token in tokens)
            ids = [[token["id"] for token in tokens] for tokens in got]
            assert ids == (pocket.tokenize(texts) if special else [ids[1:-1] for ids in pocket.tokenize(texts)])

    def test_info(self, server: str) -> None:
        info = ask(f"{server}/info")
        assert info["model_id"] == "pocket"
        assert info["max_input_length"] == 8192
        assert info["model_type"] == {"embedding": {"pooling": "mean"}}


class TestLMStudio:
    def test_models_and_embeddings(self, server: str, pocket: Encoder) -> None:
        """The fields that Smart Connections reads."""
        got = ask(f"{server}/api/v0/embeddings", {"model": "pocket", "input": TEXTS})
        np.testing.assert_allclose([item["embedding"] for item in got["data"]], pocket.encode(TEXTS), atol=ATOL)
        models = {model["id"]: model for model in ask(f"{server}/api/v0/models")["data"]}
        assert models["pocket"]["type"] == "embeddings"
        assert models["pocket"]["loaded_context_length"] == models["pocket"]["max_context_length"] == 8192


class TestCohere:
    def test_embed(self, server: str, tiny: Encoder) -> None:
        body = {
            "model": "tiny-embedding",
            "texts": TEXTS,
            "input_type": "search_query",
            "embedding_types": ["float", "ubinary", "int8"],
        }
        got = ask(f"{server}/v2/embed", body)["embeddings"]
        want = tiny.encode(TEXTS, task="retrieval.query")
        np.testing.assert_allclose(got["float"], want, atol=ATOL)
        assert got["ubinary"] == vectors.quantize(np.array(got["float"], np.float32), "ubinary").tolist()
        assert np.abs(np.int16(got["int8"]) - vectors.quantize(want, "int8")).max() <= 1
