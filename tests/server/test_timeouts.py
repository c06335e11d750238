"""What becomes of clients that do not finish their request, or do not read what they asked for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from mlx_jina.server import connections, timeouts

SECONDS = 0.3
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST_GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"


class Site:
    """One page for everybody, over sockets that hold as little as the kernel lets them."""

    def __init__(self, size: int, app: ASGIApp | None = None) -> None:
        self.hung_up = 0
        self.state = ServerState()
        self._config = uvicorn.Config(app or Response(bytes(size)), lifespan="off", log_config=None)
        self._protocol = timeouts.protocol(SECONDS, connections.answer(408, b"too late"), self._gone)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    def _gone(self) -> None:
        self.hung_up += 1

    @asynccontextmanager
    async def visited(self, request: bytes) -> AsyncIterator[socket.socket]:
        """A client that has sent its request, or part of it, and read nothing yet."""
        loop = asyncio.get_running_loop()
        serving = await loop.create_server(
            lambda: self._protocol(config=self._config, server_state=self.state, app_state={}),
            sock=self._listener,
        )
        async with serving:
            with socket.socket() as client:
                client.setblocking(False)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                await loop.sock_connect(client, self._listener.getsockname())
                await loop.sock_sendall(client, request)
                yield client


async def read(client: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    got = b""
    while piece := await asyncio.get_running_loop().sock_recv(client, 4096):
        got += piece
    return got


@pytest.mark.parametrize("request_", [GET, LAST_GET])
@pytest.mark.parametrize("size", [1 << 15, 1 << 22])
def test_who_reads_nothing_loses_the_connection(size: int, request_: bytes) -> None:
    async def work() -> None:
        site = Site(size)
        async with site.visited(request_):
            while not site.state.connections:
                await asyncio.sleep(0.01)
            while site.state.connections:
                await asyncio.sleep(0.01)
            assert site.hung_up == 1
            assert not site.state.tasks

    asyncio.run(asyncio.wait_for(work(), 20))


def test_who_reads_slowly_gets_it_all() -> None:
    async def work() -> None:
        site = Site(1 << 18)
        async with site.visited(LAST_GET) as client:
            loop = asyncio.get_running_loop()
            started = loop.time()
            got = bytearray()
            while piece := await loop.sock_recv(client, 4096):
                got += piece
                await asyncio.sleep(SECONDS / 20)
            assert loop.time() - started > 2 * SECONDS
            assert got.endswith(bytes(1 << 18))
            assert site.hung_up == 0

    asyncio.run(asyncio.wait_for(work(), 20))


class TestRequestsThatStop:
    """They are answered with 408, however far they came."""

    @pytest.mark.parametrize("request_", [b"", b"GET / HT", GET[:-2], POST, POST + b"ab"])
    def test_within_a_request(self, request_: bytes) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await Request(scope, receive).body()
            except ClientDisconnect:
                left.append(scope["path"])

        left: list[str] = []

        async def work() -> None:
            site = Site(0, app)
            async with site.visited(request_) as client:
                answer = await read(client)
                assert answer.startswith(b"HTTP/1.1 408 ")
                assert answer.endswith(b"\r\n\r\ntoo late")
                while site.state.connections or site.state.tasks:
                    await asyncio.sleep(0.01)
            assert left == (["/"] if request_.startswith(POST) else [])

        asyncio.run(asyncio.wait_for(work(), 20))

    def test_a_body_that_was_refused_before_its_end(self) -> None:
        async def work() -> None:
            site = Site(3)
            async with site.visited(POST + b"a") as client:
                answer = await read(client)
                assert answer.startswith(b"HTTP/1.1 200 ")
                assert b"408" not in answer

        asyncio.run(asyncio.wait_for(work(), 20))

    def test_the_next_request_on_a_connection_may_come_late(self) -> None:
        async def work() -> None:
            loop = asyncio.get_running_loop()
            async with Site(3).visited(GET) as client:
                await loop.sock_recv(client, 4096)
                await asyncio.sleep(2 * SECONDS)
                await loop.sock_sendall(client, LAST_GET)
                assert (await read(client)).startswith(b"HTTP/1.1 200 ")

        asyncio.run(asyncio.wait_for(work(), 20))

    def test_a_request_that_the_server_keeps_waiting_is_not_late(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.sleep(1.2 * SECONDS)
            await Response(await Request(scope, receive).body())(scope, receive, send)

        size = 1 << 20
        post = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size

        async def work() -> None:
            async with Site(0, app).visited(post + bytes(size)) as client:
                answer = await read(client)
                assert answer.startswith(b"HTTP/1.1 200 ")
                assert answer.endswith(bytes(size))

        asyncio.run(asyncio.wait_for(work(), 20))
