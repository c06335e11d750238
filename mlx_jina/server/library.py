"""The models that a server may use, by name; loaded on first use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_jina import catalog, hub
from mlx_jina.catalog import Entry
from mlx_jina.encoder import Encoder, load
from mlx_jina.errors import CheckpointError, ModelNotFoundError
from mlx_jina.server.refusal import Refusal


@dataclass(frozen=True)
class Name:
    """A model as a client asks for it: "v5-small:retrieval.query" is a model and the suffix's task and side."""

    model: str
    suffix: str | None


class Model:
    """One model of a library, loaded or not."""

    def __init__(self, name: str, source: str, entry: Entry | None) -> None:
        self.name = name
        """What clients call it."""
        self.source = source
        """What `mlx_jina.load` takes; never from a request unless the catalog knows it."""
        self.entry = entry
        """Its row in the catalog, if it has one."""
        self.encoder: Encoder | None = None
        self.loading = asyncio.Lock()
        self.used = time.monotonic()
        """When it was last used."""


class Library:
    """Finds models by name and keeps them loaded.

    `names` are the models of the command line, as NAME or ALIAS=NAME, the first being the default; besides
    them, the catalog's models that are on this machine (or, with `allow_download`, all of them) can be asked
    for. Nothing else can: a request never names a path.
    """

    def __init__(self, names: Sequence[str], allow_download: bool = False, **loading: Any) -> None:
        self._loading: Mapping[str, Any] = loading
        self._allow_download = allow_download
        self._models: dict[str, Model] = {}
        for name in names:
            alias, _, source = name.rpartition("=")
            self._add(alias or _called(source), source)
        self.default = next(iter(self._models.values()))

    def _add(self, name: str, source: str) -> Model:
        model = Model(name, source, catalog.find(source))
        self._models[name.lower()] = model
        return model

    def find(self, name: str) -> tuple[Model, str | None]:
        """The model of a client's name and its suffix, without loading it. Raises Refusal 404."""
        if not name:
            return self.default, None
        if (found := self._find(name)) is not None:
            return found, None
        model, _, suffix = name.rpartition(":")
        if model and (found := self._find(model)) is not None:
            # Ollama's clients add it to every name.
            return found, None if suffix == "latest" else suffix
        known = ", ".join(sorted(model.name for model in self.available()))
        raise Refusal(404, f"model {name!r} is not on this server; it has {known}", "model_not_found", "model")

    def _find(self, name: str) -> Model | None:
        if (own := self._models.get(name.lower())) is not None:
            return own
        entry = catalog.find(name)
        if entry is None:
            return None
        same = next((model for model in self._models.values() if model.entry is entry), None)
        if same is not None:
            return same
        try:
            hub.resolve(entry.repo, local_files_only=not self._allow_download)
        except ModelNotFoundError:
            return None
        return self._add(min((entry.repo, *entry.aliases), key=len), entry.repo)

    def available(self) -> list[Model]:
        """The models that can be asked for without a download."""
        return list(self._models.values())

    async def load(self, model: Model) -> Encoder:
        """The model's encoder, loaded if it is not yet. Raises Refusal 503."""
        model.used = time.monotonic()
        async with model.loading:
            if model.encoder is None:
                offline = not self._allow_download
                try:
                    model.encoder = await asyncio.to_thread(
                        load, model.source, local_files_only=offline, **self._loading
                    )
                except (ModelNotFoundError, CheckpointError) as error:
                    raise Refusal(
                        503, f"model {model.name!r} does not load: {error}", "model_not_loaded"
                    ) from None
            return model.encoder


def _called(source: str) -> str:
    """A folder or a file is called by its name without its ending."""
    return source if catalog.find(source) else Path(source).name.removesuffix(".gguf")
