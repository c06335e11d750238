"""Requests to rerank, which take turns on their models' threads, beside embeddings and among themselves.

A reranker computes a request batch by batch, and between two batches the thread takes those of other requests. So
a short request waits for a batch, or for one prompt of a listwise model, and not for the end of a long request:
short and long ones have threads of their own to wait in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from mlx_jina import device
from mlx_jina.engine.reranking import Scored
from mlx_jina.server.capacity import TOKEN_BYTES

# Requests of each size that take turns; others wait.
TOGETHER = 2
# A request of more characters, documents and their queries together, is a long one.
LONG = 1 << 15
# Tokens of a batch on a CPU, whose cores embeddings wait for.
TURN_TOKENS = 1024


class Reranking:
    """Where requests to rerank wait and run. All but the functions that run belongs to the event loop."""

    def __init__(self) -> None:
        self._short, self._long = (
            ThreadPoolExecutor(TOGETHER, thread_name_prefix=f"mlx-jina-rerank-{size}")
            for size in ("short", "long")
        )
        self._seconds_per_token = 0.0
        self.waiting_tokens = 0
        """Tokens, by a guess from the characters, of requests that have no answer yet."""

    async def run(self, score: Callable[[], Scored], query: str, documents: list[str]) -> Scored:
        """What `score` returns, computed in a thread."""
        characters = sum(len(query) + len(document) for document in documents)
        tokens = characters // TOKEN_BYTES
        threads = self._long if characters > LONG else self._short
        self.waiting_tokens += tokens
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, score)
        finally:
            self.waiting_tokens -= tokens

    def observe(self, tokens: int, seconds: float) -> None:
        """Learn from a request how long its tokens took."""
        self._seconds_per_token += 0.1 * (seconds / max(1, tokens) - self._seconds_per_token)

    def seconds_ahead(self) -> float:
        """How long the waiting requests will take, at the speed of the last ones."""
        return self.waiting_tokens * self._seconds_per_token


def batch_tokens() -> int | None:
    """Tokens of a batch; None leaves them to the model."""
    return None if device.on_gpu() else TURN_TOKENS
