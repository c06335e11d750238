"""Inputs that would cost unbounded time or memory are cut or refused, and the server goes on."""

from __future__ import annotations

import asyncio
import subprocess
import time
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
    text = unit * (6_000_000 // len(unit))
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
