"""Limit connections and the heads of requests, and answer clients that close their side early."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

logger = logging.getLogger("mlx_jina.server")

# Bytes of a request's line and headers, of what stands between pieces of its body, and of what follows the body.
HEAD_BYTES = 1 << 16
# A connection that has waited for so long without a request makes room for a new one.
IDLE_SECONDS = 2.0
# A refused client may go on sending for so long before its connection is closed, since a closed one would take
# back the answer. More than `LINGERING` such clients do not fit beside the connections.
LINGER_SECONDS = 1.0
LINGERING = 32
# Connections that are accepted at a time, before one of them is counted.
ACCEPTED = 32
# Seconds until the first look at whether a client that closed its side is still there.
LOOK_SECONDS = 0.05

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def answer(status: int, body: bytes, *headers: bytes) -> bytes:
    """An answer in JSON that ends its connection, as bytes."""
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode(),
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        b"Connection: close",
        *headers,
    )
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def seldom(write: Callable[[str], object], seconds: float = 60) -> Callable[[str], None]:
    """`write` at most once in so many seconds; what would come in between is dropped."""
    last = float("-inf")

    def maybe(words: str) -> None:
        nonlocal last
        now = asyncio.get_running_loop().time()
        if now - last >= seconds:
            last = now
            write(words)

    return maybe


def protocol(
    base: type[HttpToolsProtocol], most: int, *, too_large: bytes, too_many: bytes, malformed: bytes
) -> type[HttpToolsProtocol]:
    """`base` with limits, for `uvicorn.Config`.

    - A request whose head has more than `HEAD_BYTES` gets the answer `too_large`, without being read further.
      uvicorn itself keeps heads of any size, before anybody checks who sends them.
    - Of `most` connections, one that has been idle makes room for a new one; if none is idle, the new one gets the
      answer `too_many`. Beyond the system's limit of open files nothing could be accepted, and no file opened.
    - What is no HTTP gets the answer `malformed`.
    - A client that closes its own side after its request, as some do, gets its answer. uvicorn drops it.
    """
    # Connections without a whole head, and since when, the longest first.
    idle: dict[HttpToolsProtocol, float] = {}
    lingering = 0
    warn = seldom(logger.warning)

    class Connection(base):  # type: ignore[misc, valid-type]
        _unread = 0
        _refused = False

        # ---- how many

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(cast(asyncio.Transport, transport))
            idle[self] = self.loop.time()
            if len(self.connections) > most:
                self._make_room()

        def connection_lost(self, exc: Exception | None) -> None:
            nonlocal lingering
            lingering -= self._refused
            idle.pop(self, None)
            super().connection_lost(exc)

        def _make_room(self) -> None:
            longest = next(iter(idle))
            if self.loop.time() - idle[longest] >= IDLE_SECONDS:
                del idle[longest]
                longest.transport.close()
            else:
                warn(f"more than {most} connections at once; further clients get 503")
                self._refuse(too_many)

        # ---- the head

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self in idle:
                del idle[self]
                idle[self] = self.loop.time()

        def on_headers_complete(self) -> None:
            self._unread = 0
            idle.pop(self, None)
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._unread = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._unread = 0
            super().on_message_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self.transport.is_closing() and self.cycle.response_complete:
                idle[self] = self.loop.time()

        def data_received(self, data: bytes) -> None:
            while data and not self._refused and not self.transport.is_closing():
                room = HEAD_BYTES - self._unread
                piece, data = data[:room], data[room:]
                self._unread += len(piece)
                super().data_received(piece)
                if self._unread >= HEAD_BYTES and not self.transport.is_closing():
                    self._refuse(too_large)

        def send_400_response(self, msg: str) -> None:
            self._refuse(malformed)

        def _refuse(self, words: bytes) -> None:
            """Answer, and hear no more of what the client sends."""
            nonlocal lingering
            cycle = self.cycle
            if cycle is None or cycle.response_complete or not cycle.response_started:
                self.transport.write(words)
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
            idle.pop(self, None)
            if lingering >= LINGERING:
                self.transport.close()
                return
            self._refused = True
            lingering += 1
            self.flow.resume_reading()
            self.transport.write_eof()
            self.loop.call_later(LINGER_SECONDS, self.transport.close)

        # ---- the client's end

        def eof_received(self) -> bool:
            cycle = self.cycle
            waits = cycle is not None and not cycle.more_body and not cycle.response_complete
            if self._refused or not waits:
                return False
            cycle.keep_alive = False
            if cycle.scope["http_version"] == "1.1" and not cycle.response_started:
                # A client that is gone altogether refuses this, and one that is there skips it.
                self.transport.write(_CONTINUE)
                self.loop.call_later(LOOK_SECONDS, self._look, LOOK_SECONDS)
            return True

        def _look(self, seconds: float) -> None:
            if self.transport.is_closing():
                return
            connection = self.transport.get_extra_info("socket")
            if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.transport.abort()
            else:
                seconds = min(2 * seconds, 5)
                self.loop.call_later(seconds, self._look, seconds)

    return Connection
