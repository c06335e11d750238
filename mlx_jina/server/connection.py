"""Connections whose clients must read what they asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def protocol(seconds: float, hung_up: Callable[[], None]) -> type[HttpToolsProtocol]:
    """The protocol for `uvicorn.Config`, which drops clients that stop reading.

    By itself uvicorn keeps an answer until its client has read it, for ever if it never does. Here a client that
    has read nothing more of it for that many seconds loses its connection, and `hung_up` is called.
    """

    class Connection(HttpToolsProtocol):
        _stalled: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(cast(asyncio.Transport, transport))
            # `pause_writing` and `resume_writing` then tell of every unsent byte, not of the 65,536th.
            self.transport.set_write_buffer_limits(high=0)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._watch()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._unwatch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._unwatch()

        def _watch(self) -> None:
            unsent = self.transport.get_write_buffer_size()
            self._stalled = self.loop.call_later(seconds, self._judge, unsent)

        def _unwatch(self) -> None:
            if self._stalled is not None:
                self._stalled.cancel()

        def _judge(self, unsent: int) -> None:
            if self.transport.get_write_buffer_size() < unsent:
                self._watch()
            else:
                hung_up()
                self.transport.abort()

    return Connection
