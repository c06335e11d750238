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
    """The arguments of `mlx_jina.load`."""

    name: str
    task: str | None
    revision: str | None
    local_files_only: bool
    dtype: str | None
    cache_dir: str | None
    as_model: str | None

    def found_at(self, path: Path) -> Origin:
        """The origin of a model whose files were found here: from everywhere, these files are meant."""
        if path.parent.name == "snapshots":
            return self._replace(revision=path.name)
        if Path(os.path.expanduser(self.name)) == path:
            return self._replace(name=str(path.absolute()))
        return self


class Known(Generic[M]):
    """Models of this process by origin: one that arrives again is not loaded again.

    The latest to arrive stays, because tasks of a pool bring it along one after another.
    """

    def __init__(self) -> None:
        self._models: WeakValueDictionary[Origin, M] = WeakValueDictionary()
        self._latest: M | None = None
        self._loading = threading.RLock()

    def remember(self, origin: Origin, model: M) -> None:
        """Take note of a model that may come back."""
        self._models[origin] = model

    def get(self, origin: Origin, load: Callable[[Origin], M]) -> M:
        """The model, loaded if there is none."""
        with self._loading:
            model = self._models.get(origin)
            if model is None:
                self._latest = None
                model = self._models[origin] = load(origin)
            self._latest = model
            return model
