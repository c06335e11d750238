"""The models that a server may use, by name: loaded on first use, unloaded when idle or when memory is short."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import mlx.core as mx

from mlx_jina import catalog
from mlx_jina.catalog import Entry, Kind
from mlx_jina.encoder import Encoder, load
from mlx_jina.errors import CheckpointError, InputError, MlxJinaError, ModelNotFoundError
from mlx_jina.multi_vector import MultiVectorEncoder, load_multi_vector
from mlx_jina.options import LoadOptions, PlaceOptions
from mlx_jina.reranker import Reranker, load_reranker
from mlx_jina.server.errors import ApiError
from mlx_jina.server.reranking import Reranking
from mlx_jina.server.scheduler import Scheduler
from mlx_jina.weights import hub, kinds

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger(__name__)

# A request waits for a download so long; the download goes on for later ones.
DOWNLOAD_SECONDS = 60

T = TypeVar("T")


class StoreOptions(LoadOptions, total=False):
    """Options of `ModelStore`, which explains those that `mlx_jina.load` does not have."""

    allow_download: bool
    max_memory: int | None
    keep_alive: float | None


class Loaded:
    """A model in memory, and the scheduler that all requests for embeddings share."""

    def __init__(self, model: Encoder | MultiVectorEncoder | Reranker, scheduler: Scheduler) -> None:
        self.model = model
        """The model of any kind, for its facts."""
        self.scheduler = scheduler
        self.plan = lru_cache(maxsize=256)(lambda **options: self.encoder.plan(**options))
        """`Encoder.plan` with a cache, because most requests have the same options."""
        self.threads = ThreadPoolExecutor(2, thread_name_prefix="mlx-jina-multi-vector")
        """Where parts of requests for token vectors wait: one is tokenised while another one computes."""
        self._fingerprints: dict[str | None, str] = {}
        self._of_tokens: dict[str | None, str] = {}

    @property
    def encoder(self) -> Encoder:
        """The model. Raises ApiError 400 for one that has a vector for each token, and for a reranker."""
        if isinstance(self.model, MultiVectorEncoder):
            raise _other_kind("has a vector for every token, and no embedding: POST /v1/multi-vector")
        if isinstance(self.model, Reranker):
            raise _other_kind("is a reranker, which gives no vectors: POST /v1/rerank")
        return self.model

    @property
    def multi_vector(self) -> MultiVectorEncoder:
        """The model, or what gives vectors of tokens by its weights. Raises ApiError 400 without those."""
        if isinstance(self.model, Encoder):
            with suppress(CheckpointError):
                return self.model.multi_vector
            raise _other_kind("has one vector for each text, and none for its tokens: POST /v1/embeddings")
        if isinstance(self.model, Reranker):
            raise _other_kind("is a reranker, which gives no vectors: POST /v1/rerank")
        return self.model

    @property
    def reranker(self) -> Reranker:
        """The model. Raises ApiError 400 if it is no reranker."""
        if not isinstance(self.model, Reranker):
            route = "/v1/embeddings" if isinstance(self.model, Encoder) else "/v1/multi-vector"
            raise _other_kind(f"gives vectors, and scores no documents: POST {route}, or name a reranker")
        return self.model

    async def fingerprint(self, task: str | None) -> str:
        """`Encoder.fingerprint`, in a thread because the first call reads all weights."""
        if task not in self._fingerprints:
            self._fingerprints[task] = await asyncio.to_thread(self.model.fingerprint, task)
        return self._fingerprints[task]

    async def fingerprint_of_tokens(self, task: str | None) -> str:
        """The fingerprint of vectors of tokens, likewise."""
        if task not in self._of_tokens:
            self._of_tokens[task] = await asyncio.to_thread(self.multi_vector.fingerprint, task)
        return self._of_tokens[task]

    async def warm_up(self) -> None:
        """Run one text, so that the first request is as quick as all later ones."""
        task = next(iter(self.model.tasks), None)
        if isinstance(self.model, Encoder):
            await asyncio.to_thread(self.model.encode, "warm up", task=task)
        elif isinstance(self.model, Reranker):
            await asyncio.to_thread(self.model.score, "warm", ["up"])
        else:
            await asyncio.to_thread(self.model.encode_query, "warm up")
        await self.fingerprint(task)

    def fingerprints(self) -> dict[str, str]:
        """The fingerprints that were computed so far, by task ("" for a model without tasks)."""
        return {task or "": fingerprint for task, fingerprint in self._fingerprints.items()}


def _other_kind(words: str) -> ApiError:
    return ApiError(400, f"this model {words}", "model_kind", "model")


class Model:
    """One model of a store, in memory or not."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        """The name that clients use."""
        self.source = source
        """The name for `mlx_jina.load`, from the command line or the catalog, never from a request."""
        self.entry: Entry | None = catalog.find(source)
        """The model's row in the catalog, if there is one."""
        self.kind: Kind = self.entry.kind if self.entry else _kind(Path(os.path.expanduser(source)))
        """What the model gives for a text."""
        self.loaded: Loaded | None = None
        self.requests = 0
        """How many requests use the model now."""
        self.used = time.monotonic()
        """When the last request ended."""
        self.loading: asyncio.Task[Loaded] | None = None
        self.download: asyncio.Future[Path] | None = None


class ModelStore:
    """Finds models by name and keeps them in memory while they are used.

    - `names`: the models of the command line, as NAME or ALIAS=NAME, the first being the default. Requests may
      also name the catalog's models on this machine (with `allow_download`, all of the catalog's), and nothing
      else: a request never names a path.
    - `max_memory`: bytes of weights to keep; the least recently used idle models make room. None is no limit.
    - `keep_alive`: seconds without a request after which a model is unloaded. None is never.
    - `observe` is called after every batch with the model's name, and the batch's texts, tokens and seconds.
    - `loading` are options of `mlx_jina.load`.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        allow_download: bool = False,
        max_memory: int | None = None,
        keep_alive: float | None = None,
        observe: Callable[[str, int, int, float], None] = lambda *_: None,
        **loading: Unpack[LoadOptions],
    ) -> None:
        self._allow_download = allow_download
        self._max_memory = max_memory
        self._keep_alive = keep_alive
        self._observe = observe
        self._loading = loading
        # One model loads at a time, because two could each find the same free memory.
        self._making_room = asyncio.Lock()
        self._ending = asyncio.Event()
        self._tokenizing = (
            ThreadPoolExecutor(1, thread_name_prefix="mlx-jina-tokens"),
            ThreadPoolExecutor(1, thread_name_prefix="mlx-jina-tokens-large"),
        )
        self.reranking = Reranking()
        """Where requests to rerank wait."""
        self._models: dict[str, Model] = {}
        for argument in names:
            alias, source = hub.split_alias(argument)
            name = alias or _called(source)
            if (other := self._models.get(name.lower())) is not None:
                words = f"{other.source} and {source} would both be called {name!r}"
                raise InputError(f"{words}; give one another name: ALIAS={source}")
            self._add(name, source)
        self.default = next(iter(self._models.values()))

    # ---- by name

    async def find(self, name: str, kind: Kind = "embedding") -> tuple[Model, str | None]:
        """The model that a client names, loaded or not, and the name's suffix. Raises ApiError 404."""
        if not name and kind == "reranker":
            # Of several models, a request that names none can mean only a reranker.
            own = [model for model in self._models.values() if model.kind == "reranker"]
            return next(iter(own), self.default), None
        if not name:
            return self.default, None
        if (found := await self._find(name)) is not None:
            return found, None
        model, _, suffix = name.rpartition(":")
        if model and (found := await self._find(model)) is not None:
            # Ollama's clients add `:latest` to every name.
            return found, None if suffix == "latest" else suffix
        known = ", ".join(sorted(own.name for own in self._models.values()))
        words = f"model {name!r} is not on this server, which has: {known}; mlx-jina serve takes more of them"
        raise ApiError(404, words, "model_not_found", "model")

    async def _find(self, name: str) -> Model | None:
        if (own := self._models.get(name.lower())) is not None:
            return own
        entry = catalog.find(name)
        if entry is None:
            return None
        if self._allow_download or self._of(entry) or await asyncio.to_thread(self._is_here, entry):
            return self._known(entry)
        return None

    def _of(self, entry: Entry) -> Model | None:
        return next((model for model in self._models.values() if model.entry is entry), None)

    def _known(self, entry: Entry) -> Model | None:
        """A model of the catalog, under its shortest name that no model of the command line has."""
        if (own := self._of(entry)) is not None:
            return own
        free = [name for name in (entry.repo, *entry.aliases) if name.lower() not in self._models]
        return self._add(min(free, key=len), entry.repo) if free else None

    def _add(self, name: str, source: str) -> Model:
        self._models[name.lower()] = model = Model(name, source)
        return model

    def path_of(self, source: str) -> Path | None:
        """Where a model's files are; None if they are not on this machine."""
        try:
            return hub.resolve(source, local_files_only=True, cache_dir=self._loading.get("cache_dir"))
        except ModelNotFoundError:
            return None

    def _is_here(self, entry: Entry) -> bool:
        return self.path_of(entry.repo) is not None

    async def available(self, kinds: Sequence[Kind] = ("embedding",)) -> list[Model]:
        """The models of these kinds that can be asked for without a download."""
        here = await asyncio.to_thread(lambda: [entry for entry in catalog.ALL if self._is_here(entry)])
        for entry in here:
            self._known(entry)
        return [model for model in self._models.values() if model.kind in kinds]

    def configured(self) -> list[Model]:
        """The models of the command line, and those that were asked for since."""
        return [*self._models.values()]

    def in_memory(self) -> list[Model]:
        """The models that are loaded."""
        return [model for model in self._models.values() if model.loaded is not None]

    def waiting_tokens(self) -> int:
        """Tokens of all texts whose batch has not started."""
        waiting = sum(model.loaded.scheduler.waiting_tokens for model in self.in_memory() if model.loaded)
        return waiting + self.reranking.waiting_tokens

    def seconds_ahead(self) -> float:
        """Roughly how long the waiting texts will take; embeddings and reranks share one device."""
        embeddings = (model.loaded.scheduler.seconds_ahead() for model in self.in_memory() if model.loaded)
        return max(embeddings, default=0.0) + self.reranking.seconds_ahead()

    def observe(self, model: Model, texts: int, tokens: int, seconds: float) -> None:
        """Count what a model has computed."""
        self._observe(model.name, texts, tokens, seconds)

    # ---- in memory

    async def in_turn(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run memory-hungry work in a thread, one call after the other."""
        return await asyncio.get_running_loop().run_in_executor(self._tokenizing[1], function, *arguments)

    @asynccontextmanager
    async def using(self, model: Model) -> AsyncIterator[Loaded]:
        """The model, loaded, and kept in memory until the end of the block. Raises ApiError 503."""
        model.requests += 1
        try:
            loaded = model.loaded
            if loaded is None:
                if model.loading is None:
                    model.loading = asyncio.create_task(self._load(model))
                    model.loading.add_done_callback(lambda task: _ended(model, "loading", task))
                # The load goes on, for others or for when it is asked again, if this client hangs up.
                loaded = await asyncio.shield(model.loading)
            yield loaded
        finally:
            model.requests -= 1
            model.used = time.monotonic()

    async def _load(self, model: Model) -> Loaded:
        started = time.perf_counter()
        try:
            path = await self._resolve(model)
            async with self._making_room:
                await self._make_room(_size(path), wanted=model)
                options: LoadOptions = {**self._loading, "local_files_only": True}
                opened = await asyncio.to_thread(_open, model.source, kinds.of(path, model.source), options)
                await self._make_room(opened.nbytes, wanted=model)
                model.loaded = loaded = Loaded(
                    opened,
                    Scheduler(opened.pipeline, self._tokenizing, lambda *batch: self._observe(model.name, *batch)),
                )
                model.kind = opened.kind
                model.used = time.monotonic()
        except MlxJinaError as error:
            words = f"model {model.name!r} cannot be loaded: {error}"
            if isinstance(error, ModelNotFoundError) and model.entry is not None and not self._allow_download:
                words += "; mlx-jina serve --allow-download fetches it"
            raise ApiError(503, words, "model_not_loaded") from None
        logger.info("loaded %s in %.1f s", model.name, time.perf_counter() - started)
        return loaded

    async def _resolve(self, model: Model) -> Path:
        """The model's files, downloaded if need be. Raises ModelNotFoundError, ApiError 503 if that takes long."""
        places = self._loading.get("revision"), self._loading.get("cache_dir")

        def resolve(local_files_only: bool) -> Path:
            return hub.resolve(model.source, places[0], local_files_only, places[1])

        try:
            return await asyncio.to_thread(resolve, True)
        except ModelNotFoundError:
            if not self._allow_download:
                raise
        if (download := model.download) is None:
            model.download = download = in_background(partial(resolve, False))
            download.add_done_callback(lambda future: _ended(model, "download", future))
        ending = asyncio.create_task(self._ending.wait())
        await asyncio.wait((download, ending), timeout=DOWNLOAD_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if not download.done():
            raise ApiError(
                503,
                f"model {model.name!r} is still being downloaded; try again later",
                "model_not_loaded",
                headers={"Retry-After": "30"},
            )
        return download.result()

    def end(self) -> None:
        """Let no request wait for a download any more."""
        self._ending.set()

    def downloading(self) -> bool:
        """Whether a download is under way, whose threads would keep the process from ending."""
        return any(model.download is not None for model in self._models.values())

    async def _make_room(self, size: int, wanted: Model) -> None:
        if self._max_memory is None:
            return
        if size > self._max_memory:
            raise ApiError(
                503,
                f"model {wanted.name!r} takes {size / 1e6:.0f} MB, and this server may use "
                f"{self._max_memory / 1e6:.0f} MB (--max-memory)",
                "model_not_loaded",
            )
        idle = sorted((m for m in self.in_memory() if not m.requests), key=lambda m: m.used)
        for model in idle:
            if size + self.bytes_in_memory() <= self._max_memory:
                return
            await self._unload(model)
        if size + self.bytes_in_memory() > self._max_memory:
            raise ApiError(
                503,
                f"there is no room for model {wanted.name!r} while others are in use",
                "model_not_loaded",
                headers={"Retry-After": "5"},
            )

    async def _unload(self, model: Model) -> None:
        model.loaded = None
        await asyncio.to_thread(_free)
        logger.info("unloaded %s", model.name)

    def bytes_in_memory(self) -> int:
        """Bytes of the weights of all loaded models."""
        return sum(model.loaded.model.nbytes for model in self._models.values() if model.loaded)

    async def unload_idle(self) -> None:
        """Unload models without a request for `keep_alive` seconds; runs until it is cancelled."""
        if self._keep_alive is None:
            return
        while True:
            await asyncio.sleep(min(self._keep_alive / 4 + 0.1, 30))
            now = time.monotonic()
            for model in self.in_memory():
                if not model.requests and now - model.used > self._keep_alive:
                    await self._unload(model)


def in_background(function: Callable[[], T]) -> asyncio.Future[T]:
    """Run what may take for ever in a thread of its own; neither other work nor the process's end waits for it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast("T", result))

    def work() -> None:
        result, failure = None, None
        try:
            result = function()
        # Whoever waits for the future gets it.
        except Exception as error:
            failure = error
        # The loop is closed if the process is about to end.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=work, daemon=True, name="mlx-jina-download").start()
    return future


def _ended(model: Model, name: str, future: asyncio.Future[Any]) -> None:
    """Forget what has ended; also an error that nobody waits for any more."""
    setattr(model, name, None)
    if not future.cancelled():
        future.exception()


def _free() -> None:
    # A refusal's traceback and its frames refer to each other, and keep the model until garbage is collected.
    gc.collect()
    mx.clear_cache()


def _open(source: str, kind: Kind, options: LoadOptions) -> Encoder | MultiVectorEncoder | Reranker:
    if kind == "multi-vector":
        return load_multi_vector(source, **options)
    try:
        return load(source, **options)
    except kinds.RerankerError:
        places = {name: value for name, value in options.items() if name in PlaceOptions.__optional_keys__}
        return load_reranker(source, **cast(PlaceOptions, places))


def _kind(path: Path) -> Kind:
    """What is at a path; a path with nothing readable fails when it is loaded."""
    try:
        return kinds.of(path)
    except CheckpointError:
        return "embedding"


def _called(source: str) -> str:
    """The name that clients use for a source: of a folder or a file, its own name without the ending."""
    return source if catalog.find(source) else Path(source).name.removesuffix(".gguf")


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*.safetensors")
    return sum(file.stat().st_size for file in files)
