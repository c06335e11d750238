"""Where a model came from, so that it can be loaded again in another process.

Weights belong to MLX and to the thread that loaded them; a name and some options are all that travels.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar
from weakref import WeakValueDictionary

M = TypeVar("M")


class Origin(NamedTuple):
    """The arguments of `mlx_jina.load`, some of which other models' functions do not have."""

    name: str
    task: str | None
    revision: str | None
    local_files_only: bool
    dtype: str | None
    cache_dir: str | None
    as_model: str | None

    @classmethod
    def of(
        cls,
        name: str | Path,
        path: Path,
        *,
        revision: str | None,
        local_files_only: bool,
        dtype: str | None,
        cache_dir: str | Path | None,
        task: str | None = None,
        as_model: str | None = None,
    ) -> Origin:
        """The origin of a model by arguments of `mlx_jina.load`, whose files were found at `path`."""
        cache = None if cache_dir is None else str(Path(cache_dir).absolute())
        return cls(str(name), task, revision, local_files_only, dtype, cache, as_model)._found_at(path)

    def _found_at(self, path: Path) -> Origin:
        """The origin of a model whose files were found here: from everywhere, these files are meant."""
        if path.parent.name == "snapshots":
            return self._replace(revision=path.name)
        if Path(os.path.expanduser(self.name)) == path:
            return self._replace(name=str(path.absolute()))
        return self


class Known(Generic[M]):
    """Models of this process by class and origin: one that arrives again is not loaded again.

    The latest to arrive stays, because tasks of a pool bring it along one after another.
    """

    def __init__(self) -> None:
        self._models: WeakValueDictionary[tuple[type[M], Origin], M] = WeakValueDictionary()
        self._latest: M | None = None
        self._loading = threading.RLock()

    def remember(self, origin: Origin, model: M) -> None:
        """Take note of a model that may come back."""
        self._models[type(model), origin] = model

    def get(self, kind: type[M], origin: Origin, load: Callable[[Origin], M]) -> M:
        """The model, loaded if there is none."""
        with self._loading:
            model = self._models.get((kind, origin))
            if model is None:
                self._latest = None
                model = self._models[kind, origin] = load(origin)
            self._latest = model
            return model
