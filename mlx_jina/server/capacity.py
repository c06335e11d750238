"""How much may be under way at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlx_jina.server.errors import ApiError


class Capacity:
    """Room for a number of requests, from their first byte to their vectors, and for the bytes of their bodies."""

    def __init__(self, requests: int, size: int, seconds_ahead: Callable[[], float]) -> None:
        """`seconds_ahead` estimates how long the waiting texts will take."""
        self._requests = requests
        self._size = size
        self._seconds_ahead = seconds_ahead
        self.requests = 0
        self.size = 0

    @contextmanager
    def one(self) -> Iterator[Slot]:
        """A slot for one request until the end of the block. Raises ApiError 503 when all slots are taken."""
        if self.requests >= self._requests:
            raise self._full()
        self.requests += 1
        slot = Slot(self)
        try:
            yield slot
        finally:
            self.requests -= 1
            self.size -= slot.size

    def take(self, size: int) -> None:
        """Count bytes of a body. Raises ApiError 503 without room for them; a lone request always has room."""
        if self.size + size > self._size and self.requests > 1:
            raise self._full()
        self.size += size

    def _full(self) -> ApiError:
        seconds = min(max(round(self._seconds_ahead()), 1), 60)
        return ApiError(
            503,
            f"the server has {self.requests} requests under way; try again in {seconds} s",
            "overloaded",
            headers={"Retry-After": str(seconds)},
        )


class Slot:
    """One request's share of the capacity."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self.size = 0

    def grow(self, size: int) -> None:
        """Count more bytes of the request's body."""
        self._capacity.take(size)
        self.size += size
