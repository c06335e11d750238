"""What does the server cost on top of the encoder? `pocket`, client and server on this machine.

    python -m bench.server [ROUNDS]

Prints a Markdown table of three ratios, each measured side by side in one run: throughput of 32 clients that
send one short text each against `encode` of the same texts; the time of a lone request against that of `encode`;
and single queries while an 8,192-token document is embedded against the same queries without it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from statistics import median, quantiles

import mlx_jina
from mlx_jina import device
from tests.server.process import Server

CLIENTS = 32
SUBJECTS = "bread soup tea music light rivers trains gardens paper winter stars maps".split()
TEXTS = [f"How do I find out more about {a} and {b}?" for a in SUBJECTS for b in SUBJECTS for _ in range(4)]
DOCUMENT_TOKENS = 8192


class Client:
    """One kept connection, and no more work per request than HTTP asks for: the server is what is measured."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def open(self) -> Client:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def embed(self, text: str) -> float:
        """Seconds until the answer was there."""
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
    clients = [await Client(port).open() for _ in range(CLIENTS)]
    left = iter(texts)

    async def work(client: Client) -> None:
        for text in left:
            await client.embed(text)

    start = time.perf_counter()
    await asyncio.gather(*map(work, clients))
    return len(texts) / (time.perf_counter() - start)


async def alone(port: int, texts: Sequence[str]) -> list[float]:
    """Seconds of each request, one after another."""
    client = await Client(port).open()
    return [await client.embed(text) for text in texts]


async def beside(port: int, document: str) -> list[float]:
    """Seconds of queries that are sent one after another while a document is embedded."""
    long, short = await Client(port).open(), await Client(port).open()
    busy = asyncio.create_task(long.embed(document))
    # The document is read and tokenised first.
    await asyncio.sleep(0.2)
    times: list[float] = []
    while not busy.done():
        times.append(await short.embed(TEXTS[len(times) % len(TEXTS)]))
    await busy
    # The last one may have had the machine to itself.
    return times[:-1]


def seconds(model: mlx_jina.Encoder, texts: Sequence[str]) -> float:
    """Of one call."""
    start = time.perf_counter()
    model.encode(texts)
    return time.perf_counter() - start


def p95(times: Sequence[float]) -> float:
    """The time that one in twenty exceeds."""
    return quantiles(times, n=20)[-1]


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if sys.argv[1:] else 3
    model = mlx_jina.load("pocket")
    own = model.count_tokens("bread ")[0] - model.count_tokens("")[0]
    document = "bread " * ((DOCUMENT_TOKENS - model.count_tokens("")[0]) // own)
    count = model.count_tokens(TEXTS[0])[0]
    batch = TEXTS[: min(len(TEXTS), device.default_batch_tokens() // count)]
    print(f"Backend {device.backend()}, {device.blas()}; {count} tokens per short text\n")
    throughput, extra, during = [], [], []
    with Server("pocket", "--preload") as server:
        seconds(model, TEXTS)
        asyncio.run(many(server.port, TEXTS))
        for _ in range(rounds):
            offline = len(TEXTS) / seconds(model, TEXTS)
            throughput.append((asyncio.run(many(server.port, TEXTS)), offline))
            inside = median(seconds(model, [text]) for text in TEXTS[:60])
            extra.append((median(asyncio.run(alone(server.port, TEXTS[:60]))), inside))
            idle = p95(asyncio.run(alone(server.port, TEXTS[:60])))
            during.append((p95(asyncio.run(beside(server.port, document))), idle, seconds(model, batch)))
    print("| | server | encoder | bar |\n|---|---|---|---|")
    for served, offline in throughput:
        ratio = served / offline
        print(f"| {CLIENTS} clients, texts/s | {served:.0f} | {offline:.0f} | {ratio:.0%} of at least 70 % |")
    for request, call in extra:
        more = (request - call) * 1e3
        print(f"| one request, ms | {request * 1e3:.1f} | {call * 1e3:.1f} | {more:+.1f} of at most +5 |")
    for slow, idle, one in during:
        most = 3 * idle + one
        print(
            f"| p95 beside {DOCUMENT_TOKENS:,} tokens, ms | {slow * 1e3:.0f} | idle {idle * 1e3:.0f}, "
            f"a batch {one * 1e3:.0f} | {slow / most:.0%} of at most 100 % |"
        )


if __name__ == "__main__":
    main()
