"""Two local processes, as `mlx.launch` starts them: the same file as by one, whatever happens on the way."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Client, Listener
from pathlib import Path

import pytest

from bench import texts
from mlx_jina.engine import distributed
from tests.support.command import SMALL, run

LAUNCH = "from mlx._distributed_utils.launch import main; main()"
TEXTS = [" ".join(texts.words()[i : i + 3 + i % 40]) for i in range(450)]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def lines(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `mlx-jina` as process `rank` of two, as `mlx.launch` does."""
    ports = [free_port(), free_port()]
    hosts = tmp_path / "hosts"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports]), encoding="utf-8")
    started: list[subprocess.Popen[str]] = []

    def start(rank: int, *arguments: str | Path) -> subprocess.Popen[str]:
        environment = {**os.environ, "MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)}
        command = [*SMALL, *map(str, arguments)]
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_mlx_launch(tmp_path: Path) -> None:
    corpus, alone, both = lines(tmp_path / "corpus.txt", TEXTS * 2), tmp_path / "alone.npy", tmp_path / "both.npy"
    assert run("encode", "-i", corpus, "-o", alone, program=SMALL, timeout=300).returncode == 0
    launch = (sys.executable, "-c", LAUNCH, "-n", "2", "--backend", "ring", "-p", str(free_port()), "--", *SMALL)
    # mlx.launch spins on a standard input that is at its end, so it gets one that stays open.
    command = [*launch, "encode", "-i", str(corpus), "-o", str(both)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(60) == 0
    assert both.read_bytes() == alone.read_bytes()
    assert 64 <= int(re.findall(r"process 1 encoded (\d+) texts", said)[0]) < len(TEXTS) * 4


@pytest.mark.slow
def test_a_late_process_does_not_wait(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    corpus, both = lines(tmp_path / "corpus.txt", TEXTS[:3]), tmp_path / "both.npy"
    leader = start(0, "encode", "-i", corpus, "-o", both)
    while not both.exists():
        time.sleep(0.05)
    helper = start(1, "encode", "-i", corpus, "-o", both)
    assert "process 1 encoded 0 texts" in helper.communicate(timeout=60)[1]
    assert leader.wait(10) == 0


@pytest.mark.slow
def test_a_lost_process_loses_nothing(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    corpus, alone, both = lines(tmp_path / "corpus.txt", TEXTS * 2), tmp_path / "alone.npy", tmp_path / "both.npy"
    helper = start(1, "encode", "-i", corpus, "-o", both)
    leader = start(0, "encode", "-i", corpus, "-o", both)
    partial = tmp_path / "both.npy.partial"
    while not partial.exists() or partial.stat().st_size < 150_000:
        assert leader.poll() is None
        time.sleep(0.05)
    helper.kill()
    assert leader.wait(300) == 0
    assert run("encode", "-i", corpus, "-o", alone, program=SMALL, timeout=300).returncode == 0
    assert both.read_bytes() == alone.read_bytes()


@pytest.mark.slow
def test_an_error_names_its_line_and_resume_continues(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    corpus, alone, both = tmp_path / "corpus.txt", tmp_path / "alone.npy", tmp_path / "both.npy"
    options = ("encode", "-i", corpus, "--max-length", "300", "--no-truncate")
    lines(corpus, [*TEXTS[:200], "word " * 400, *TEXTS[201:]])
    helper, leader = start(1, *options, "-o", both), start(0, *options, "-o", both)
    assert "corpus.txt, line 201: text 200 has 402 tokens" in leader.communicate(timeout=300)[1]
    assert leader.returncode == 1
    assert helper.wait(60) == 0
    lines(corpus, TEXTS)
    leader, _ = start(0, *options, "-o", both, "--resume"), start(1, *options, "-o", both)
    assert leader.wait(300) == 0
    assert run(*options, "-o", alone, program=SMALL, timeout=300).returncode == 0
    assert both.read_bytes() == alone.read_bytes()


def test_a_port_that_is_taken_is_said(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    corpus = lines(tmp_path / "corpus.txt", TEXTS[:3])
    address = json.loads((tmp_path / "hosts").read_text(encoding="utf-8"))[0][0]
    host, port = address.split(":")
    with socket.create_server((host, int(port))):
        leader = start(0, "encode", "-i", corpus, "-o", tmp_path / "both.npy")
        said = leader.communicate(timeout=60)[1]
    assert said == f"error: process 0 cannot listen on {address}: Address already in use\n"
    assert leader.returncode == 1


def test_a_machine_that_falls_silent_is_noticed() -> None:
    with Listener(("127.0.0.1", 0), "AF_INET") as listener, Client(listener.address, "AF_INET") as connection:
        distributed._notice_silence(connection)
        with socket.socket(fileno=os.dup(connection.fileno())) as own:
            assert own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 10
        # Of one that is gone nothing comes any more, and nothing waits.
        with listener.accept() as other:
            distributed._hang_up(connection)
            with pytest.raises(EOFError):
                other.recv_bytes()
            with pytest.raises(distributed._LostError):
                distributed._Remote(connection)(["a text"])
