"""Drop clients that do not send the rest of their request, or do not read their answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Connection(HttpToolsProtocol):
    """A connection whose client has to send its requests, and to read its answers, without long pauses.

    By itself uvicorn waits for ever for the rest of a request, and keeps an answer for ever until the client reads
    it.
    """

    seconds: ClassVar[float]
    too_late: ClassVar[bytes]
    hung_up: ClassVar[Callable[[], None]]
    _stalled: asyncio.TimerHandle | None = None
    _begun: asyncio.TimerHandle | None = None
    _whole = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        # With this, `pause_writing` is called for every unsent byte, and not only for the 65,536th.
        self.transport.set_write_buffer_limits(high=0)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._whole = True
        self._expect()
        self._unwatch()

    # ---- the request

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._whole = False

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._whole = True
        self._expect()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect()

    def _expect(self) -> None:
        """Run the clock while a request is incomplete."""
        if self._whole and self._begun is not None:
            self._begun.cancel()
            self._begun = None
        elif not self._whole and self._begun is None:
            self._begun = self.loop.call_later(self.seconds, self._judge_request)

    def _judge_request(self) -> None:
        self._begun = None
        if self.flow.read_paused:
            # The server itself has stopped reading, so the client is not to blame.
            self._expect()
            return
        if self.cycle is None or not self.cycle.response_started:
            self.transport.write(self.too_late)
        self.transport.close()

    # ---- the answer

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unwatch()

    def _watch(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(self.seconds, self._judge_reading, unsent)

    def _unwatch(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()

    def _judge_reading(self, unsent: int) -> None:
        if self.transport.get_write_buffer_size() < unsent:
            self._watch()
        else:
            type(self).hung_up()
            self.transport.abort()


def protocol(seconds: float, too_late: bytes, hung_up: Callable[[], None]) -> type[Connection]:
    """The protocol for `uvicorn.Config`, which drops clients that stop sending or stop reading.

    A request that is not whole after `seconds` gets the answer `too_late`. A client that has read nothing more of
    its answer for `seconds` loses its connection, and `hung_up` is called.
    """
    attributes = {"seconds": seconds, "too_late": too_late, "hung_up": staticmethod(hung_up)}
    return type("Connection", (Connection,), attributes)
