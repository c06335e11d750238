"""A real server process on a free port."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2

from tests.support.command import PROGRAM


class Server:
    """`mlx-jina serve` as a process of its own, ready to answer. A failing test shows the server's log."""

    def __init__(
        self,
        *arguments: str | float | Path,
        env: Mapping[str, str] | None = None,
        port: int = 0,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        command = [*program, "serve", "--port", port, *arguments]
        self.process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True, env=env)
        self.log = ""
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._ready.wait(60)
        found = re.search(r"listening on (http://\S+:(\d+))", self.log)
        assert found, f"the server did not start:\n{self.log}"
        self.url = found[1]
        self.port = int(found[2])
        self.client = httpx2.Client(base_url=self.url, timeout=120)

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.log += line
            if "listening on" in line:
                self._ready.set()
        self._ready.set()

    def embed(self, texts: Any, **fields: Any) -> httpx2.Response:
        """POST /v1/embeddings."""
        return self.client.post("/v1/embeddings", json={"input": texts, **fields})

    def metric(self, name: str) -> float:
        """The value of a metric, summed over all labels."""
        page = self.client.get("/metrics").text
        return sum(
            float(value) for value in re.findall(rf"^mlx_jina_{name}(?:{{.*}})? (\S+)$", page, re.MULTILINE)
        )

    def stop(self, number: int = signal.SIGTERM, timeout: float = 60) -> int:
        """Send a signal, and return the exit status."""
        self.process.send_signal(number)
        status = self.process.wait(timeout)
        self._reader.join(10)
        return status

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()
        self._reader.join(10)
        assert self.process.stderr
        self.process.stderr.close()
        if kind is not None:
            print(self.log)
