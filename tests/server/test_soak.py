"""Twice the load that the server can carry, from clients of all kinds, for as long as asked."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import subprocess
import time
from collections import Counter
from pathlib import Path

import httpx2
import numpy as np
import pytest

import mlx_jina
from mlx_jina import Encoder
from mlx_jina.vectors import Floats
from tests.support import reranker_checkpoints
from tests.support.process import Server
from tests.support.tolerance import bound

WORDS = "bread water flour salt starter oven crust rye spelt knead rise fold bake light music city".split()
MALFORMED = (b"", b"{", b'{"input": 7}', b'{"input": [[1]]}', b'{"input": ["a", null]}', b"\x00\xff" * 100)


class Texts:
    """Texts of mixed lengths, and the vectors that the offline encoder gives them."""

    def __init__(self, encoder: Encoder, count: int) -> None:
        self.random = random.Random(0)
        lengths = [min(int(self.random.lognormvariate(2.5, 1)) + 1, 600) for _ in range(count)]
        self.texts = [" ".join(self.random.choices(WORDS, k=length)) for length in lengths]
        self.vectors: Floats = encoder.encode(self.texts)

    def some(self) -> list[int]:
        """Indices for one request: mostly a query, at times a bulk."""
        count = 1 if self.random.random() < 0.7 else self.random.randint(2, 60)
        return self.random.choices(range(len(self.texts)), k=count)


class Reranks:
    """Queries and documents for two rerankers, and the scores that they give offline."""

    def __init__(self, root: Path, documents: list[str]) -> None:
        self.random = random.Random(1)
        self.folders = {
            "pairs": reranker_checkpoints.v2(root / "v2"),
            "list": reranker_checkpoints.v3(root / "v3"),
        }
        self.documents = documents
        self.queries = [" ".join(self.random.choices(WORDS, k=3)) for _ in range(4)]
        pairs, listwise = (mlx_jina.load_reranker(folder) for folder in self.folders.values())
        self.scores = {query: pairs.score(query, documents) for query in self.queries}
        # A list has scores of its own, so that lists are few.
        self.lists = [self.random.choices(range(len(documents)), k=k) for k in (1, 2, 5, 12, 30)]
        self.of_lists = {
            (query, number): listwise.score(query, [documents[i] for i in chosen])
            for query in self.queries
            for number, chosen in enumerate(self.lists)
        }

    @property
    def models(self) -> list[str]:
        """Arguments of the server."""
        return [f"{name}={folder}" for name, folder in self.folders.items()]

    def some(self) -> tuple[dict[str, object], Floats]:
        """A request, and its scores by index."""
        query = self.random.choice(self.queries)
        if self.random.random() < 0.3:
            number = self.random.randrange(len(self.lists))
            chosen, scores, model = self.lists[number], self.of_lists[query, number], "list"
        else:
            chosen = self.random.choices(range(len(self.documents)), k=self.random.randint(1, 40))
            scores, model = self.scores[query][chosen], "pairs"
        documents = [self.documents[i] for i in chosen]
        return {"model": model, "query": query, "documents": documents, "return_documents": False}, scores


class Crowd:
    """Clients that come at a rate of their own, whatever the server does, and what became of them."""

    def __init__(self, server: Server, texts: Texts, reranks: Reranks | None = None) -> None:
        self.server = server
        self.texts = texts
        self.reranks = reranks
        self.ends: Counter[str] = Counter()
        self.client = httpx2.AsyncClient(
            base_url=server.url, timeout=300, limits=httpx2.Limits(max_connections=None)
        )

    async def one(self) -> None:
        """A client of a random kind."""
        kinds = (self.ordinary, self.vanishing, self.malformed, self.slow)
        await self.texts.random.choices(kinds, weights=(80, 10, 8, 2))[0]()

    async def ordinary(self) -> None:
        """Every answer is right, or says that the server is full and when to come back."""
        if self.reranks is not None and self.texts.random.random() < 0.4:
            await self.reranking(self.reranks)
            return
        indices = self.texts.some()
        body = {"input": [self.texts.texts[i] for i in indices], "encoding_format": "base64"}
        answer = await self.client.post("/v1/embeddings", json=body)
        if answer.status_code == 503:
            assert int(answer.headers["Retry-After"]) >= 1
        else:
            assert answer.status_code == 200, answer.text
            rows = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in answer.json()["data"]]
            np.testing.assert_allclose(rows, self.texts.vectors[indices], atol=bound(1e-5))
        self.ends[f"answered {answer.status_code}"] += 1

    async def reranking(self, reranks: Reranks) -> None:
        """Scores are those of `Reranker.score`, in falling order."""
        body, scores = reranks.some()
        answer = await self.client.post("/v1/rerank", json=body)
        if answer.status_code == 503:
            assert int(answer.headers["Retry-After"]) >= 1
        else:
            assert answer.status_code == 200, answer.text
            rows = answer.json()["results"]
            found = [row["relevance_score"] for row in rows]
            assert found == sorted(found, reverse=True)
            np.testing.assert_allclose(found, scores[[row["index"] for row in rows]], atol=bound(2e-6))
        self.ends[f"reranked {answer.status_code}"] += 1

    async def vanishing(self) -> None:
        """Does not wait for its answer."""
        path = "/v1/embeddings"
        body: dict[str, object] = {"input": [self.texts.texts[i] for i in self.texts.some()]}
        if self.reranks is not None and self.texts.random.random() < 0.4:
            path, body = "/v1/rerank", self.reranks.some()[0]
        try:
            await self.client.post(path, json=body, timeout=self.texts.random.uniform(0.001, 0.5))
        except httpx2.TimeoutException:
            self.ends["vanished"] += 1

    async def malformed(self) -> None:
        """Is told so."""
        answer = await self.client.post("/v1/embeddings", content=self.texts.random.choice(MALFORMED))
        assert answer.status_code in (400, 422, 503), answer.text
        self.ends[f"malformed {answer.status_code}"] += 1

    async def slow(self) -> None:
        """Reads a large answer in small pieces."""
        indices = self.texts.random.choices(range(len(self.texts.texts)), k=100)
        body = json.dumps({"input": [self.texts.texts[i] for i in indices]}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port, limit=4096)
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        answer = bytearray()
        while piece := await reader.read(16384):
            answer += piece
            await asyncio.sleep(0.02)
        writer.close()
        status = int(answer.split(maxsplit=2)[1])
        if status == 200:
            data = json.loads(answer.partition(b"\r\n\r\n")[2])["data"]
            rows = [row["embedding"] for row in data]
            np.testing.assert_allclose(rows, self.texts.vectors[indices], atol=bound(1e-5))
        self.ends[f"slow {status}"] += 1


def resident_megabytes(server: Server) -> float:
    shown = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(server.process.pid)], capture_output=True, text=True, check=True
    )
    return int(shown.stdout) / 1024


async def capacity(crowd: Crowd, seconds: float) -> float:
    """Ordinary requests a second that sixteen clients get answered, one after another."""
    end = time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < end:
            await crowd.ordinary()

    await asyncio.gather(*(client() for _ in range(16)))
    return crowd.ends.total() / (time.monotonic() - end + seconds)


async def soak(
    server: Server, texts: Texts, seconds: float, reranks: Reranks | None = None
) -> tuple[Counter[str], list[float]]:
    """What became of the clients, and the server's memory over time."""
    crowd = Crowd(server, texts, reranks)
    rate = 2 * await capacity(crowd, min(seconds / 3, 20))
    clients: set[asyncio.Task[None]] = set()
    failures: list[BaseException] = []
    memory = []

    def ended(task: asyncio.Task[None]) -> None:
        clients.discard(task)
        if (error := task.exception()) is not None:
            failures.append(error)

    start = time.monotonic()
    sampled = start
    while (now := time.monotonic()) < start + seconds and not failures:
        task = asyncio.create_task(crowd.one())
        clients.add(task)
        task.add_done_callback(ended)
        if now - sampled > seconds / 60:
            memory.append(resident_megabytes(server))
            sampled = now
        await asyncio.sleep(texts.random.expovariate(rate))
    await asyncio.gather(*clients, return_exceptions=True)
    await crowd.client.aclose()
    if failures:
        print(crowd.ends, memory, server.client.get("/health").text)
        raise failures[0]
    return crowd.ends, memory


@pytest.mark.slow
def test_soak(pocket: Encoder) -> None:
    with Server("--preload", "--max-waiting", 0.016) as server:
        ends, memory = asyncio.run(soak(server, Texts(pocket, 300), seconds=600))
        print(dict(ends), [round(each) for each in memory])
        assert {end for end in ends if end.endswith("500")} == set()
        assert server.client.get("/health").json()["waiting_tokens"] == 0
        assert server.metric("requests_under_way") == 0
        assert all(
            ends[kind] for kind in ("answered 200", "answered 503", "vanished", "malformed 400", "slow 200")
        )
        early, late = max(memory[len(memory) // 5 : len(memory) // 2]), max(memory[-len(memory) // 3 :])
        assert late < 1.1 * early + 20, memory
        assert server.stop() == 0
        assert "Traceback" not in server.log
        assert "ERROR" not in server.log


@pytest.mark.parametrize(
    ("seconds", "texts", "tokens"), [(2, 20, 4000), pytest.param(300, 100, 16000, marks=pytest.mark.slow)]
)
def test_soak_of_embeddings_and_reranks(
    pocket: Encoder, tmp_path: Path, seconds: float, texts: int, tokens: int
) -> None:
    given = Texts(pocket, texts)
    reranks = Reranks(tmp_path, [text[:300] for text in given.texts])
    with Server("--max-waiting", tokens / 1e6, "pocket", *reranks.models) as server:
        ends, memory = asyncio.run(soak(server, given, seconds, reranks))
        print(dict(ends), [round(each) for each in memory])
        assert ends["answered 200"] + ends["reranked 200"] > seconds
        assert {end for end in ends if end.endswith("500")} == set()
        assert server.client.get("/health").json()["waiting_tokens"] == 0
        assert server.metric("requests_under_way") == 0
        if seconds > 60:
            assert all(ends[kind] for kind in ("reranked 200", "reranked 503", "answered 200", "vanished"))
            early, late = max(memory[len(memory) // 5 : len(memory) // 2]), max(memory[-len(memory) // 3 :])
            assert late < 1.1 * early + 20, memory
        assert server.stop() == 0
        assert "Traceback" not in server.log
        assert "ERROR" not in server.log
