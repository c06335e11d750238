"""The launchd agent: what it says, and with a stand-in for launchctl that it starts, answers and goes."""

from __future__ import annotations

import json
import plistlib
import re
import shutil
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import run

LAUNCHCTL = Path(__file__).parents[1] / "support" / "launchctl.py"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def launchd(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A launchctl that is found first; whatever it has started ends with the test."""
    command = home / "bin" / "launchctl"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {LAUNCHCTL} "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=":")
    yield
    run("service", "uninstall")


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def printed(*arguments: str | Path) -> dict[str, Any]:
    done = run("service", "install", "--print", *arguments)
    assert done.returncode == 0, done.stderr
    agent: dict[str, Any] = plistlib.loads(done.stdout.encode())
    return agent


class TestAgent:
    def test_content(self, home: Path) -> None:
        assert printed("pocket", "--port", "8000", "--preload") == {
            "Label": "local.mlx-jina.serve",
            "ProgramArguments": [
                *(sys.executable, "-m", "mlx_jina", "serve"),
                *("pocket", "--port", "8000", "--preload"),
            ],
            "EnvironmentVariables": {},
            "WorkingDirectory": str(home),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": 30,
            "ProcessType": "Interactive",
            "StandardOutPath": f"{home}/Library/Logs/mlx-jina/serve.log",
            "StandardErrorPath": f"{home}/Library/Logs/mlx-jina/serve.log",
        }
        assert not (home / "Library").exists()

    def test_where_models_are_goes_along(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_HOME", "/Volumes/models")
        assert printed()["EnvironmentVariables"] == {"HF_HOME": "/Volumes/models"}

    def test_notes_are_served(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(home)
        monkeypatch.setenv("MLX_JINA_URI", "vscode")
        (home / "notes").mkdir()
        for arguments in (("--index", "notes"), ("--index=notes",)):
            agent = printed(*arguments)
            assert " ".join(agent["ProgramArguments"][4:]).replace("=", " ") == f"--index {home}/notes"
            assert agent["EnvironmentVariables"] == {"MLX_JINA_URI": "vscode"}

    def test_paths_become_absolute(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """But not the name of a known model, which wins over a folder."""
        monkeypatch.chdir(home)
        for name in ("tiny", "pocket"):
            (home / name).mkdir()
        (home / "key").write_text("secret")
        arguments = printed("pocket", "own=tiny", "jinaai/x", "--api-key-file", "key")["ProgramArguments"][4:]
        assert arguments == ["pocket", f"own={home}/tiny", "jinaai/x", "--api-key-file", f"{home}/key"]

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--prot", "8000"), "No such option"),
            (("--port", "many"), "'many' is not a valid integer"),
            (("--api-key-file", "nowhere"), "'nowhere' does not exist"),
            (("--api-key", "secret"), "--api-key-file"),
            (("--port", "0"), "a service needs a --port of its own"),
        ],
    )
    def test_what_serve_would_refuse_is_refused(self, home: Path, arguments: tuple[str, ...], words: str) -> None:
        done = run("service", "install", *arguments)
        assert done.returncode == 1
        assert words in done.stderr
        assert not (home / "Library").exists()


class TestWithoutLaunchd:
    pytestmark = pytest.mark.skipif(shutil.which("launchctl") is not None, reason="this is macOS")

    def test_install_says_what_to_do(self, home: Path) -> None:
        done = run("service", "install")
        assert (done.returncode, done.stdout) == (1, "")
        assert "this is no macOS" in done.stderr
        assert not (home / "Library").exists()

    def test_nothing_is_installed(self, home: Path) -> None:
        assert (run("service", "status").returncode, run("service", "uninstall").returncode) == (1, 1)


def test_a_service_from_its_start_to_its_end(launchd: None, home: Path, port: int) -> None:
    def install() -> str:
        done = run("service", "install", "pocket", "--port", str(port))
        assert done.returncode == 0, done.stderr + "".join(p.read_text() for p in home.rglob("serve.log"))
        return done.stdout

    assert f"the server answers at http://127.0.0.1:{port}" in install()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/embed", json.dumps({"input": "text"}).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert len(json.load(answer)["embeddings"][0]) == 256
    status = run("service", "status")
    assert (status.returncode, status.stderr) == (0, "")
    first = re.search(r"pid +(\d+)", status.stdout)
    assert "state           running" in status.stdout

    install()
    again = re.search(r"pid +(\d+)", run("service", "status").stdout)
    assert first
    assert again
    assert first[1] != again[1]

    assert run("service", "uninstall").returncode == 0
    assert not list(home.rglob("*.plist"))
    assert "not installed" in run("service", "status").stdout


def test_a_server_that_fails_is_not_kept(launchd: None, home: Path, port: int) -> None:
    done = run("service", "install", "no/such-model", "--port", str(port), "--preload")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the server ended at once: error: model 'such-model' cannot be loaded" in done.stderr
    assert not list(home.rglob("*.plist"))
    assert "not installed" in run("service", "status").stdout


def test_a_port_that_answers_is_left_alone(launchd: None, home: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        port = other.server_address[1]
        threading.Thread(target=other.serve_forever, daemon=True).start()
        done = run("service", "install", "--port", str(port))
        other.shutdown()
    assert done.returncode == 1
    assert f"something already answers at 127.0.0.1 port {port}" in done.stderr
    assert not list(home.rglob("*.plist"))
