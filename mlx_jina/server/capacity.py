"""How much may be under way at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlx_jina.server.errors import ApiError

# Bytes of a body for one token, roughly: texts are counted before they are tokenised.
TOKEN_BYTES = 4


class Capacity:
    """Room for tokens, from when a request's body has arrived to its vectors, and for the bytes of all bodies.

    The number of requests does not count, since some clients send every text in a request of its own, all at
    once. How many there can be is the number of connections.
    """

    def __init__(self, tokens: int, size: int, seconds_ahead: Callable[[], float]) -> None:
        """`seconds_ahead` estimates how long the waiting texts will take."""
        self._most_tokens = tokens
        self._most_bytes = size
        self._seconds_ahead = seconds_ahead
        self._open = 0
        self._tokens = 0
        self._bytes = 0
        self.requests = 0
        """Requests whose body has arrived, and that have no answer yet."""

    @contextmanager
    def one(self) -> Iterator[Slot]:
        """A slot for one request until the end of the block."""
        slot = Slot(self)
        self._open += 1
        try:
            yield slot
        finally:
            self._open -= 1
            self._bytes -= slot.bytes
            self._tokens -= slot.tokens
            self.requests -= slot.tokens > 0

    def take(self, slot: Slot, size: int) -> None:
        """Count bytes of a body. Raises ApiError 503 without room for them; a lone request always has room."""
        if self._bytes + size > self._most_bytes and self._open > 1:
            raise self._full()
        slot.bytes += size
        self._bytes += size

    def enter(self, slot: Slot) -> None:
        """Count tokens of a body that is whole. Raises ApiError 503; a lone request always has room."""
        tokens = 1 + slot.bytes // TOKEN_BYTES
        if self._tokens + tokens > self._most_tokens and self.requests:
            raise self._full()
        slot.tokens = tokens
        self._tokens += tokens
        self.requests += 1

    def _full(self) -> ApiError:
        seconds = min(max(round(self._seconds_ahead()), 1), 60)
        return ApiError(
            503,
            f"the server has {self.requests} requests of some {self._tokens} tokens under way; try again in "
            f"{seconds} s",
            "overloaded",
            headers={"Retry-After": str(seconds)},
        )


class Slot:
    """One request's share of the capacity."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self.bytes = 0
        self.tokens = 0

    def grow(self, size: int) -> None:
        """Count more bytes of the request's body."""
        self._capacity.take(self, size)

    def enter(self) -> None:
        """Take a place among the requests whose body has arrived."""
        self._capacity.enter(self)
