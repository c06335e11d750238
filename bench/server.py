"""What does the server cost on top of the encoder? `pocket`, client and server on this machine."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from statistics import median, quantiles

import mlx_jina
from bench import harness
from bench.harness import Options, Section
from mlx_jina import device
from tests.support.process import Server

MODEL = "pocket"
CLIENTS = 32
SUBJECTS = "bread soup tea music light rivers trains gardens paper winter stars maps".split()
TEXTS = [f"How do I find out more about {a} and {b}?" for a in SUBJECTS for b in SUBJECTS for _ in range(4)]
# The same number of texts with 1 to 24 words each.
_words = random.Random(0)
MIXED = [" ".join(_words.choices(" ".join(TEXTS).split(), k=_words.randint(1, 24))) for _ in TEXTS]
# How often the clients send all texts, so that the start, and the end with few clients, hardly count.
REPEATS = 4
QUICK_TEXTS = 96
QUERIES = 60
DOCUMENT_TOKENS = 8192
# Goals: a share of the encoder's speed; milliseconds; a share of three idle requests and one batch of the encoder.
LEAST_THROUGHPUT, MOST_MORE, MOST_WAIT = 70, 5, 100


def run(options: Options) -> Section:
    """Throughput of many clients, the time of a lone request, and queries beside long documents."""
    model = mlx_jina.load(MODEL)
    count = model.count_tokens(TEXTS[0])[0]
    own = model.count_tokens("bread ")[0] - model.count_tokens("")[0]
    document = "bread " * ((DOCUMENT_TOKENS - model.count_tokens("")[0]) // own)
    batch = TEXTS[: min(len(TEXTS), device.default_batch_tokens() // count)]
    loads = {"one length": TEXTS, "mixed lengths": MIXED}
    loads = {of: texts[:QUICK_TEXTS] if options.quick else texts * REPEATS for of, texts in loads.items()}
    section = Section(
        "Server under load",
        f"`mlx-jina serve {MODEL}` and `encode` of the same texts, in turn on this machine, clients included. "
        f"First {CLIENTS} clients that each send one text after another, beside one call of `encode` for all "
        f"texts: once of {count} tokens each, once of 1 to 24 words; then one request alone beside one call; "
        f"then the 95th percentile of single queries while documents of {DOCUMENT_TOKENS:,} tokens are embedded, "
        "beside the same queries without them and one whole batch of the encoder, which nothing interrupts. "
        "'reached' is taken round by round.",
    )
    throughput: dict[str, list[tuple[float, float]]] = {of: [] for of in loads}
    lone, waiting = [], []
    with Server(MODEL, "--preload") as server:
        for texts in loads.values():
            seconds(model, texts)
            asyncio.run(many(server.port, texts))
        for _ in range(options.rounds):
            for of, texts in loads.items():
                offline = len(texts) / seconds(model, texts)
                throughput[of].append((asyncio.run(many(server.port, texts)), offline))
            inside = median(seconds(model, [text]) for text in TEXTS[:QUERIES])
            lone.append((1e3 * median(asyncio.run(alone(server.port))), 1e3 * inside))
            idle = 1e3 * p95(asyncio.run(alone(server.port)))
            slow = 1e3 * p95(asyncio.run(beside(server.port, document)))
            waiting.append((slow, idle, 1e3 * seconds(model, batch)))
    section.rows += [
        {
            "model": MODEL,
            "weights": "real",
            "measured": f"{CLIENTS} clients, {of}, texts/s",
            "server": harness.spread([a for a, _ in rates]),
            "encoder": harness.spread([b for _, b in rates]),
            "server, idle": None,
            "goal": f"at least {LEAST_THROUGHPUT} % of the encoder",
            "reached": harness.spread([100 * a / b for a, b in rates]),
        }
        for of, rates in throughput.items()
    ]
    section.rows += [
        {
            "model": MODEL,
            "weights": "real",
            "measured": "one request, ms",
            "server": harness.spread([a for a, _ in lone]),
            "encoder": harness.spread([b for _, b in lone]),
            "goal": f"at most {MOST_MORE} ms above the encoder",
            "reached": harness.spread([a - b for a, b in lone]),
        },
        {
            "model": MODEL,
            "weights": "real",
            "measured": "95th percentile beside documents, ms",
            "server": harness.spread([a for a, _, _ in waiting]),
            "encoder": harness.spread([c for _, _, c in waiting]),
            "server, idle": harness.spread([b for _, b, _ in waiting]),
            "goal": f"at most {MOST_WAIT} % of 3 x idle + encoder",
            "reached": harness.spread([100 * a / (3 * b + c) for a, b, c in waiting]),
        },
    ]
    return section


class Client:
    """One open connection, with as little work per request as possible, so that the server's work is measured."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Client:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def embed(self, text: str) -> float:
        """Send a request; seconds until the answer was complete."""
        body = json.dumps({"input": text, "encoding_format": "base64"}).encode()
        start = time.perf_counter()
        self._writer.write(
            b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length:"))
        await self._reader.readexactly(int(length.split(b":")[1]))
        return time.perf_counter() - start


async def many(port: int, texts: Sequence[str]) -> float:
    """Texts a second of all clients together."""
    left = iter(texts)

    async def work(client: Client) -> None:
        for text in left:
            await client.embed(text)

    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(port)) for _ in range(CLIENTS)]
        start = time.perf_counter()
        await asyncio.gather(*map(work, clients))
        return len(texts) / (time.perf_counter() - start)


async def alone(port: int) -> list[float]:
    """Seconds of each of several queries in a row."""
    async with Client(port) as client:
        return [await client.embed(text) for text in TEXTS[:QUERIES]]


async def beside(port: int, document: str) -> list[float]:
    """Seconds of each query, one after another, while a document is embedded again and again."""
    finished = asyncio.Event()

    async def work() -> None:
        async with Client(port) as client:
            while not finished.is_set():
                await client.embed(document)

    busy = asyncio.create_task(work())
    # The document is read and tokenised first.
    await asyncio.sleep(0.2)
    times = await alone(port)
    finished.set()
    await busy
    return times


def seconds(model: mlx_jina.Encoder, texts: Sequence[str]) -> float:
    """Of one call."""
    start = time.perf_counter()
    model.encode(texts)
    return time.perf_counter() - start


def p95(times: Sequence[float]) -> float:
    """The time that one in twenty exceeds."""
    return quantiles(times, n=20)[-1]
