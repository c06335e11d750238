"""Inputs that would cost unbounded time or memory are cut or refused, and the server goes on."""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers

import mlx_jina
from mlx_jina import TruncationWarning
from mlx_jina.text import tokenizer as text_tokenizer
from tests.support import checkpoints
from tests.support.process import Server

# What is a text in one dialect, and what is an error in it.
POST: dict[str, Callable[[str], dict[str, Any]]] = {
    "/v1/embeddings": lambda text: {"model": "explosive", "input": ["a fox", text]},
    "/api/embed": lambda text: {"model": "explosive", "input": ["a fox", text]},
    "/embed": lambda text: {"inputs": ["a fox", text]},
    "/tokenize": lambda text: {"inputs": ["a fox", text]},
    "/v2/embed": lambda text: {"model": "explosive", "texts": ["a fox", text], "input_type": "search_query"},
}


def message(answer: httpx2.Response) -> str:
    body = answer.json()
    return str(body.get("detail") or body.get("error") or body.get("message"))


def megabytes(server: Server) -> float:
    command = ["ps", "-o", "rss=", "-p", str(server.process.pid)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024


@pytest.fixture(scope="module")
def explosive(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Server]:
    """A model whose tokenizer takes exponential time for some texts, which its library ends by a panic."""
    source = checkpoints.tiny_jina_bert(tmp_path_factory.mktemp("explosive") / "bert")
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    tokenizer.save(str(source / "tokenizer.json"))
    with Server(f"explosive={source}", "pocket", f"tiny={folder}") as server:
        yield server
        assert "Traceback" not in server.log


@pytest.mark.parametrize("path", POST)
def test_a_tokenizer_that_panics_is_an_answer(explosive: Server, path: str) -> None:
    answer = explosive.client.post(path, json=POST[path]("a" * 40 + "b"), timeout=20)
    assert answer.status_code == 400, answer.text
    assert "text 1 cannot be tokenised" in message(answer)
    assert explosive.client.post(path, json=POST[path]("a dog")).status_code == 200


def test_a_panic_harms_no_other_request(explosive: Server) -> None:
    """Requests that arrive together are tokenised together."""

    async def work() -> list[int]:
        async with httpx2.AsyncClient(base_url=explosive.url, timeout=30) as client:
            texts = ["a fox", "a" * 40 + "b", "the dog", "fox"]
            posts = (client.post("/v1/embeddings", json={"input": text}) for text in texts)
            return [answer.status_code for answer in await asyncio.gather(*posts)]

    assert asyncio.run(work()) == [200, 400, 200, 200]


@pytest.mark.parametrize(
    ("model", "unit", "status"),
    [
        ("tiny:retrieval.query", "bread ", 200),
        ("tiny:retrieval.query", " ", 200),
        ("tiny:retrieval.query", "a", 200),
        ("tiny:retrieval.query", "日本語\n", 200),
        # WordPiece makes no tokens of spaces.
        ("pocket", " ", 400),
    ],
)
def test_a_text_of_millions_of_characters(explosive: Server, model: str, unit: str, status: int) -> None:
    """It is cut, or refused where so much text gives no tokens, in seconds and in bounded memory."""
    before, started = megabytes(explosive), time.monotonic()
    text = unit * (4_500_000 // len(unit))
    answer = explosive.client.post("/v1/embeddings", json={"input": text, "model": model, "truncate": True})
    assert answer.status_code == status, answer.text
    if status == 200:
        assert answer.headers["X-Embedding-Truncated"] == "1"
    else:
        assert "take out what is no text" in message(answer)
    assert time.monotonic() - started < 30
    assert megabytes(explosive) < before + 300


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "pocket", "input": ["bread " * 400_000] * 2, "late_chunking": True}),
        ("/tokenize", {"inputs": "bread " * 800_000}),
    ],
)
def test_what_needs_every_token_is_bounded(explosive: Server, path: str, body: dict[str, Any]) -> None:
    answer = explosive.client.post(path, json=body)
    assert answer.status_code == 400, answer.text
    assert "characters" in message(answer)


def test_many_large_texts_are_tokenised_one_after_the_other(explosive: Server) -> None:
    before = megabytes(explosive)
    body = {"model": "tiny:retrieval.query", "input": ["bread " * 40_000] * 30, "truncate": True}
    assert explosive.client.post("/v1/embeddings", json=body).headers["X-Embedding-Truncated"] == "30"
    assert megabytes(explosive) < before + 300


def test_the_first_tokens_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlx_jina.load("pocket")
    text = "how do i bake bread, and light travels fast in vacuum? " * 500
    with pytest.warns(TruncationWarning):
        whole = model.encode(text, max_length=300)
    monkeypatch.setattr(text_tokenizer, "LARGE", 2000)
    with pytest.warns(TruncationWarning):
        np.testing.assert_array_equal(model.encode([text], max_length=300)[0], whole)
    texts = ["a fox", text, "the dog " * 100, "", text[:5000], "bread"]
    monkeypatch.setattr(text_tokenizer, "GROUP", 1500)
    parts = model._tokenizer.encode(texts)
    offsets = model._tokenizer.encode_with_offsets(texts)
    monkeypatch.undo()
    for ids, (same, _), full in zip(parts, offsets, model._tokenizer.encode(texts), strict=True):
        np.testing.assert_array_equal(ids, full)
        np.testing.assert_array_equal(same, full)


class TestLists:
    """Every list has a limit, also one that nobody reads, and errors name ten faults at most."""

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/v2/embed", '{"texts": ["a"], "input_type": "query", "embedding_types": [%s]}'),
            ("/v1/embed", '{"texts": ["a"], "embedding_types": [%s]}'),
            ("/v1/embeddings", '{"input": ["a"], "embedding_type": [%s]}'),
            ("/v1/embeddings", '{"input": [%s]}'),
            ("/v1/embeddings", '{"input": ["a"], "model": [%s]}'),
            ("/v1/embeddings", '{"input": ["a"], "dimensions": [%s]}'),
            ("/api/embed", '{"input": [%s]}'),
            ("/embed", '{"inputs": [%s]}'),
            ("/embed", '{"inputs": ["a"], "encoding_format": [%s]}'),
            ("/similarity", '{"inputs": {"source_sentence": "a", "sentences": [%s]}}'),
            ("/tokenize", '{"inputs": [%s]}'),
            ("/api/show", '{"model": [%s]}'),
        ],
    )
    def test_a_million_items(self, explosive: Server, path: str, body: str) -> None:
        before, started = megabytes(explosive), time.monotonic()
        for item, count in (('"float"', 900_000), ("[]", 9_000_000))[: 1 + path.startswith("/v")]:
            answer = explosive.client.post(path, content=body % ",".join([item] * count), timeout=60)
            assert answer.status_code in (400, 413, 422), answer.text[:500]
            assert len(answer.content) < 3000
        assert time.monotonic() - started < 20
        assert megabytes(explosive) < before + 250

    def test_a_list_that_nobody_reads(self, explosive: Server) -> None:
        body = '{"input": "a", "options": [%s]}'
        assert explosive.client.post("/v1/embeddings", content=body % ",".join("0" * 4_000_000)).status_code == 413

    def test_separators_within_texts_are_no_items(self, explosive: Server) -> None:
        for text, status in ((r"\"[{," * 600_000, 200), (r"\\" + "[{," * 600_000, 200), ('"', 400)):
            body = f'{{"model": "tiny:query", "truncate": true, "input": "{text}"}}'
            assert explosive.client.post("/v1/embeddings", content=body).status_code == status

    def test_errors_name_ten_faults(self, explosive: Server) -> None:
        wrong = ["model", "task", "input_type", "dimensions", "truncate", "truncation_direction", "normalized"]
        wrong += ("late_chunking", "return_multivector", "encoding_format", "embedding_type", "input")
        answer = explosive.client.post("/v1/embeddings", json={field: {} for field in wrong})
        assert answer.status_code == 422
        assert len(answer.json()["errors"]) == 10
        assert answer.json()["detail"].endswith("; and 2 more")

    def test_errors_do_not_repeat_what_is_long(self, explosive: Server) -> None:
        for field in ("model", "task", "input_type", "encoding_format", "dimensions"):
            answer = explosive.client.post("/v1/embeddings", json={"input": "a", field: "9" * 1_000_000})
            assert answer.status_code == 422
            assert len(answer.content) < 1000
        answer = explosive.client.get("/" + "x" * 10_000)
        assert answer.status_code == 404
        assert len(answer.content) < 1000


def _encoded(encoding: str) -> bytes:
    return '{"input": "bread"}'.encode(encoding)


@pytest.mark.parametrize(
    ("content", "headers", "words"),
    [
        (gzip.compress(_encoded("utf-8"), mtime=0), {"Content-Encoding": "gzip"}, "compressed (gzip)"),
        (gzip.compress(_encoded("utf-8"), mtime=0), {}, "compressed (gzip)"),
        (zlib.compress(_encoded("utf-8")), {"Content-Encoding": "deflate"}, "compressed (deflate)"),
        (zlib.compress(_encoded("utf-8")), {}, "compressed (deflate)"),
        (b"\x28\xb5\x2f\xfd...", {}, "compressed (zstd)"),
        (b"...", {"Content-Encoding": "br"}, "compressed (br)"),
        (_encoded("utf-8-sig"), {}, "byte order mark"),
        (_encoded("utf-16"), {}, "UTF-16"),
        (_encoded("utf-16-le"), {}, "UTF-16"),
        (_encoded("utf-16-be"), {}, "UTF-16"),
        (_encoded("utf-32"), {}, "UTF-"),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\nbread\r\n--x--\r\n", {}, "form"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed", "/embed", "/v2/embed"])
def test_bodies_that_are_not_json_in_utf_8(
    server: Server, path: str, content: bytes, headers: dict[str, str], words: str
) -> None:
    answer = server.client.post(path, content=content, headers=headers)
    assert answer.status_code == 415, answer.text
    assert words in message(answer)
    assert "plain JSON in UTF-8" in message(answer)


class TestRoutes:
    def test_what_ollamas_clients_ask_first(self, server: Server) -> None:
        answer = server.client.get("/")
        assert (answer.status_code, answer.text) == (200, "Ollama is running")
        assert answer.headers["Content-Type"].startswith("text/plain")
        answer = server.client.head("/")
        assert (answer.status_code, answer.content) == (200, b"")

    @pytest.mark.parametrize("path", ["/v1/models", "/models", "/api/v0/models"])
    def test_one_model(self, server: Server, path: str) -> None:
        rows = {row["id"]: row for row in server.client.get(path).json()["data"]}
        for name in ("pocket", "pocket-embedding", "tiny", "tiny:retrieval.query"):
            assert server.client.get(f"{path}/{name}").json() == rows[name.partition(":")[0].partition("-")[0]]
        for unknown in ("gpt-4", "jinaai/jina-embeddings-v9", "x" * 1000):
            assert server.client.get(f"{path}/{unknown}").status_code in (404, 422)

    def test_health_by_both_names(self, server: Server) -> None:
        assert server.client.get("/healthz").json().keys() == server.client.get("/health").json().keys()
