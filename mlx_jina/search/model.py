"""The model of an index: loaded for the first vector, and recognised without reading its weights."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_jina import __version__, catalog
from mlx_jina.errors import InputError
from mlx_jina.weights import hub

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from mlx_jina.encoder import Encoder
    from mlx_jina.text.prompts import Side
    from mlx_jina.vectors import Floats

DEFAULT = "pocket"
_RETRIEVAL = "retrieval"
# Queries whose vectors are kept: those of searches that run at once, and one that is repeated.
_QUERIES = 32


@dataclass(frozen=True)
class Space:
    """Vectors that may be compared with each other. `suffix` is that of their tables: "" or "_next"."""

    model: str
    """The name that it was loaded by."""
    fingerprint: str
    dimension: int
    known: str
    """What `Model.fingerprint` returned beside it."""
    suffix: str = ""
    sees: bool = False
    """Whether it has vectors of pictures."""


def check(model: object, *, local_files_only: bool = False) -> None:
    """Raise InputError for what is neither a name nor a loaded model, and ModelNotFoundError for a misspelt name.

    With `local_files_only` the model has to be on this machine.
    """
    if not isinstance(model, (str, Path)):
        if not hasattr(model, "encode_query"):
            raise InputError(f"model={model!r} must be a name or a loaded model, not {type(model).__name__}")
    elif local_files_only:
        from mlx_jina.cpu import blas

        # To look into the cache imports MLX.
        blas.open_fast()
        hub.resolve(str(model), local_files_only=True, task=_fused(str(model)))
    else:
        hub.local(str(model))


def _fused(name: str) -> str | None:
    """The task whose adapter is fused into the weights, which is fastest; None where there is no such choice."""
    entry = catalog.find(name)
    return _RETRIEVAL if entry is not None and len(entry.tasks) > 1 and _RETRIEVAL in entry.tasks else None


class Model:
    """A model by name, or one that is loaded already. Safe to share between threads."""

    def __init__(self, model: str | Path | Encoder, *, local_files_only: bool = False) -> None:
        self.name = str(model if isinstance(model, (str, Path)) else model.path)
        self._encoder: Encoder | None = None if isinstance(model, (str, Path)) else model
        self.local_files_only = local_files_only
        self._loading = threading.Lock()
        self._fingerprint: tuple[str, str] | None = None
        self._encoding = threading.Lock()
        self._starting = threading.Lock()
        self._preloading: ThreadPoolExecutor | None = None
        self._latest: str | None = None
        self._queries: dict[str, Floats] = {}

    @property
    def encoder(self) -> Encoder:
        """The loaded model. Raises what `mlx_jina.load` raises."""
        with self._loading:
            if self._encoder is None:
                from mlx_jina.cpu import blas

                blas.open_fast()
                from mlx_jina import encoder

                self._encoder = encoder.load(
                    self.name, task=_fused(self.name), local_files_only=self.local_files_only
                )
            return self._encoder

    def preload(self, text: str) -> None:
        """Begin to load the model and to encode a query. Whoever asks for that query waits, or gets the error."""
        if text in self._queries:
            return
        self._latest = text
        # A process that is about to end begins nothing any more, and still searches.
        with suppress(RuntimeError), self._starting:
            from concurrent.futures import ThreadPoolExecutor

            if self._preloading is None:
                self._preloading = ThreadPoolExecutor(1, thread_name_prefix="mlx-jina-load")
            self._preloading.submit(self._preload, text)

    def close(self) -> None:
        """Wait for what was begun: a process that ends while MLX is imported, or computes, would end badly."""
        with self._starting:
            executor, self._preloading = self._preloading, None
        if executor is not None:
            executor.shutdown()

    def _preload(self, text: str) -> None:
        # Whoever asks for the query meets the error again.
        with suppress(Exception), self._encoding:
            # Somebody who types on needs only the latest one.
            if text == self._latest:
                self._encoded(text)

    @property
    def sees(self) -> bool:
        """Whether the model sees pictures: before it is loaded, as its name or config.json promises."""
        if self._encoder is not None:
            return self._encoder.sees
        if (folder := Path(self.name).expanduser()).is_dir():
            try:
                config = json.loads((folder / "config.json").read_bytes())
            except (OSError, ValueError):
                return False
            return isinstance(config, dict) and "vision_config" in config
        entry = catalog.find(self.name)
        return entry is not None and entry.sees

    @property
    def weight(self) -> float:
        """How much its cosines count beside words, where an index says nothing else."""
        entry = catalog.find(self.name) if self._encoder is None else self._encoder.entry
        return catalog.Entry.meaning_weight if entry is None else entry.meaning_weight

    @property
    def dimension(self) -> int:
        """Of its vectors."""
        return self.encoder.dimension

    def fingerprint(self, known: str | None = None) -> tuple[str, str]:
        """What tells vectors of this model from those of others, and what its files look like now.

        `known` is the second of these from another time: if the files look the same, weights are not read for it.
        """
        if self._fingerprint is None:
            seen = self._seen()
            before = json.loads(known) if known is not None else {}
            own = before.pop("fingerprint", None)
            if own is None or before != seen:
                own = self.encoder.fingerprint(self._task("document"))
            self._fingerprint = own, json.dumps({**seen, "fingerprint": own})
        return self._fingerprint

    def is_up_to_date(self, known: str) -> bool:
        """Whether this version returned it beside a fingerprint: another may bring other weights by a name."""
        return bool(json.loads(known).get("version") == self._version())

    def encode_documents(self, texts: Sequence[str]) -> Floats:
        """Vectors (N, D) of texts to be found."""
        return self.encoder.encode_document(list(texts), task=self._task("document"), show_progress_bar=False)

    def encode_pictures(self, pictures: Iterable[tuple[int, object]]) -> Iterator[tuple[int, Floats]]:
        """Vectors (D,) of pictures to be found, by their places."""
        plan = self.encoder.plan(task=self._task("document"))
        for places, seen in self.encoder.windows_of_images(pictures, plan):
            for place, own in zip(places, seen, strict=True):
                vector: Floats = own.vectors[0].astype("float32")
                yield place, vector

    def encode_query(self, text: str) -> Floats:
        """The vector (D,) of what is looked for."""
        with self._encoding:
            return self._encoded(text)

    def _encoded(self, text: str) -> Floats:
        if (vector := self._queries.get(text)) is None:
            vector = self.encoder.encode_query(text, task=self._task("query"), show_progress_bar=False)
            self._queries[text] = vector
            if len(self._queries) > _QUERIES:
                del self._queries[next(iter(self._queries))]
        return vector

    def _task(self, side: Side) -> str | None:
        """Of a model that has several: the one for retrieval, else the one it answers when none is named."""
        tasks = self.encoder.tasks
        if _RETRIEVAL in tasks:
            return _RETRIEVAL
        default = self.encoder.entry.default_task if self.encoder.entry else None
        return default if default in tasks else self.encoder.loaded.prompts.task_of(side, None)

    def _seen(self) -> dict[str, Any]:
        """What the model's files look like, and which version makes fingerprints of them."""
        path = Path(self.encoder.path)
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        stats = [(file.name, file.stat()) for file in files if file.is_file()]
        names = [[name, status.st_size, status.st_mtime_ns] for name, status in stats]
        return {"files": names, "version": self._version()}

    def _version(self) -> str:
        """Of this package, and of the model that it brings along."""
        entry = catalog.find(self.name)
        return __version__ if entry is None or entry.version is None else f"{__version__}, {entry.title}"


Progress = Callable[[str, int, int], object]
"""Is told what is being made ("words" or "vectors"), how much of it is done, and how much there is."""
