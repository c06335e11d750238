"""What the functions that load a model share: checks, files, a thread, and where the model came from."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mlx_jina import device
from mlx_jina.catalog import Kind
from mlx_jina.choices import Dtype
from mlx_jina.engine.origin import Origin
from mlx_jina.engine.thread import ModelThread
from mlx_jina.options import check as check_options
from mlx_jina.weights import hub, kinds, loading
from mlx_jina.weights.loading import Loaded


def opened(
    kind: Kind,
    name: str | Path,
    *,
    revision: str | None,
    local_files_only: bool,
    dtype: Dtype | None,
    cache_dir: str | Path | None,
    task: str | None = None,
    as_model: str | None = None,
) -> tuple[Loaded, ModelThread, Origin]:
    """The parts of a model of this kind, by the options of `mlx_jina.load`, which says what is raised."""
    check_options(
        name=name,
        task=task,
        revision=revision,
        local_files_only=local_files_only,
        dtype=dtype,
        cache_dir=cache_dir,
        as_model=as_model,
    )
    device.check_dtype(dtype)
    kinds.check_name(str(name), kind)
    path = hub.resolve(str(name), revision, local_files_only, cache_dir, task, kind)
    thread = ModelThread()
    loaded = thread.run(partial(loading.load, kind=kind), path, str(name), task, dtype, as_model)
    origin = Origin.of(
        name,
        path,
        revision=revision,
        local_files_only=local_files_only,
        dtype=dtype,
        cache_dir=cache_dir,
        task=task,
        as_model=as_model,
    )
    return loaded, thread, origin
