"""A folder to a model that is ready to run: the catalog's word, dtype, quantisation, adapters."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_jina import catalog, device, models
from mlx_jina.catalog import Entry
from mlx_jina.cpu.layers import adapt
from mlx_jina.errors import CheckpointError, InputError, MlxJinaError
from mlx_jina.models.base import EncoderModel
from mlx_jina.nn import lora as nn_lora
from mlx_jina.text import prompts
from mlx_jina.weights import checkpoint, folder, lora, quantize
from mlx_jina.weights.checkpoint import Checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """What an encoder needs to know.

    `models` has one for each task, or one for all under None; they share their weights, and nothing is ever
    switched. `files` no longer holds tensors.
    """

    files: Checkpoint
    entry: Entry | None
    models: Mapping[str | None, EncoderModel]
    dtype: mx.Dtype
    tasks: tuple[str, ...]
    truncate_dims: tuple[int, ...]
    prompts: Mapping[str, str]
    default_prompt_name: str | None


@cache
def _say_licence(repo: str, name: str) -> None:
    logger.warning("%s is licensed %s: no commercial use", repo, name.upper())


def _tasks(files: Checkpoint, entry: Entry | None, task: str | None) -> tuple[str, ...]:
    """Those that can be asked for."""
    known: tuple[str, ...]
    if files.adapters:
        known = tuple(files.adapters)
    elif entry is not None:
        # One task may be merged, and where base weights answer too, none need be.
        merged = files.config.get("task_names", () if entry.untasked else entry.tasks)
        known = tuple(name for name in entry.tasks if name in merged)
    elif task is None or prompts.tasks_with_prompts(files.prompts):
        known = prompts.tasks_with_prompts(files.prompts)
    else:
        # A folder with one task merged: only its user knows which of them.
        name = prompts.split_task(task)[0]
        known = (name,) if name in (files.config.get("task_names") or ()) else ()
    chosen, _ = prompts.choose_task(task, None, known)
    return known if chosen is None else (chosen,)


def _dtype(model: EncoderModel, stored: mx.Dtype, exact: mx.Dtype | None, wanted: str | None) -> mx.Dtype:
    """What to compute in. `exact` is what packed weights need to keep their values."""
    chosen = device.compute_dtype(exact or stored, wanted)
    if chosen != mx.float16 or model.float16:
        return chosen
    if wanted is not None:
        raise InputError(
            f"dtype={wanted!r}: this architecture's activations can exceed float16's largest number, 65504; "
            "use 'bfloat16', which takes as little memory, or 'float32'"
        )
    # Scales in float16 would be rounded by bfloat16, each by up to 0.4 % of its group.
    return mx.float32 if exact is not None else mx.bfloat16


def _sizes(found: Any) -> tuple[int, ...]:
    if not isinstance(found, list | tuple) or not all(type(size) is int and size > 0 for size in found):
        raise CheckpointError(f"config.json: 'matryoshka_dims' should be sizes, found {found!r}")
    return tuple(found)


def _texts(found: Any) -> dict[str, str]:
    if not isinstance(found, Mapping) or not all(isinstance(text, str) for text in found.values()):
        raise CheckpointError(f"prompts should be texts by name, found {found!r}")
    return dict(found)


def _cast(model: nn.Module, dtype: mx.Dtype) -> None:
    model.apply(lambda x: x.astype(dtype) if mx.issubdtype(x.dtype, mx.floating) else x)
    mx.eval(model.parameters())


def load(path: Path, name: str, task: str | None, dtype: str | None) -> Loaded:
    """Read a folder for one task or for all; `name` is what the user called it. Raises CheckpointError."""
    try:
        return _load(path, name, task, dtype)
    except MlxJinaError:
        raise
    # What is checked nowhere by itself: a null where a number should be, a size beyond all memory.
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        words = f"its files do not fit together ({type(error).__name__}: {error})"
        raise CheckpointError(f"{path} cannot be loaded: {words}") from error


def _load(path: Path, name: str, task: str | None, dtype: str | None) -> Loaded:
    entry = catalog.find(name) or catalog.find(path.name)
    if folder.holds_gguf(path):
        # Imported here: the gguf package takes a quarter of a second.
        from mlx_jina.weights.gguf import reader as gguf_model

        files = gguf_model.read(path, task, packed=device.on_gpu())
    else:
        files = folder.read(path, task, merged=entry is not None and len(entry.tasks) == 1)
    if entry is not None and folder.is_another(entry, name, path, files.config):
        entry = None
    entry = entry or next((catalog.find(adapter.base) for adapter in files.adapters.values()), None)
    entry = entry or catalog.find(str(files.config.get("model_type")))
    if entry is not None and entry.non_commercial:
        _say_licence(entry.repo, entry.license)
    tasks = _tasks(files, entry, task)
    own_default = files.default_prompt_name or (entry.default_prompt_name if entry else None)
    if own_default is None and prompts.tasks_with_prompts(files.prompts):
        own_default = prompts.QUERY

    try:
        model = models.build(files.config, files.tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    tensors = {key: value for key, value in files.tensors.items() if not key.startswith(model.unused)}
    chosen = _dtype(model, checkpoint.stored_dtype(tensors.values()), files.exact_dtype, dtype)
    packed = quantize.is_quantized(files.config) and device.on_gpu()
    if packed:
        quantize.quantize_model(model, tensors, files.config)
    elif quantize.is_quantized(files.config):
        tensors = quantize.dequantize(tensors, files.config, chosen)
    # Packed weights cannot be fused without quantising them once more.
    fused = task is not None and not packed
    if fused:
        for adapter in files.adapters.values():
            tensors = lora.fuse(tensors, adapter)
    checkpoint.assign(model, tensors, path)
    _cast(model, chosen)
    untasked = entry is not None and entry.untasked
    by_task: dict[str | None, EncoderModel] = {None: model} if fused or untasked or not files.adapters else {}
    for key, adapter in ({} if fused else files.adapters).items():
        by_task[key if task is None else None] = view = models.build(files.config, files.tensors)
        if packed:
            quantize.quantize_model(view, tensors, files.config)
        view.update(model.parameters())
        lora.check(adapter, nn_lora.shapes(view))
        nn_lora.attach(view, adapter.pairs, chosen)
        mx.eval(view.parameters())
    device.limit_cache()
    for each in by_task.values() if not device.on_gpu() else ():
        adapt(each)
    return Loaded(
        # The tensors are the model's now; a second reference would keep unconverted copies alive.
        files=replace(files, tensors={}, adapters={}),
        entry=entry,
        models=by_task,
        dtype=chosen,
        tasks=tasks,
        truncate_dims=_sizes(files.config.get("matryoshka_dims") or (entry.truncate_dims if entry else ())),
        prompts=_texts(files.prompts or (entry.prompts if entry else {})),
        default_prompt_name=prompts.choose_task(task, None, tasks)[1] or own_default,
    )
