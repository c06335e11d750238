"""One job over several machines, started by `mlx.launch`: windows of texts go out, vectors come back in order.

    mlx.launch --backend ring --hostfile hosts.json -- mlx-jina encode --input corpus.jsonl --output vectors.npy

Process 0 alone reads the input and writes the output, so the machines need no common file system; each needs the
model. Every process takes the next window when it is done with one, so a faster machine does more, and the window
of one that is lost goes to another. The windows are those of a single process, hence the vectors, too.

Of MLX only the launcher and its list of hosts are used: the ring's collectives can hang (ml-explore/mlx#4475), and
would keep all machines in step. As in the ring, whoever can reach the port can take part: use a trusted network. A
process that dies is noticed at once, a machine that falls silent after a minute and a half.
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

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from mlx_jina.options import EncodeOptions
    from mlx_jina.vectors import Vectors

# Seconds that the others look for process 0, which listens before it loads the model.
PATIENCE = 60
# Seconds that process 0 listens at least: one that found nobody would look on.
LATECOMERS = 10
# Seconds without a word before a machine is asked whether it is there, and how often it may not answer, that far
# apart; Darwin has another name for the first.
_IDLE = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
_KEEPALIVE = ((_IDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))
# Milliseconds that what was sent may go unacknowledged, where that can be said.
_UNANSWERED = (getattr(socket, "TCP_USER_TIMEOUT", None), 90_000)

Work = Callable[[Sequence[str]], "tuple[Vectors, int]"]


class StreamEncoder(Protocol):
    """What a job is done with: `mlx_jina.Encoder`, of which this much is needed."""

    max_length: int

    def encode_stream(self, texts: Iterable[str], **options: Unpack[EncodeOptions]) -> Iterator[Vectors]:
        """Blocks (n, D) of vectors in the order of the texts."""


def _hosts() -> list[tuple[str, int]]:
    """Address of each process, from what `mlx.launch --backend ring` leaves; one process has none."""
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
        """Wait a little for latecomers: their connection, and so their work, ends with this process."""
        for _ in range(self.count):
            self._missing.acquire(timeout=max(0, self._end - time.monotonic()))

    def _welcome(self) -> None:
        while True:
            connection = self._listener.accept()
            self._missing.release()
            threading.Thread(target=self._admit, args=(connection,), daemon=True).start()

    def _admit(self, connection: Connection) -> None:
        """Whenever another process has its model, let it help."""
        try:
            _notice_silence(connection)
            connection.recv_bytes()
        except (EOFError, OSError):
            return
        self.connections.append(connection)
        self.free.put(_Remote(connection))


class Team:
    """Process 0's encoder, with the help of the others. Whatever is not `encode_stream` is the encoder's own."""

    def __init__(self, encoder: StreamEncoder, helpers: Helpers) -> None:
        self._encoder = encoder
        self._helpers = helpers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_stream(
        self, texts: Iterable[str], *, advance: Callable[[int], object] = int, **options: Unpack[EncodeOptions]
    ) -> Iterator[Vectors]:
        """`Encoder.encode_stream`; `advance` is told of whole windows."""
        from mlx_jina.engine import pipeline

        free, size = self._helpers.free, self._helpers.count + 1
        free.put(lambda texts: encode_window(self._encoder, texts, options))
        waiting: deque[Future[tuple[Vectors, int]]] = deque()
        cut = 0
        with ThreadPoolExecutor(size, thread_name_prefix="mlx-jina-team") as pool:
            try:
                for window in chain(pipeline.cut_windows(enumerate(texts)), repeat(None)):
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
                # Or the pool would wait for what nobody wants any more.
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
    """A process, or the way to it, is gone."""


def _notice_silence(connection: Connection) -> None:
    """Have TCP find out whether the other machine is still there."""
    with socket.socket(fileno=os.dup(connection.fileno())) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (*_KEEPALIVE, _UNANSWERED):
            if option is not None:
                own.setsockopt(socket.IPPROTO_TCP, option, value)


def _hang_up(connection: Connection) -> None:
    """Whoever waits for the other side sees its end."""
    with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as own:
        own.shutdown(socket.SHUT_RDWR)


class _Remote:
    """The work of another process, as a call."""

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
    """In every process but the first: encode what process 0 sends, until it has no more or is gone.

    Returns the number of texts that were encoded.
    """
    connection = _connect(_hosts()[0], rank)
    _notice_silence(connection)
    return answer(connection, load(), options)


def answer(connection: Connection, encoder: StreamEncoder, options: EncodeOptions) -> int:
    """Encode the texts that come over a connection until it ends; how many they were."""
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
    """Vectors of one window, and how many texts were cut, which is worth one warning for all windows."""
    import numpy as np

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TruncationWarning)
        rows = np.concatenate(list(encoder.encode_stream(texts, **options)))
    return rows, sum(each.message.count for each in caught if isinstance(each.message, TruncationWarning))


def _by_any(free: queue.SimpleQueue[Work], window: Sequence[tuple[int, str]]) -> tuple[Vectors, int]:
    """A window by whoever is free, or another if that one is lost. Errors name positions in the whole input."""
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
