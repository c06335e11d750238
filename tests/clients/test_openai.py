"""OpenAI's dialect, with OpenAI's own client and the libraries that use it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_jina import Encoder
from tests.clients.conftest import TEXTS, UNCLOSED

pytestmark = UNCLOSED
ATOL = 1e-6


@pytest.fixture(scope="module")
def client(server: str) -> Any:
    openai = pytest.importorskip("openai")
    return openai.OpenAI(base_url=f"{server}/v1", api_key="any", max_retries=0)


def vectors(answer: Any) -> list[list[float]]:
    return [item.embedding for item in answer.data]


class TestClient:
    def test_vectors_and_counts(self, client: Any, pocket: Encoder) -> None:
        answer = client.embeddings.create(model="pocket", input=TEXTS)
        np.testing.assert_allclose(vectors(answer), pocket.encode(TEXTS), atol=ATOL)
        assert [item.index for item in answer.data] == list(range(len(TEXTS)))
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(pocket.count_tokens(TEXTS))

    def test_one_string(self, client: Any, pocket: Encoder) -> None:
        answer = client.embeddings.create(model="pocket", input="just one")
        np.testing.assert_allclose(vectors(answer), [pocket.encode("just one")], atol=ATOL)

    def test_floats_on_request(self, client: Any, pocket: Encoder) -> None:
        answer = client.embeddings.create(model="pocket", input=TEXTS, encoding_format="float")
        np.testing.assert_allclose(vectors(answer), pocket.encode(TEXTS), atol=ATOL)

    def test_more_texts_than_openai_takes(self, client: Any, pocket: Encoder) -> None:
        texts = [f"note {number}" for number in range(2049)]
        answer = client.embeddings.create(model="pocket", input=texts)
        np.testing.assert_allclose(vectors(answer), pocket.encode(texts), atol=ATOL)

    def test_dimensions(self, client: Any, pocket: Encoder) -> None:
        answer = client.embeddings.create(model="pocket", input=TEXTS, dimensions=64)
        np.testing.assert_allclose(vectors(answer), pocket.encode(TEXTS, truncate_dim=64), atol=ATOL)

    @pytest.mark.parametrize(
        ("model", "extra", "task"),
        [
            ("tiny-embedding:retrieval.query", {}, "retrieval.query"),
            ("tiny-embedding:retrieval.passage", {}, "retrieval.passage"),
            ("tiny-embedding:clustering", {}, "clustering"),
            ("tiny-embedding", {"task": "retrieval.query"}, "retrieval.query"),
            ("tiny-embedding", {"task": "classification"}, "classification"),
            ("tiny-embedding", {"input_type": "query"}, "retrieval.query"),
            ("tiny-embedding", {"task": "retrieval", "prompt_name": "query"}, "retrieval.query"),
        ],
    )
    def test_tasks_and_sides(
        self, client: Any, tiny: Encoder, model: str, extra: dict[str, Any], task: str
    ) -> None:
        answer = client.embeddings.create(model=model, input=TEXTS, extra_body=extra)
        np.testing.assert_allclose(vectors(answer), tiny.encode(TEXTS, task=task), atol=ATOL)

    def test_concurrent_requests_get_their_own_answers(self, server: str, client: Any, pocket: Encoder) -> None:
        import openai

        async def ask() -> list[Any]:
            async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key="any") as one:
                asked = (one.embeddings.create(model="pocket", input=f"text {n}") for n in range(40))
                return list(await asyncio.gather(*asked))

        got = [vectors(answer)[0] for answer in asyncio.run(ask())]
        np.testing.assert_allclose(got, pocket.encode([f"text {n}" for n in range(40)]), atol=ATOL)

    def test_models(self, client: Any) -> None:
        assert {"pocket", "tiny-embedding"} <= {model.id for model in client.models.list()}

    def test_an_unknown_model(self, client: Any) -> None:
        import openai

        with pytest.raises(openai.NotFoundError, match="'gpt' is not on this server") as caught:
            client.embeddings.create(model="gpt", input="text")
        assert caught.value.code == "model_not_found"

    def test_token_ids_are_refused_with_the_remedy(self, client: Any) -> None:
        import openai

        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
            client.embeddings.create(model="pocket", input=[[1, 2, 3]])

    def test_texts_that_are_too_long_are_refused(self, client: Any) -> None:
        import openai

        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model="pocket", input=["short", "word " * 9000])
        assert caught.value.code == "INPUT_TOKEN_LIMIT_EXCEEDED"


class TestLibraries:
    def test_langchain(self, server: str, pocket: Encoder) -> None:
        langchain = pytest.importorskip("langchain_openai")
        embeddings = langchain.OpenAIEmbeddings(
            base_url=f"{server}/v1", api_key="any", model="pocket", check_embedding_ctx_length=False
        )
        np.testing.assert_allclose(embeddings.embed_documents(TEXTS), pocket.encode(TEXTS), atol=ATOL)
        np.testing.assert_allclose(embeddings.embed_query(TEXTS[0]), pocket.encode(TEXTS[0]), atol=ATOL)

    def test_llama_index(self, server: str, tiny: Encoder) -> None:
        like = pytest.importorskip("llama_index.embeddings.openai_like")
        embedding = like.OpenAILikeEmbedding(
            model_name="tiny-embedding",
            api_base=f"{server}/v1",
            api_key="any",
            additional_kwargs={"extra_body": {"task": "retrieval.query"}},
        )
        texts = [text for text in TEXTS if text]
        got = embedding.get_text_embedding_batch(texts)
        np.testing.assert_allclose(got, tiny.encode(texts, task="retrieval.query"), atol=ATOL)

    def test_chroma(self, server: str, pocket: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("openai")
        functions = pytest.importorskip("chromadb.utils.embedding_functions")
        monkeypatch.setenv("KEY_OF_THE_TEST", "any")
        function = functions.OpenAIEmbeddingFunction(
            api_key_env_var="KEY_OF_THE_TEST", api_base=f"{server}/v1", model_name="pocket"
        )
        np.testing.assert_allclose(function(TEXTS), pocket.encode(TEXTS), atol=ATOL)

    def test_lancedb(self, server: str, pocket: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
        """It sends `dimensions: null`."""
        pytest.importorskip("openai")
        lancedb = pytest.importorskip("lancedb.embeddings")
        monkeypatch.setenv("OPENAI_API_KEY", "any")
        function = lancedb.get_registry().get("openai").create(name="pocket", base_url=f"{server}/v1")
        # It skips empty texts.
        texts = [text for text in TEXTS if text]
        np.testing.assert_allclose(function.compute_source_embeddings(texts), pocket.encode(texts), atol=ATOL)
