"""How many connections there are, how large a request's head is, and clients that close their side early."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest

from mlx_jina import Encoder
from mlx_jina.server.connections import HEAD_BYTES, IDLE_SECONDS
from tests.support.command import PROGRAM
from tests.support.process import Server
from tests.support.tolerance import bound

BODY = b'{"input": "bread"}'
POST = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n" % len(BODY)
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


def connect(server: Server) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port))
    client.settimeout(30)
    return client


def read(client: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    got = b""
    while piece := client.recv(1 << 16):
        got += piece
    return got


def status(answer: bytes) -> int:
    return int(answer.split(maxsplit=2)[1])


def megabytes(server: Server) -> float:
    command = ["ps", "-o", "rss=", "-p", str(server.process.pid)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024


class TestHeads:
    @pytest.mark.parametrize(
        "head",
        [
            GET + b"A: " + b"x" * HEAD_BYTES,
            GET + b"x" * (HEAD_BYTES + 100),
            GET + b"A: b\r\n" * HEAD_BYTES,
            b"GET /" + b"x" * (HEAD_BYTES + 100),
            b"GET /?" + b"x" * 30_000_000,
            GET + b"A: " + b"x" * 30_000_000,
            GET + (b"A: " + b"x" * 1000 + b"\r\n") * 30_000,
            POST + b"Cookie: " + b"x" * HEAD_BYTES + b"\r\n\r\n" + BODY,
            POST.replace(b"Content-Length: 18", b"Transfer-Encoding: chunked") + b"\r\n1;" + b"x" * 200_000,
            POST.replace(b"Content-Length: 18", b"Transfer-Encoding: chunked")
            + b"\r\n12\r\n"
            + BODY
            + b"\r\n0\r\n"
            + b"Trailer: x\r\n" * 20_000,
        ],
        ids=range(10),
    )
    def test_more_than_64_kb_get_431(self, server: Server, head: bytes) -> None:
        before, started = megabytes(server), time.monotonic()
        with connect(server) as client, ThreadPoolExecutor(1) as reader:
            answer = reader.submit(read, client)
            try:
                client.sendall(head + b"\r\n\r\n")
            except OSError:
                # The server hears no more of it.
                assert len(head) > 1_000_000
            assert status(answer.result()) == 431
            assert json.loads(answer.result().partition(b"\r\n\r\n")[2])["error"]["code"] == "headers_too_large"
        assert time.monotonic() - started < 10
        assert megabytes(server) < before + 50
        assert server.embed("bread").status_code == 200

    @pytest.mark.parametrize("size", [HEAD_BYTES - 1, HEAD_BYTES])
    @pytest.mark.parametrize("piece", [1000, HEAD_BYTES, 1 << 20])
    def test_as_many_pass(self, server: Server, size: int, piece: int) -> None:
        head = GET + b"Connection: close\r\nA: "
        head += b"x" * (size - len(head) - 4) + b"\r\n\r\n"
        assert len(head) == size
        with connect(server) as client:
            for start in range(0, size, piece):
                client.sendall(head[start : start + piece])
            assert status(read(client)) == 200

    def test_bodies_have_a_limit_of_their_own(self, server: Server) -> None:
        head = GET.replace(b"GET /health", b"POST /v1/embeddings") + b"Connection: close\r\n"
        body = json.dumps({"model": "tiny:query", "truncate": True, "input": "bread " * 100_000}).encode()
        with connect(server) as client:
            client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert status(read(client)) == 200
        pieces = b"".join(b"%x\r\n%b\r\n" % (1, body[i : i + 1]) for i in range(len(body)))
        with connect(server) as client:
            client.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n")
            assert status(read(client)) == 200

    def test_the_second_request_of_a_connection(self, server: Server) -> None:
        with connect(server) as client:
            client.sendall(GET + b"\r\n")
            assert status(client.recv(1 << 16)) == 200
            client.sendall(GET + b"A: " + b"x" * HEAD_BYTES)
            assert status(read(client)) == 431


@pytest.mark.parametrize(
    "sent",
    [
        # A client's hello in TLS.
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        POST + b"Content-Length: 7\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n",
        GET + b"A b: c\r\n\r\n",
        b"\r\n\r\nnothing\r\n\r\n",
    ],
    ids=range(8),
)
def test_what_is_no_http_is_told_so(server: Server, sent: bytes) -> None:
    lines = server.log.count("\n")
    with connect(server) as client:
        client.sendall(sent)
        answer = read(client)
    assert status(answer) == 400
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "malformed_request"
    assert server.log.count("\n") == lines


class TestHalfClosed:
    """Clients that close their own side after the request, as `nc -N` and some libraries do."""

    @pytest.mark.parametrize("version", [b"1.1", b"1.0"])
    @pytest.mark.parametrize("text", ["bread", "bread water flour salt " * 300])
    def test_get_their_answer(self, server: Server, pocket: Encoder, version: bytes, text: str) -> None:
        body = json.dumps({"input": text}).encode()
        head = b"POST /v1/embeddings HTTP/%b\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (
            version,
            len(body),
        )
        with connect(server) as client:
            client.sendall(head + body)
            client.shutdown(socket.SHUT_WR)
            answer = read(client)
        answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert status(answer) == 200
        (row,) = json.loads(answer.partition(b"\r\n\r\n")[2])["data"]
        np.testing.assert_allclose(row["embedding"], pocket.encode(text), atol=bound(1e-6))

    def test_two_requests_at_once(self, server: Server) -> None:
        with connect(server) as client:
            client.sendall((POST + b"\r\n" + BODY) * 2)
            client.shutdown(socket.SHUT_WR)
            assert read(client).count(b"HTTP/1.1 200 OK") == 2

    def test_a_request_that_is_not_whole_ends(self, server: Server) -> None:
        with connect(server) as client:
            client.sendall(POST + b"\r\n" + BODY[:-1])
            client.shutdown(socket.SHUT_WR)
            assert not read(client).startswith(b"HTTP/1.1 200")
        wait_for_none(server)


def wait_for_none(server: Server) -> None:
    end = time.monotonic() + 10
    while server.metric("requests_under_way"):
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def small() -> Iterator[Server]:
    """A server that may open 256 files, as on a Mac whose limit nobody raised."""
    with Server("--preload", program=("bash", "-c", 'ulimit -n 256 && exec "$@"', "bash", *PROGRAM)) as server:
        yield server


class TestFiles:
    def test_requests_beyond_the_limit_are_told_to_wait(self, small: Server) -> None:
        clients = [connect(small) for _ in range(400)]
        answers: Counter[int] = Counter()
        for client in clients:
            try:
                client.sendall(POST + b"Connection: close\r\n\r\n" + BODY)
                answers[status(read(client))] += 1
            except (OSError, IndexError):
                # Further clients than it has places to answer at are dropped.
                answers[0] += 1
            client.close()
        assert answers[200] > 50
        assert answers[503] > 10
        assert {*answers} <= {0, 200, 503}
        assert small.embed("bread").status_code == 200
        assert small.log.count("more than") <= 1
        assert small.log.count("\n") < 10

    def test_idle_connections_make_room(self, small: Server) -> None:
        """Those that sent nothing, half a line, half a head, or that wait after an answer."""
        clients = [connect(small) for _ in range(200)]
        for index, client in enumerate(clients):
            with suppress(OSError):
                client.sendall((b"", b"GET /health HT", GET, GET + b"\r\n")[index % 4])
        time.sleep(IDLE_SECONDS + 0.2)
        clients += [connect(small) for _ in range(30)]
        with connect(small) as client:
            client.sendall(POST + b"Connection: close\r\n\r\n" + BODY)
            assert status(read(client)) == 200
        for client in clients:
            client.close()
        assert "Traceback" not in small.log

    def test_new_clients_are_served_while_others_come(self, small: Server) -> None:
        """At four times the limit."""
        end = time.monotonic() + 1.5
        clients: list[socket.socket] = []
        good = 0
        while time.monotonic() < end:
            for idle in clients[:-300]:
                idle.close()
            del clients[:-300]
            clients += [connect(small) for _ in range(100)]
            with connect(small) as client:
                client.sendall(POST + b"Connection: close\r\n\r\n" + BODY)
                with suppress(OSError, IndexError):
                    good += status(read(client)) == 200
        for idle in clients:
            idle.close()
        assert good
        assert "Traceback" not in small.log
        assert small.log.count("\n") < 20
        assert small.embed("bread").status_code in (200, 503)


@pytest.mark.parametrize("preload", [(), ("--preload",)])
def test_signals_count_from_the_first_moment(preload: tuple[str, ...]) -> None:
    """From when the port listens."""
    delays = random.Random(len(preload))
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        process = subprocess.Popen(
            [*PROGRAM, "serve", "--port", str(port), *preload], stderr=subprocess.PIPE, text=True
        )
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.001)
        time.sleep(delays.uniform(0, 0.05))
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0, log
        assert "Traceback" not in log
