"""Who is let in."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_jina.server import access, serve
from tests.support.process import Server


class TestOrigins:
    @pytest.mark.parametrize(
        "origin",
        [
            "app://obsidian.md",
            "capacitor://localhost",
            "http://localhost",
            "http://localhost:3000",
            "https://127.0.0.1:8443",
            "http://[::1]:5173",
        ],
    )
    def test_own_pages_may_read_answers_after_a_preflight(self, server: Server, origin: str) -> None:
        asked = "authorization,content-type,x-stainless-os"
        preflight = server.client.options(
            "/v1/embeddings",
            headers={
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": asked,
                "Access-Control-Request-Private-Network": "true",
            },
        )
        assert preflight.status_code == 200
        assert preflight.headers["Access-Control-Allow-Origin"] == origin
        assert preflight.headers["Access-Control-Allow-Headers"] == asked
        assert preflight.headers["Access-Control-Allow-Private-Network"] == "true"
        answer = server.client.post("/v1/embeddings", json={"input": "a"}, headers={"Origin": origin})
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == origin
        assert "X-Embedding-Fingerprint" in answer.headers["Access-Control-Expose-Headers"]
        refused = server.client.post("/v1/embeddings", json={"input": [1]}, headers={"Origin": origin})
        assert refused.status_code == 400
        assert refused.headers["Access-Control-Allow-Origin"] == origin

    @pytest.mark.parametrize(
        "origin",
        ["https://evil.example", "http://localhost.evil.example", "http://evil.example/localhost", "null", ""],
    )
    @pytest.mark.parametrize("method", ["POST", "OPTIONS"])
    def test_foreign_pages_may_not(self, server: Server, origin: str, method: str) -> None:
        answer = server.client.request(
            method,
            "/v1/embeddings",
            json={"input": "a"},
            headers={"Origin": origin, "Access-Control-Request-Method": "POST"},
        )
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "forbidden_origin"
        assert "Access-Control-Allow-Origin" not in answer.headers


class TestHosts:
    @pytest.mark.parametrize("host", ["localhost", "localhost:7171", "127.0.0.1:1", "[::1]:7171", "LOCALHOST"])
    def test_this_machine(self, server: Server, host: str) -> None:
        assert server.client.get("/health", headers={"Host": host}).status_code == 200

    @pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:7171", "192.168.1.7", "a:b:c", ""])
    def test_a_rebound_name(self, server: Server, host: str) -> None:
        answer = server.client.get("/health", headers={"Host": host})
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "forbidden_host"

    @pytest.mark.parametrize("path", ["/nothing", "/v1/embeddings", "/openapi.json"])
    def test_on_every_route(self, server: Server, path: str) -> None:
        assert server.client.get(path, headers={"Host": "evil.example"}).status_code == 403
        assert server.client.get(path, headers={"Origin": "https://evil.example"}).status_code == 403

    def test_in_ollamas_form_on_ollamas_routes(self, server: Server) -> None:
        answer = server.client.get("/api/tags", headers={"Host": "host.docker.internal:7171"})
        assert answer.status_code == 403
        assert "--allow-host" in answer.json()["error"]

    @pytest.mark.parametrize("version", ["1.0", "1.1"])
    def test_none_at_all(self, server: Server, version: str) -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            client.sendall(f"GET /health HTTP/{version}\r\nConnection: close\r\n\r\n".encode())
            assert client.makefile("rb").readline() == b"HTTP/1.1 403 Forbidden\r\n"


# As curl sends it, in UTF-8.
KEY = "s3crét"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    key = tmp_path_factory.mktemp("key") / "key"
    key.write_text(f"{KEY}\n", encoding="utf-8")
    options = ("--host", "0.0.0.0", "--allow-host", "mac.local", "--allow-origin", "https://my.page")
    with Server(*options, "--api-key-file", key) as running:
        running.url = running.url.replace("0.0.0.0", "127.0.0.1")
        running.client.base_url = running.url
        yield running


class TestKey:
    @pytest.mark.parametrize("value", [None, "Bearer wrong", "Bearer", f"Basic {KEY}", f"Bearer {KEY}2", KEY])
    def test_without_it(self, locked: Server, value: str | None) -> None:
        headers = {} if value is None else {b"Authorization": value.encode()}
        for method, path in (("POST", "/v1/embeddings"), ("GET", "/v1/models"), ("GET", "/metrics")):
            answer = locked.client.request(method, path, json={"input": "a"}, headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert answer.headers["WWW-Authenticate"] == "Bearer"

    def test_with_it(self, locked: Server) -> None:
        headers = {b"Authorization": f"Bearer {KEY}".encode()}
        assert locked.client.get("/v1/models", headers=headers).status_code == 200
        assert locked.client.get("/health").status_code == 200

    @pytest.mark.parametrize(
        ("host", "status"), [("192.168.1.7:7171", 200), ("mac.local", 200), ("evil.com", 403)]
    )
    def test_hosts_of_a_network(self, locked: Server, host: str, status: int) -> None:
        assert locked.client.get("/health", headers={"Host": host}).status_code == status

    def test_one_more_origin(self, locked: Server) -> None:
        assert locked.client.get("/health", headers={"Origin": "https://my.page"}).status_code == 200
        assert locked.client.get("/health", headers={"Origin": "https://myxpage"}).status_code == 403

    def test_it_is_never_logged(self, locked: Server) -> None:
        assert KEY not in locked.log

    def test_an_empty_one_is_none(self) -> None:
        with Server("pocket", env=os.environ | {"MLX_JINA_API_KEY": ""}) as server:
            assert server.client.get("/v1/models").status_code == 200


def start(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "mlx_jina", "serve", *map(str, arguments)]
    env = {key: value for key, value in os.environ.items() if key != "MLX_JINA_API_KEY"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)


class TestStart:
    def test_beyond_this_machine_needs_a_key(self) -> None:
        done = start("--host", "0.0.0.0")
        assert done.returncode == 1
        assert "error: --host 0.0.0.0 lets other machines in, which needs a key: --api-key-file" in done.stderr

    def test_which_addresses_are_this_machines(self) -> None:
        assert all(map(access.is_loopback, ("127.0.0.1", "127.0.0.2", "::1", "localhost")))
        assert not any(map(access.is_loopback, ("0.0.0.0", "::", "192.168.1.7", "localhost.evil.example", "")))

    def test_no_answer_waits_for_an_acknowledgement(self) -> None:
        with serve.listening("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
            connection, _ = listener.accept()
            with connection:
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    def test_a_port_that_is_taken(self, server: Server) -> None:
        done = start("--port", str(server.port))
        assert done.returncode == 1
        assert f"error: cannot listen on 127.0.0.1 port {server.port}: Address already in use" in done.stderr

    def test_a_model_that_is_not_downloaded_yet(self, tmp_path: Path) -> None:
        done = start("--port", "0", "--preload", "v5-small", "--cache-dir", tmp_path)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].endswith("; mlx-jina serve --allow-download fetches it")

    def test_a_model_that_is_not_there(self, tmp_path: Path) -> None:
        done = start("--port", "0", "--preload", tmp_path / "nothing")
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("error: model 'nothing' cannot be loaded")
        assert "--allow-download" not in done.stderr
        assert "Traceback" not in done.stderr
