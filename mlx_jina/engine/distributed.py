"""One job over several machines, started by `mlx.launch`: windows of texts go out, vectors come back in order.

    mlx.launch --backend ring --hostfile hosts.json -- mlx-jina encode --input corpus.jsonl --output vectors.npy

Process 0 alone reads the input and writes the output, so the machines need no common file system; each needs the
model. Every process takes the next window when it has finished one, so a faster machine does more, and the window
of a lost process goes to another. Windows are cut as in a single process, so the vectors are the same.

mlx-jina uses only MLX's launcher and its list of hosts: the ring's collectives can hang (ml-explore/mlx#4475), and
would keep all machines in step. As in the ring, any program that can reach the port can take part, so the network
must be trusted. A process that dies is noticed at once, a machine that falls silent after a minute and a half.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from itertools import chain, repeat
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mlx_jina import errors
from mlx_jina.errors import InputError, MlxJinaError, TruncationWarning
from mlx_jina.text.tokenizer import many

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mlx_jina.options import EncodeOptions
    from mlx_jina.vectors import Vectors

# Seconds that the other processes try to reach process 0, which listens before it loads the model.
PATIENCE = 60
# Seconds that process 0 listens at least, for a process that finds nobody keeps trying.
LATECOMERS = 10
# TCP keep-alive: seconds of silence before the first probe, seconds between probes, and how many may go
# unanswered. Darwin has another name for the first.
_IDLE = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
_KEEPALIVE = ((_IDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))
# Milliseconds that sent bytes may go unacknowledged, on systems with this option.
_UNANSWERED = (getattr(socket, "TCP_USER_TIMEOUT", None), 90_000)

Work = Callable[[Sequence[str]], "tuple[Vectors, int]"]


class StreamEncoder(Protocol):
    """The part of `mlx_jina.Encoder` that a job needs."""

    max_length: int

    def encode_stream(self, texts: Iterable[str], **options: Unpack[EncodeOptions]) -> Iterator[Vectors]:
        """Blocks (n, D) of vectors in the order of the texts."""


def _hosts() -> list[tuple[str, int]]:
    """Address of each process, from the file of `mlx.launch --backend ring`; a single process has none."""
    file = os.environ.get("MLX_HOSTFILE")
    if file is None:
        raise InputError("mlx-jina works with mlx.launch --backend ring only")
    rows = json.loads(Path(file).read_text(encoding="utf-8").strip() or "[]")
    pairs = [row[0].rsplit(":", 1) for row in rows]
    return [(host, int(port)) for host, port in pairs]


class Helpers(AbstractContextManager["Helpers"]):
    """The other processes, seen from process 0."""

    def __init__(self) -> None:
        hosts = _hosts()
        self.count = max(0, len(hosts) - 1)
        self.free: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self.connections: list[Connection] = []
        self._missing = threading.Semaphore(0)
        self._end = time.monotonic() + LATECOMERS
        if hosts:
            try:
                self._listener = Listener(hosts[0], "AF_INET", backlog=len(hosts))
            except OSError as error:
                raise InputError(
                    f"process 0 cannot listen on {':'.join(map(str, hosts[0]))}: {error.strerror}"
                ) from None
            threading.Thread(target=self._welcome, daemon=True).start()

    def __exit__(self, *error: object) -> None:
        """Wait a little for latecomers, whose connection ends with this process."""
        for _ in range(self.count):
            self._missing.acquire(timeout=max(0, self._end - time.monotonic()))

    def _welcome(self) -> None:
        while True:
            connection = self._listener.accept()
            self._missing.release()
            threading.Thread(target=self._admit, args=(connection,), daemon=True).start()

    def _admit(self, connection: Connection) -> None:
        """Let each process help as soon as its model is loaded."""
        try:
            _notice_silence(connection)
            connection.recv_bytes()
        except (EOFError, OSError):
            return
        self.connections.append(connection)
        self.free.put(_Remote(connection))


class Team:
    """Process 0's encoder with the help of the others. All attributes but `encode_stream` are the encoder's."""

    sees = False
    """Pictures are not sent to other processes."""

    def __init__(self, encoder: StreamEncoder, helpers: Helpers) -> None:
        self._encoder = encoder
        self._helpers = helpers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_stream(
        self,
        texts: Iterable[str],
        *,
        advance: Callable[[int], object] = int,
        shortened: Callable[[int], object] = int,
        **options: Unpack[EncodeOptions],
    ) -> Iterator[Vectors]:
        """`Encoder.encode_stream`; `advance` is called once for each window, and `shortened` never."""
        from mlx_jina.engine import pipeline

        free, size = self._helpers.free, self._helpers.count + 1
        free.put(lambda texts: encode_window(self._encoder, texts, options))
        waiting: deque[Future[tuple[Vectors, int]]] = deque()
        cut = 0
        with ThreadPoolExecutor(size, thread_name_prefix="mlx-jina-team") as pool:
            try:
                for window in chain(pipeline.cut_windows(enumerate(many(texts))), repeat(None)):
                    if window is not None:
                        waiting.append(pool.submit(_by_any, free, window))
                        if len(waiting) <= 2 * size:
                            continue
                    if not waiting:
                        break
                    rows, more = waiting.popleft().result()
                    cut += more
                    advance(len(rows))
                    yield rows
            except (KeyboardInterrupt, GeneratorExit):
                # The pool would otherwise wait for windows that nobody wants any more.
                for connection in self._helpers.connections:
                    _hang_up(connection)
                raise
            finally:
                for future in waiting:
                    future.cancel()
        if cut:
            limit = options.get("max_length") or self._encoder.max_length
            warnings.warn(TruncationWarning(cut, limit), stacklevel=2)


class _LostError(Exception):
    """A process, or the connection to it, is lost."""


def _notice_silence(connection: Connection) -> None:
    """Have TCP find out whether the other machine is still there."""
    with socket.socket(fileno=os.dup(connection.fileno())) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (*_KEEPALIVE, _UNANSWERED):
            if option is not None:
                own.setsockopt(socket.IPPROTO_TCP, option, value)


def _hang_up(connection: Connection) -> None:
    """Shut down the connection, so that both sides stop waiting."""
    with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as own:
        own.shutdown(socket.SHUT_RDWR)


class _Remote:
    """Another process, called like a function."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __call__(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        import numpy as np

        try:
            self._connection.send_bytes(json.dumps(texts).encode())
            head = json.loads(self._connection.recv_bytes())
            content = None if "error" in head else self._connection.recv_bytes()
        except (EOFError, OSError):
            raise _LostError from None
        if content is None:
            error: type[MlxJinaError] = getattr(errors, head["error"])
            raise error(head["words"], position=head["position"])
        rows = np.frombuffer(content, head["dtype"])
        return rows.reshape(len(texts), -1), head["cut"]


def follow(load: Callable[[], StreamEncoder], rank: int, options: EncodeOptions) -> int:
    """In every process but the first: encode the windows that process 0 sends, until process 0 ends.

    Returns the number of texts that were encoded.
    """
    connection = _connect(_hosts()[0], rank)
    _notice_silence(connection)
    return answer(connection, load(), options)


def answer(connection: Connection, encoder: StreamEncoder, options: EncodeOptions) -> int:
    """Encode the texts that come over a connection until it ends. Returns the number of texts."""
    count = 0
    try:
        connection.send_bytes(b"ready")
        while True:
            texts = json.loads(connection.recv_bytes())
            try:
                rows, cut = encode_window(encoder, texts, options)
            except MlxJinaError as error:
                head = {"error": type(error).__name__, "words": error.words, "position": error.position}
                connection.send_bytes(json.dumps(head).encode())
                continue
            connection.send_bytes(json.dumps({"cut": cut, "dtype": rows.dtype.str}).encode())
            connection.send_bytes(rows.tobytes())
            count += len(rows)
    except (EOFError, OSError):
        return count


def _connect(address: tuple[str, int], rank: int) -> Connection:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return Client(address, "AF_INET")
        except OSError as error:
            if time.monotonic() > end:
                raise InputError(
                    f"process {rank} finds no process 0 at {address[0]}:{address[1]} ({error})"
                ) from None
            time.sleep(0.2)


def encode_window(encoder: StreamEncoder, texts: Sequence[str], options: EncodeOptions) -> tuple[Vectors, int]:
    """Vectors of one window, and how many texts were cut; process 0 warns once for all windows."""
    import numpy as np

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TruncationWarning)
        rows = np.concatenate(list(encoder.encode_stream(texts, **options)))
    return rows, sum(each.message.count for each in caught if isinstance(each.message, TruncationWarning))


def _by_any(free: queue.SimpleQueue[Work], window: Sequence[tuple[int, str]]) -> tuple[Vectors, int]:
    """Encode a window by a free process, or by another if one is lost. Errors name positions in all the input."""
    while True:
        work = free.get()
        try:
            done = work([text for _, text in window])
        except _LostError:
            continue
        except MlxJinaError as error:
            free.put(work)
            if error.position is not None:
                error.position += window[0][0]
            raise
        free.put(work)
        return done
