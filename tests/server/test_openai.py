"""POST /v1/embeddings and GET /v1/models, as OpenAI's and Jina's clients use them."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from mlx_jina import Encoder, device
from mlx_jina.cpu import blas
from mlx_jina.vectors import Vectors
from tests.support.process import Server
from tests.support.tolerance import bound

TEXTS = ["How do I bake bread?", "Sourdough for beginners", "", "Bücher, 日本語 🍞", "bread " * 300]


def vectors(answer: Any) -> Vectors:
    body = answer.json()
    assert answer.status_code == 200, body
    assert [row["index"] for row in body["data"]] == [*range(len(body["data"]))]
    return np.array([row["embedding"] for row in body["data"]])


def error(answer: Any, status: int) -> dict[str, Any]:
    """The two forms that clients read, which must agree."""
    body: dict[str, Any] = answer.json()
    assert answer.status_code == status, body
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["detail"] == body["error"]["message"]
    assert body["request_id"]
    found: dict[str, Any] = body["error"]
    return found


class TestEmbeddings:
    def test_they_are_the_offline_encoders(self, server: Server, pocket: Encoder) -> None:
        answer = server.embed(TEXTS)
        np.testing.assert_allclose(vectors(answer), pocket.encode(TEXTS), atol=bound(1e-6))
        tokens = sum(pocket.count_tokens(TEXTS))
        assert answer.json()["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
        assert answer.json()["model"] == "pocket"
        assert answer.headers["X-Embedding-Fingerprint"] == pocket.fingerprint()
        assert answer.headers["X-Embedding-Truncated"] == "0"

    def test_base64_is_little_endian_float32(self, server: Server, pocket: Encoder) -> None:
        answer = server.embed(TEXTS, encoding_format="base64").json()
        rows = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in answer["data"]]
        np.testing.assert_allclose(rows, pocket.encode(TEXTS), atol=bound(1e-6))

    def test_binary_is_ubinary_minus_128(self, server: Server, pocket: Encoder) -> None:
        signed = vectors(server.embed(TEXTS, embedding_type="binary", encoding_format="base64"))
        unsigned = vectors(server.embed(TEXTS, embedding_type=["ubinary"]))
        np.testing.assert_array_equal(signed, unsigned - 128)
        expected = pocket.encode(TEXTS, precision="ubinary")
        # A sign may differ where the component is zero but for rounding.
        assert np.unpackbits(unsigned.astype(np.uint8) ^ expected).sum() <= 1

    def test_options(self, server: Server, pocket: Encoder) -> None:
        short = vectors(server.embed("some text", dimensions=64))
        np.testing.assert_allclose(short[0], pocket.encode("some text", truncate_dim=64), atol=bound(1e-6))
        raw = vectors(server.embed(["some text"], normalized=False))
        np.testing.assert_allclose(raw, pocket.encode(["some text"], normalize_embeddings=False), atol=bound(1e-5))
        objects = vectors(server.embed([{"text": "some text"}, "some text"]))
        np.testing.assert_allclose(objects[0], objects[1], atol=bound(1e-6))

    def test_nulls_are_absent_and_unknown_fields_ignored(self, server: Server) -> None:
        nulls = dict.fromkeys(("dimensions", "task", "encoding_format", "user", "truncate", "model", "options"))
        given = vectors(server.embed("a", **nulls, nonsense=[1]))
        np.testing.assert_allclose(given, vectors(server.embed("a")), atol=bound(1e-6))

    def test_no_texts(self, server: Server) -> None:
        """OpenAI's clients raise an error of their own for an answer without vectors."""
        refused = error(server.embed([]), 400)
        assert (refused["code"], refused["param"]) == ("no_texts", "input")
        assert "send at least one text" in refused["message"]

    def test_thousands_of_texts(self, server: Server, tiny: Encoder) -> None:
        texts = [f"note {i}" for i in range(2049)]
        answer = server.embed(texts, model="tiny", encoding_format="base64").json()
        last = np.frombuffer(base64.b64decode(answer["data"][-1]["embedding"]), "<f4")
        np.testing.assert_allclose(last, tiny.encode(texts[-1], task="text-matching"), atol=bound(1e-5))
        assert len(answer["data"]) == 2049

    def test_long_texts_are_refused_or_cut_and_counted(self, server: Server, tiny: Encoder) -> None:
        long = "bread " * (tiny.max_length + 10)
        refused = error(server.embed(["short", long], model="tiny"), 400)
        assert refused["code"] == "INPUT_TOKEN_LIMIT_EXCEEDED"
        assert "text 1 has" in refused["message"]
        answer = server.embed([long, "short"], model="tiny", truncate=True)
        assert answer.headers["X-Embedding-Truncated"] == "1"
        prompt = tiny.prompts["document"]
        tokens = tiny.max_length + tiny.count_tokens(prompt + "short")[0]
        assert answer.json()["usage"]["total_tokens"] == tokens


class TestLateChunking:
    CHUNKS = ("Berlin is the capital of Germany.", "It is populous.", "The city is also a state.")

    def test_texts_are_one_documents_chunks(self, server: Server, pocket: Encoder) -> None:
        answer = server.embed(self.CHUNKS, late_chunking=True)
        expected = pocket.encode(self.CHUNKS, late_chunking=True)
        np.testing.assert_allclose(vectors(answer), expected, atol=bound(1e-6))
        assert np.abs(expected - pocket.encode(self.CHUNKS)).max() > 0.01
        (tokens,) = pocket.count_tokens(" ".join(self.CHUNKS))
        assert answer.json()["usage"]["total_tokens"] == tokens

    def test_options(self, server: Server, pocket: Encoder) -> None:
        asked = {"dimensions": 64, "embedding_type": "ubinary"}
        codes = vectors(server.embed(self.CHUNKS, late_chunking=True, **asked))
        expected = pocket.encode(self.CHUNKS, late_chunking=True, truncate_dim=64, precision="ubinary")
        assert np.unpackbits(codes.astype(np.uint8) ^ expected).sum() <= 1

    def test_a_text_without_tokens_is_named(self, server: Server) -> None:
        refused = error(server.embed(["a", "", "b"], late_chunking=True), 400)
        assert "text 1 has no tokens" in refused["message"]


class TestTasks:
    @pytest.mark.parametrize(
        ("fields", "task", "prompt_name"),
        [
            ({}, "text-matching", None),
            ({"task": "retrieval.query"}, "retrieval", "query"),
            ({"task": "retrieval.passage"}, "retrieval", "document"),
            ({"task": "clustering"}, "clustering", None),
            ({"model": "tiny:retrieval.query"}, "retrieval", "query"),
            ({"model": "TINY:query"}, "retrieval", "query"),
            ({"model": "tiny:classification"}, "classification", None),
            ({"model": "tiny:latest"}, "text-matching", None),
            ({"input_type": "query"}, "retrieval", "query"),
            ({"input_type": "search_document"}, "retrieval", "document"),
            ({"input_type": "clustering"}, "clustering", None),
            ({"prompt_name": "passage"}, "retrieval", "document"),
            ({"model": "tiny:retrieval", "input_type": "query"}, "retrieval", "query"),
        ],
    )
    def test_each_way_to_say_it(
        self, server: Server, tiny: Encoder, fields: dict[str, str], task: str, prompt_name: str | None
    ) -> None:
        answer = server.embed("light", **{"model": "tiny", **fields})
        expected = tiny.encode("light", task=task, prompt_name=prompt_name)
        np.testing.assert_allclose(vectors(answer)[0], expected, atol=bound(1e-5))
        assert answer.headers["X-Embedding-Fingerprint"] == tiny.fingerprint(task)

    def test_a_side_means_nothing_to_a_model_without_prompts(self, server: Server) -> None:
        assert vectors(server.embed("a", model="pocket:query")).shape == (1, 256)

    @pytest.mark.parametrize(
        "fields",
        [
            {"task": "retrieval.queri"},
            {"model": "tiny:retrieval.query", "task": "clustering"},
            {"model": "tiny:query", "input_type": "document"},
            {"model": "tiny:nonsense"},
            {"input_type": "nonsense"},
        ],
    )
    def test_what_is_unknown_or_contradicts_is_refused(self, server: Server, fields: dict[str, str]) -> None:
        error(server.embed("a", **{"model": "tiny", **fields}), 400)


def test_names_of_fields_that_jinas_api_takes_too(server: Server, tiny: Encoder) -> None:
    answer = server.embed("light " * 300, model="tiny", task_type="clustering", truncation=True)
    assert answer.headers["X-Embedding-Truncated"] == "1"
    assert answer.headers["X-Embedding-Fingerprint"] == tiny.fingerprint("clustering")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"cut \ud83c", "cut \ufffd"),
        (r"\uDF5E cut", "\ufffd cut"),
        (r"\ud83c\uD83C\udf5e", "\ufffd🍞"),
        (r"\ud83c \\ud83c \n\\", "\ufffd \\ud83c \n\\"),
    ],
)
def test_half_a_character_is_replaced(server: Server, pocket: Encoder, written: str, read: str) -> None:
    """As in texts that JavaScript has cut by its own count."""
    assert json.loads(f'"{written}"', strict=False)
    body = f'{{"input": ["{written}", "bread"]}}'
    got = vectors(server.client.post("/v1/embeddings", content=body))
    np.testing.assert_allclose(got, pocket.encode([read, "bread"]), atol=bound(1e-6))


class TestRefusals:
    @pytest.mark.parametrize("ids", [[1, 2, 3], [[1, 2], [3]]])
    def test_token_ids_name_the_fix(self, server: Server, ids: Any) -> None:
        assert "check_embedding_ctx_length=False" in error(server.embed(ids), 400)["message"]

    @pytest.mark.parametrize("given", [True, [True], [{"text": 5}], [{"text": None}], [1.5]])
    def test_what_is_neither_a_text_nor_token_ids(self, server: Server, given: Any) -> None:
        assert error(server.embed(given), 422)["message"].startswith("input: item 0 is neither a string")

    @pytest.mark.parametrize(
        ("fields", "status", "param"),
        [
            ({"dimensions": 100}, 400, "dimensions"),
            ({"dimensions": "many"}, 422, "dimensions"),
            ({"encoding_format": "hex"}, 422, "encoding_format"),
            ({"model": "gpt-4"}, 404, "model"),
            ({"model": "../../etc"}, 404, "model"),
            ({"model": "v2-small-en"}, 404, "model"),
            ({"late_chunking": True, "model": "tiny"}, 400, "late_chunking"),
        ],
    )
    def test_fields_at_fault_are_named(
        self, server: Server, fields: dict[str, Any], status: int, param: str
    ) -> None:
        assert error(server.embed("a", **fields), status)["param"] == param

    @pytest.mark.parametrize("texts", [None, 7.5, {"image": "x"}, ["a", None], ["a", {"image": "x"}]])
    def test_what_is_not_text(self, server: Server, texts: Any) -> None:
        body = server.embed(texts).json()
        assert body["errors"][0]["field"].startswith("input")

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"a"', b'{"input": "\\ud800', b"\xff"])
    def test_what_is_not_json(self, server: Server, content: bytes) -> None:
        answer = server.client.post("/v1/embeddings", content=content)
        assert answer.status_code in (400, 422), answer.text
        assert answer.json()["error"]["message"]

    def test_a_body_that_is_too_large(self, server: Server) -> None:
        assert error(server.embed("x" * (4 << 20)), 413)["code"] == "body_too_large"

    def test_unknown_routes_and_methods(self, server: Server) -> None:
        assert error(server.client.get("/v2/nothing"), 404)["message"].startswith(
            "this server has no /v2/nothing;"
        )
        assert error(server.client.get("/v1/embeddings"), 405)["message"] == "/v1/embeddings does not take GET"


def test_models(server: Server, tiny: Encoder) -> None:
    server.embed("a", model="tiny")
    rows = {row["id"]: row for row in server.client.get("/v1/models").json()["data"]}
    assert rows["pocket"]["name"] == "pocket v4"
    assert rows["tiny"]["name"] == "tiny"
    assert rows["pocket"]["license"] == "apache-2.0"
    assert rows["pocket"]["dimensions"] == [64, 128, 256]
    assert rows["tiny"]["tasks"] == [*tiny.tasks]
    assert [row["id"] for row in server.client.get("/v1/models/").json()["data"]] == [*rows]
    assert rows["tiny"]["pooling"] == "last"
    assert rows["tiny"]["max_tokens"] == tiny.max_length
    assert rows["tiny"]["fingerprints"]["text-matching"] == tiny.fingerprint("text-matching")


def test_health_and_metrics(server: Server) -> None:
    before = server.metric("texts_total")
    server.embed(["a", "b"])
    assert server.metric("texts_total") == before + 2
    health = server.client.get("/health").json()
    assert "pocket" in health["models"]
    assert health["blas"] == (None if device.on_gpu() else blas.name())
