"""What becomes of clients that do not read what they asked for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.responses import Response
from uvicorn.server import ServerState

from mlx_jina.server import connection

SECONDS = 0.3


class Site:
    """One page for everybody, over sockets that hold as little as the kernel lets them."""

    def __init__(self, size: int) -> None:
        self.hung_up = 0
        self.state = ServerState()
        self._config = uvicorn.Config(Response(bytes(size)), lifespan="off", log_config=None)
        self._protocol = connection.protocol(SECONDS, self._gone)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    def _gone(self) -> None:
        self.hung_up += 1

    @asynccontextmanager
    async def visited(self, headers: str = "") -> AsyncIterator[socket.socket]:
        """A client that has asked for the page and read nothing yet."""
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
                await loop.sock_sendall(client, f"GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n".encode())
                yield client


@pytest.mark.parametrize("headers", ["", "Connection: close\r\n"])
@pytest.mark.parametrize("size", [1 << 15, 1 << 22])
def test_who_reads_nothing_loses_the_connection(size: int, headers: str) -> None:
    async def work() -> None:
        site = Site(size)
        async with site.visited(headers):
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
        async with site.visited("Connection: close\r\n") as client:
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
