"""Every dialect knows the same fields: none that would change vectors is ignored."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import httpx2
import numpy as np
import pytest

from mlx_jina import Encoder, InputError
from mlx_jina.vectors import Vectors
from tests.support.process import Server
from tests.support.tolerance import bound

TEXT = "light travels fast"


class Dialect:
    """How a dialect asks for the vector of one text, and where its answer has the vector."""

    def __init__(self, path: str, body: dict[str, Any], vector: Callable[[Any], Any]) -> None:
        self.path = path
        self.body = body
        self.vector = vector

    def post(self, server: Server, **fields: Any) -> httpx2.Response:
        return server.client.post(self.path, json={**self.body, **fields})

    def ask(self, server: Server, **fields: Any) -> Vectors:
        answer = self.post(server, **fields)
        assert answer.status_code == 200, answer.text
        return np.array(self.vector(answer.json()))

    def __repr__(self) -> str:
        return self.path


def openai(answer: Any) -> Any:
    return answer["data"][0]["embedding"]


DIALECTS = (
    Dialect("/v1/embeddings", {"model": "tiny", "input": TEXT}, openai),
    Dialect("/embeddings", {"model": "tiny", "input": TEXT}, openai),
    Dialect("/api/v0/embeddings", {"model": "tiny", "input": TEXT}, openai),
    Dialect("/api/embed", {"model": "tiny", "input": TEXT}, lambda answer: answer["embeddings"][0]),
    Dialect("/api/embeddings", {"model": "tiny", "prompt": TEXT}, lambda answer: answer["embedding"]),
    Dialect("/embed", {"model": "tiny", "inputs": TEXT}, lambda answer: answer[0]),
    Dialect("/", {"model": "tiny", "inputs": TEXT}, lambda answer: answer[0]),
    Dialect("/v1/embed", {"model": "tiny", "texts": [TEXT]}, lambda answer: answer["embeddings"][0]),
    Dialect("/v2/embed", {"model": "tiny", "texts": [TEXT]}, lambda answer: answer["embeddings"]["float"][0]),
)
EVERY = pytest.mark.parametrize("dialect", DIALECTS, ids=repr)


@EVERY
class TestEveryDialect:
    @pytest.mark.parametrize(
        ("fields", "task"),
        [
            ({"task": "retrieval.query"}, "retrieval.query"),
            ({"task_type": "retrieval.passage"}, "retrieval.passage"),
            ({"task": "clustering"}, "clustering"),
            ({"input_type": "query"}, "retrieval.query"),
            ({"input_type": "search_document"}, "retrieval.passage"),
            ({"prompt_name": "query"}, "retrieval.query"),
            ({"model": "tiny:retrieval.query"}, "retrieval.query"),
        ],
    )
    def test_tasks_and_sides(
        self, server: Server, tiny: Encoder, dialect: Dialect, fields: dict[str, str], task: str
    ) -> None:
        if dialect.path == "/v2/embed" and not {"input_type", "prompt_name"} & {*fields}:
            fields = {**fields, "input_type": "query" if task.endswith("query") else "document"}
            if task == "clustering":
                fields["input_type"] = "clustering"
        got = dialect.ask(server, **fields)
        np.testing.assert_allclose(got, tiny.encode(TEXT, task=task), atol=bound(1e-5))

    @pytest.mark.parametrize(
        "fields",
        [
            {"task": "nonsense"},
            {"task": "retrieval.queri"},
            {"task_type": "nonsense"},
            {"input_type": "nonsense"},
            {"prompt_name": "nonsense"},
            {"task": "retrieval.query", "input_type": "document"},
            {"task": "retrieval.query", "task_type": "retrieval.passage"},
            {"input_type": "query", "prompt_name": "document"},
            {"dimensions": 3},
            {"output_dimension": 3},
            {"dimensions": "many"},
            {"truncation_direction": "left"},
            {"return_multivector": True},
            {"model": "x" * 1000},
            {"task": "x" * 1000},
        ],
    )
    def test_what_is_unknown_or_contradicts(
        self, server: Server, dialect: Dialect, fields: dict[str, Any]
    ) -> None:
        required = {"input_type": "query"} if dialect.path == "/v2/embed" else {}
        answer = dialect.post(server, **{**required, **fields})
        assert answer.status_code in (400, 422), answer.text
        assert len(answer.content) < 1000

    def test_options(self, server: Server, tiny: Encoder, dialect: Dialect) -> None:
        side = {"input_type": "query"}
        short = dialect.ask(server, output_dimensionality=32, **side)
        want = tiny.encode(TEXT, task="retrieval.query", truncate_dim=32)
        np.testing.assert_allclose(short, want, atol=bound(1e-5))
        raw = dialect.ask(server, normalize=False, **side)
        want = tiny.encode(TEXT, task="retrieval.query", normalize_embeddings=False)
        np.testing.assert_allclose(raw, want, atol=bound(1e-4))

    def test_whether_long_texts_are_cut(self, server: Server, dialect: Dialect) -> None:
        long: dict[str, Any] = {
            key: "bread " * 500 for key in ("input", "inputs", "prompt") if key in dialect.body
        }
        long = long or {"texts": ["bread " * 500]}
        for cut in (True, "END"):
            answer = dialect.post(server, truncate=cut, input_type="query", **long)
            assert answer.headers["X-Embedding-Truncated"] == "1"
        for uncut in (False, "NONE"):
            assert dialect.post(server, truncation=uncut, input_type="query", **long).status_code == 400
        assert dialect.post(server, truncate="START", input_type="query", **long).status_code == 422

    @pytest.mark.parametrize("side", ["query", "passage", "document"])
    def test_sides_mean_nothing_to_a_model_with_one_space(
        self, server: Server, pocket: Encoder, dialect: Dialect, side: str
    ) -> None:
        """Open WebUI and others name them to every model."""
        want = pocket.encode(TEXT)
        for fields in (
            {"task": f"retrieval.{side}"},
            {"task": side},
            {"input_type": side},
            {"model": f"pocket:retrieval.{side}"},
        ):
            required = {"input_type": side} if dialect.path == "/v2/embed" else {}
            got = dialect.ask(server, **{"model": "pocket", **required, **fields})
            np.testing.assert_allclose(got, want, atol=bound(1e-6))
        for mistake in ("retrieval.queri", "retrieval.", "Retrieval.query", "retrieval.query.query"):
            assert dialect.post(server, model="pocket", task=mistake, input_type=side).status_code == 400


def test_sides_in_python(pocket: Encoder) -> None:
    want = pocket.encode(TEXT)
    for side in ("query", "passage", "document"):
        np.testing.assert_array_equal(pocket.encode(TEXT, task=f"retrieval.{side}"), want)
    np.testing.assert_array_equal(pocket.encode_query(TEXT, task="retrieval.query"), want)
    np.testing.assert_array_equal(pocket.encode_document(TEXT, task="retrieval.passage"), want)
    np.testing.assert_array_equal(next(pocket.encode_stream([TEXT], task="retrieval.query"))[0], want)
    assert pocket.fingerprint("retrieval.query") == pocket.fingerprint()
    for mistake in ("retrieval.queri", "retrieval", "query", "text-matching", ""):
        with pytest.raises(InputError, match="one vector space"):
            pocket.encode(TEXT, task=mistake)
    with pytest.raises(InputError, match="contradict"):
        pocket.encode(TEXT, task="retrieval.query", prompt_name="document")


class TestEncodings:
    @pytest.mark.parametrize(
        "dialect", [d for d in DIALECTS if d.path in ("/api/embed", "/api/embeddings", "/embed", "/")], ids=repr
    )
    @pytest.mark.parametrize("field", ["encoding_format", "embedding_type", "output_dtype"])
    def test_routes_of_floats_name_the_one_that_has_more(
        self, server: Server, dialect: Dialect, field: str
    ) -> None:
        assert dialect.ask(server, **{field: "float"}).shape == (64,)
        answer = dialect.post(server, **{field: "ubinary"})
        assert answer.status_code == 422
        assert "/v1/embeddings has other encodings" in answer.text

    def test_coheres(self, server: Server, tiny: Encoder) -> None:
        want = tiny.encode(TEXT, task="retrieval.query")
        body = {"model": "tiny", "texts": [TEXT], "input_type": "search_query"}
        kinds = ["base64", "ubinary", "base64"]
        for path in ("/v1/embed", "/v2/embed"):
            got = server.client.post(path, json={**body, "embedding_types": kinds}).json()
            assert got["response_type"] == "embeddings_by_type"
            assert {*got["embeddings"]} == {"base64", "ubinary"}
            row = np.frombuffer(base64.b64decode(got["embeddings"]["base64"][0]), "<f4")
            np.testing.assert_allclose(row, want, atol=bound(1e-5))
        bare = server.client.post("/v1/embed", json=body).json()
        assert (bare["response_type"], bare["texts"]) == ("embeddings_floats", [TEXT])
        np.testing.assert_allclose(bare["embeddings"], [want], atol=bound(1e-5))
        assert server.client.post("/v2/embed", json={"model": "tiny", "texts": [TEXT]}).status_code == 422


def test_similarity(server: Server, pocket: Encoder) -> None:
    texts = ["bread", "music", "dough"]
    inputs = {"source_sentence": TEXT, "sentences": texts}
    got = server.client.post("/similarity", json={"inputs": inputs}).json()
    want = pocket.similarity(pocket.encode([TEXT]), pocket.encode(texts))[0]
    np.testing.assert_allclose(got, want, atol=bound(1e-5))
    refused = {"inputs": inputs, "parameters": {"prompt_name": "nonsense", "truncate": False}}
    assert server.client.post("/similarity", json=refused).status_code == 400
    for broken in ({}, {"source_sentence": TEXT}, {"source_sentence": TEXT, "sentences": []}, "text"):
        assert server.client.post("/similarity", json={"inputs": broken}).status_code in (400, 422)


class TestNoTexts:
    @pytest.mark.parametrize(
        ("path", "field"),
        [
            ("/v1/embeddings", "input"),
            ("/api/v0/embeddings", "input"),
            ("/embed", "inputs"),
            ("/tokenize", "inputs"),
            ("/v1/embed", "texts"),
            ("/v2/embed", "texts"),
        ],
    )
    def test_are_refused(self, server: Server, path: str, field: str) -> None:
        answer = server.client.post(path, json={field: [], "input_type": "query"})
        assert answer.status_code == 400
        assert "send at least one text" in answer.text

    def test_only_load_a_model_in_ollamas_dialect(self, server: Server) -> None:
        assert server.client.post("/api/embed", json={"model": "pocket", "input": []}).json()["embeddings"] == []
        assert server.client.post("/api/embed", json={"model": "pocket"}).json()["embeddings"] == []
        assert server.client.post("/api/embeddings", json={"model": "pocket"}).json()["embedding"] == []

    def test_the_field_of_the_other_route(self, server: Server) -> None:
        """Else the answer would be a vector without numbers."""
        answer = server.client.post("/api/embeddings", json={"model": "pocket", "input": "bread"})
        assert answer.status_code == 422
        assert "/api/embeddings takes `prompt`; `input` is for /api/embed" in answer.json()["error"]
