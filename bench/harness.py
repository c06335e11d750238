"""Peers side by side: each in its own process, the same texts, checked before they are timed in alternation."""

from __future__ import annotations

import base64
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from bench.models import Model
from bench.peers import OURS, Peer

# Longest wait for one reply; a peer that takes longer is listed as skipped.
SECONDS_PER_REPLY = 900
# Seconds after each timed call, in which idle threads of OpenMP and BLAS stop spinning on the next peer's cores.
PAUSE_SECONDS = 0.25
# Free memory for a peer, as a multiple of its weights in float32: room for weights and working memory.
ROOM = 1.5
# Name of the column of ratios; below 1 the peer is faster.
THEIRS_OVER_OURS = "its time over ours"


class PeerError(Exception):
    """A peer did not start, died, or computes other vectors."""


@dataclass(frozen=True)
class Options:
    """How much to measure."""

    quick: bool
    rounds: int
    seconds: float
    """About how long one timed run should take."""
    models: Sequence[str]
    peers: Sequence[str]
    """Measure only peers whose name contains one of these words; all peers if empty."""
    lengths: Sequence[int] = ()
    """Lengths of texts in tokens, for questions by length; each question has its own if empty."""


@dataclass
class Section:
    """The answer to one question: rows of a table, and what could not be measured."""

    title: str
    note: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    plot: dict[str, Any] = field(default_factory=dict)


class Process:
    """A peer that has loaded its model."""

    def __init__(self, peer: Peer, model: Model) -> None:
        self.peer = peer
        # Closed together with the process, in `close`.
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        command = [sys.executable, "-m", "bench.child", peer.module, peer.option, str(model.folder)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._errors, text=True)
        self._reply()

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request, one reply. Raises PeerError with the peer's last words if there is none."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = threading.Timer(SECONDS_PER_REPLY, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            words = [line.strip() for line in self._errors if line.strip()]
            raise PeerError(words[-1][:200] if words else f"ended with status {self._process.returncode}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def give(self, texts: Sequence[str], longest: int) -> None:
        """Set the texts that `seconds`, `vectors` and `memory` are about. `longest` is in tokens."""
        self.ask(texts=list(texts), longest=longest)

    def seconds(self) -> float:
        """Encode once, on the clock."""
        return float(self.ask(do="encode")["seconds"])

    def vectors(self) -> npt.NDArray[np.float32]:
        """The texts' vectors (N, D)."""
        answer = self.ask(do="vectors")
        return np.frombuffer(base64.b64decode(answer["rows"]), dtype=np.float32).reshape(answer["shape"])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()


@contextmanager
def started(model: Model, peers: Sequence[Peer], skipped: dict[str, str]) -> Iterator[dict[str, Process]]:
    """Load the peers that can run here, ours first, one after the other; the others go to `skipped`."""
    size = sum(path.stat().st_size for path in model.folder.glob("*.safetensors"))
    with ExitStack() as stack:
        running: dict[str, Process] = {}
        for peer in peers:
            reason = peer.missing()
            if reason is None and peer.name != OURS and psutil.virtual_memory().available < 2 * ROOM * size:
                reason = f"too little free memory for {model.name} beside the others"
            if reason is None:
                try:
                    running[peer.name] = process = Process(peer, model)
                    stack.callback(process.close)
                except PeerError as error:
                    reason = str(error)
            if reason is not None:
                skipped[f"{peer.name} ({model.name})"] = reason
        if OURS not in running:
            raise PeerError(f"mlx-jina itself does not run: {skipped}")
        yield running


def give(
    running: dict[str, Process], texts: Sequence[str], longest: int, what: str, skipped: dict[str, str]
) -> dict[str, Process]:
    """Give peers the texts, warm up, and keep peers whose vectors equal ours; `what` names texts in `skipped`."""
    print(f"  {what} ...", file=sys.stderr, flush=True)
    kept = {}
    ours: npt.NDArray[np.float32] | None = None
    for name, process in list(running.items()):
        try:
            process.give(texts, longest)
            vectors = process.vectors()
            ours = vectors if ours is None else ours
            if not (found := lowest_cosine(ours, vectors)) >= process.peer.cosine:
                raise PeerError(f"computes something else: lowest cosine to ours {found:.4f}")
            kept[name] = process
        except PeerError as error:
            skipped[f"{name} ({what})"] = str(error)
            if process._process.poll() is not None:
                running.pop(name)
    return kept


def alternate(running: Mapping[str, Process], rounds: int) -> dict[str, list[float]]:
    """Seconds of each peer, round by round; every round starts with another peer."""
    names = list(running)
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            time.sleep(PAUSE_SECONDS)
            times[name].append(running[name].seconds())
    return times


def lowest_cosine(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """The lowest cosine between rows of the same text; NaN if any cosine is."""
    if a.shape != b.shape:
        return float("nan")
    products = (a.astype(np.float64) * b).sum(axis=1)
    lengths = np.linalg.norm(a.astype(np.float64), axis=1) * np.linalg.norm(b.astype(np.float64), axis=1)
    return float((products / lengths).min())


def spread(values: Sequence[float]) -> list[float]:
    """Median, lowest and highest."""
    return [statistics.median(values), min(values), max(values)]


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Their time over ours, round by round: median, lowest, highest."""
    return spread([a / b for a, b in zip(theirs, ours, strict=True)])
