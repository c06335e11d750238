"""`mlx-jina serve`: the process around the application."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import signal
import socket
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import uvicorn

from mlx_jina.cpu import blas
from mlx_jina.errors import InputError, ModelNotFoundError
from mlx_jina.search import location
from mlx_jina.server import connections, timeouts
from mlx_jina.server.app import Settings, create_app
from mlx_jina.server.dialects import openai
from mlx_jina.server.engine import Engine
from mlx_jina.server.errors import ApiError
from mlx_jina.server.metrics import Metrics
from mlx_jina.server.model_store import ModelStore, StoreOptions
from mlx_jina.server.notes import Notes, open_index

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger("mlx_jina.server")

# Seconds that requests in flight have after SIGTERM; a second Ctrl-C does not wait.
GRACE_SECONDS = 120
# Seconds within which a request must be whole, and a client must read on.
CLIENT_SECONDS = 60
TOO_LATE = ApiError(408, f"the request did not arrive within {CLIENT_SECONDS} s", "timeout")
TOO_LARGE = ApiError(
    431, f"the request's headers are larger than {connections.HEAD_BYTES} bytes", "headers_too_large"
)
MALFORMED = ApiError(400, "this is not a request in HTTP/1.1 without TLS", "malformed_request")
TOO_MANY = ApiError(503, "the server has too many connections; try again in 5 s", "overloaded")
# Open files, at most.
MOST_FILES = 4096
# Connections that the system lets wait until they are accepted.
BACKLOG = 1024
# Open files that are no connections: models and their files, clients that are refused or not yet counted.
OTHER_FILES = 64 + connections.LINGERING + connections.ACCEPTED
# New objects between two runs of the garbage collector.
GARBAGE_OBJECTS = 50_000


def run(
    models: Sequence[str],
    host: str,
    port: int,
    settings: Settings,
    *,
    preload: bool,
    api_key_file: Path | None,
    index: str | None = None,
    expand: str | None = None,
    **store: Unpack[StoreOptions],
) -> None:
    """Serve until SIGTERM or Ctrl-C, then answer the requests in flight and return.

    `index` is the file or the folder of an index of notes, `expand` a language model for its questions, `store`
    are options of `ModelStore`. Raises InputError for an address beyond this machine without a key, what
    `open_index` raises, and ModelNotFoundError.
    """
    settings = _with_key(settings, api_key_file)
    if settings.anywhere and not settings.api_key:
        raise InputError(
            f"--host {host} lets other machines in, which needs a key: --api-key-file, or MLX_JINA_API_KEY"
        )
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if slow := blas.slow():
        logger.warning("%s", slow)
    _allow_many_connections()
    metrics = Metrics()
    with ExitStack() as stack:
        notes = None if index is None else stack.enter_context(closing(open_index(index, expand)))
        downloading = asyncio.run(_serve(models, host, port, settings, metrics, preload, notes, store))
    if downloading:
        # The hub's library would have the process wait for its threads; what they have downloaded is kept.
        logging.shutdown()
        os._exit(0)


async def _serve(
    models: Sequence[str],
    host: str,
    port: int,
    settings: Settings,
    metrics: Metrics,
    preload: bool,
    notes: Notes | None,
    options: StoreOptions,
) -> bool:
    """Returns whether a download is still under way."""
    store = ModelStore(models, observe=metrics.batch, **options)
    metrics.gauge("bytes_in_memory", "Bytes of all loaded models' weights", store.bytes_in_memory)
    metrics.gauge("waiting_tokens", "Tokens of texts whose batch has not started", store.waiting_tokens)
    server = _Server(
        uvicorn.Config(
            create_app(Engine(store), metrics, settings, notes),
            http=connections.protocol(
                timeouts.protocol(CLIENT_SECONDS, _refusal(TOO_LATE), metrics.hung_up),
                _most_connections(),
                too_large=_refusal(TOO_LARGE),
                too_many=_refusal(TOO_MANY, b"Retry-After: 5"),
                malformed=_refusal(MALFORMED),
            ),
            # How many asyncio accepts at a time; `_Server` has more of them wait.
            backlog=connections.ACCEPTED,
            access_log=False,
            log_config=None,
            # Whoever sends what is no HTTP would write a line with each request.
            log_level=logging.ERROR,
            ws="none",
            proxy_headers=False,
            lifespan="off",
            # Longer than clients keep an idle connection, so that no request meets a connection that just closed.
            timeout_keep_alive=120,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        ),
        store.end,
    )
    asyncio.get_running_loop().set_exception_handler(_accept_errors())
    # uvicorn sets the same handlers only once it serves, and raises the signal once more when it has ended.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    with ExitStack() as stack:
        listener = stack.enter_context(listening(host, port))
        listeners = [listener]
        if notes is not None:
            listeners += stack.enter_context(listening_to_own(location.socket_of(notes.index.file)))
            notes.start()
        if preload and not await _preload(store, server):
            return store.downloading()
        # Objects that exist by now stay, so the garbage collector need not look at them again. Requests leave few
        # cycles behind, so it need not run after every 700 new objects either, Python's default.
        gc.freeze()
        gc.set_threshold(GARBAGE_OBJECTS)
        shown = f"[{host}]" if ":" in host else host
        logger.info("listening on http://%s:%d", shown, listener.getsockname()[1])
        idle = asyncio.create_task(store.unload_idle())
        try:
            await server.serve(sockets=listeners)
        finally:
            idle.cancel()
        logger.info("stopped")
        return store.downloading()


class _Server(uvicorn.Server):
    """`at_end` is called when the server is told to end, before it waits for the requests in flight."""

    def __init__(self, config: uvicorn.Config, at_end: Callable[[], None]) -> None:
        super().__init__(config)
        self._at_end = at_end

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._at_end()
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)


def _refusal(refusal: ApiError, *headers: bytes) -> bytes:
    """The answer to a client whose request no dialect reads."""
    body = orjson.dumps(openai.error_body(refusal, uuid.uuid4().hex))
    return connections.answer(refusal.status, body, *headers)


def _accept_errors() -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """A handler of the event loop's errors that says once a minute when no file can be opened."""
    warn = connections.seldom(logger.warning)

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            warn(f"no connection can be accepted: {error.strerror}; ulimit -n raises the limit")
        else:
            loop.default_exception_handler(context)

    return handle


async def _preload(store: ModelStore, server: uvicorn.Server) -> bool:
    """Load the models of the command line. Returns False if the server is told to end meanwhile."""
    loading = asyncio.create_task(_load(store))
    while not loading.done() and not server.should_exit:
        await asyncio.wait((loading,), timeout=0.1)
    if server.should_exit:
        loading.cancel()
        return False
    await loading
    return True


async def _load(store: ModelStore) -> None:
    for model in store.configured():
        try:
            async with store.using(model) as loaded:
                await loaded.warm_up()
        except ApiError as refusal:
            raise ModelNotFoundError(refusal.message) from None


def _with_key(settings: Settings, path: Path | None) -> Settings:
    if path is None:
        return settings
    try:
        key = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text") from None
    if not key:
        raise InputError(f"{path} holds no key")
    return replace(settings, api_key=key)


def listening(host: str, port: int) -> socket.socket:
    """A socket that accepts connections; port 0 takes a free one. Raises InputError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        words = f"cannot listen on {host} port {port}: {error.strerror}; --port chooses another"
        raise InputError(words) from None
    # Connections inherit this option, which asyncio sets only on sockets that asyncio made. Without it an answer's
    # second packet waits 40 ms until the client acknowledges the first.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


@contextmanager
def listening_to_own(path: Path | None) -> Iterator[list[socket.socket]]:
    """A Unix socket for the user's own programs, which goes at the end; none where there cannot be one."""
    if path is None:
        yield []
        return
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        if _is_served(path):
            raise OSError(errno.EADDRINUSE, "another server has this index")
        path.unlink(missing_ok=True)
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        logger.warning("mlx-jina search will not find this server: %s", error.strerror or error)
        yield []
        return
    own = path.stat()
    try:
        with listener:
            yield [listener]
    finally:
        # Another server may have taken the place.
        with suppress(OSError):
            if os.path.samestat(own, path.stat()):
                path.unlink()


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


def _allow_many_connections() -> None:
    """Raise the limit of open files, which macOS sets to 256."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if most == resource.RLIM_INFINITY else min(most, MOST_FILES)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _most_connections() -> int:
    """As many as fit into the limit of open files beside what else is open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        limit = MOST_FILES
    return max(limit - len(os.listdir("/dev/fd")) - OTHER_FILES, 16)
