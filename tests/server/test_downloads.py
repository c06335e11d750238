"""A hub that never answers, or slowly, keeps nobody waiting but those who ask for its models."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support import checkpoints, hub_server
from tests.support.process import Server

NAMES = ("v5-small", "v5-nano", "v3", "v2-small-en", "v2-base-en", "v2-base-de", "v2-base-zh", "code-0.5b")


@contextmanager
def silent_hub(answer: bytes = b"") -> Iterator[str]:
    """It accepts connections, and says no more than this."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    held.append(listener.accept()[0])
                    held[-1].sendall(answer)
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        for connection in held:
            connection.close()
        listener.shutdown(socket.SHUT_RDWR)


def environment(hub: str, home: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", **more}


@pytest.mark.parametrize(
    "answer", [b"", pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{", marks=pytest.mark.slow)]
)
def test_a_silent_hub_blocks_nobody_else(tmp_path: Path, answer: bytes) -> None:
    with (
        silent_hub(answer) as hub,
        Server("pocket", "--preload", "--allow-download", env=environment(hub, tmp_path)) as server,
        ThreadPoolExecutor(len(NAMES)) as clients,
    ):
        waiting = [clients.submit(server.embed, "a", model=name) for name in NAMES]
        while server.metric("requests_under_way") < len(NAMES):
            time.sleep(0.02)
        started = time.monotonic()
        assert server.embed(["bread water " * 2000], truncate=True).status_code == 200
        assert server.client.get("/v1/models").status_code == 200
        assert server.client.get("/api/tags").status_code == 200
        assert time.monotonic() - started < 8
        assert server.stop(timeout=8) == 0
        assert server.log.endswith("INFO stopped\n")
        assert "Traceback" not in server.log
        for one in waiting:
            assert one.result().status_code == 503


def test_who_waits_is_told(tmp_path: Path) -> None:
    environ = environment("http://127.0.0.1:1", tmp_path, HF_HUB_ETAG_TIMEOUT="1")
    with ExitStack() as silence:
        hub = silence.enter_context(silent_hub())
        with Server("pocket", "--allow-download", env={**environ, "HF_ENDPOINT": hub}) as server:
            answer = server.embed("a", model="v2-small-en")
            assert answer.status_code == 503
            assert "could not be downloaded (" in answer.json()["detail"]
            silence.close()
            # And may ask again, of a hub that refuses now.
            assert server.embed("a", model="v2-small-en").status_code == 503


def test_a_download_serves_all_who_wait(tmp_path: Path) -> None:
    repo = "jinaai/jina-embeddings-v2-small-en"
    config = checkpoints.jina_bert_config("original", hidden=512, layers=1, heads=8, intermediate=64, vocab=320)
    weights = checkpoints.jina_bert_weights("original", config)
    (tmp_path / "source").mkdir()
    source = checkpoints.write_folder(
        tmp_path / "source", config, weights, checkpoints.wordpiece_tokenizer(config["vocab_size"])
    )
    with (
        hub_server.serve({repo: source}) as (hub, fetched),
        Server("pocket", "--allow-download", env=environment(hub, tmp_path / "home")) as server,
        ThreadPoolExecutor(4) as clients,
    ):
        answers = list(clients.map(lambda _: server.embed("a", model="v2-small-en"), range(4)))
        assert [answer.status_code for answer in answers] == [200] * 4, answers[0].text
        assert fetched.count("model.safetensors") == 1
