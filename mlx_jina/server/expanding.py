"""Other words for the questions of requests, by one language model: one question at a time, and few that wait."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from mlx_jina.errors import MlxJinaError
from mlx_jina.search.database import Cancelled
from mlx_jina.search.expansion import Expander, Expansion

if TYPE_CHECKING:
    from collections.abc import Iterator

# Questions that wait for their turn or have it, since each holds a thread of the server. One more is searched for
# in its own words, which its answer says.
MOST = 4
# The same question always gets the same words, so those of the last ones need not be made again.
REMEMBERED = 256
# Seconds between two looks at whether the client is still there.
PATIENCE = 0.05


class Expanding:
    """A language model that all requests share. Its methods may be called from any thread."""

    def __init__(self, name: str, model: Expander) -> None:
        self.name = name
        """As it was named at the start; requests may repeat it, and name no other."""
        self._expand = lru_cache(REMEMBERED)(model.expand)
        self._turn = threading.Lock()
        self._places = threading.BoundedSemaphore(MOST)

    def expand(self, query: str, cancelled: Callable[[], bool]) -> Expansion:
        """Rewordings, and a supposed answer. Raises Cancelled, and MlxJinaError if too many wait."""
        if not self._places.acquire(blocking=False):
            raise MlxJinaError(f"the language model is busy with {MOST} other questions")
        try:
            with self._having_turn(cancelled):
                return self._expand(query)
        finally:
            self._places.release()

    @contextmanager
    def _having_turn(self, cancelled: Callable[[], bool]) -> Iterator[None]:
        while not self._turn.acquire(timeout=PATIENCE):
            if cancelled():
                raise Cancelled
        try:
            yield
        finally:
            self._turn.release()


@dataclass(frozen=True)
class RequestExpander:
    """An `Expander` for one request, whose client may hang up."""

    expanding: Expanding
    cancelled: Callable[[], bool]

    def expand(self, query: str, /) -> Expansion:
        """What `Expanding.expand` returns and raises."""
        return self.expanding.expand(query, self.cancelled)
