"""A folder or a .gguf to a model that is ready to run: read, choose a dtype, build, attach the tasks' adapters."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_jina import catalog, device, models
from mlx_jina.catalog import Entry, Kind
from mlx_jina.cpu import layers as cpu_layers
from mlx_jina.errors import CheckpointError, InputError, MlxJinaError, shown
from mlx_jina.models.base import EncoderModel
from mlx_jina.models.config import names as config_names
from mlx_jina.nn import lora as nn_lora
from mlx_jina.text import prompts
from mlx_jina.text.prompts import Prompts
from mlx_jina.weights import budget, checkpoint, folder, hub, kinds, lora, quantize, rerankers, vision
from mlx_jina.weights.budget import Budget
from mlx_jina.weights.checkpoint import Checkpoint
from mlx_jina.weights.quantize import Packings
from mlx_jina.weights.vision import Vision

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
    budget: Budget
    truncate_dims: tuple[int, ...]
    prompts: Prompts
    # Of the layers that are packed in the files; where a CPU computes, none is in memory.
    packings: Packings
    # Of a model that sees pictures; it reads nothing before the first one.
    vision: Vision | None = None

    def model_for(self, task: str | None) -> EncoderModel:
        """The model that answers for a task: its own, or the one for all."""
        return self.models[task if task in self.models else None]


def load(
    path: Path,
    name: str,
    task: str | None,
    dtype: str | None,
    as_model: str | None = None,
    *,
    kind: Kind = "embedding",
) -> Loaded:
    """Read a folder for one task or for all; `name` is what the user called it, `as_model` what it is.

    Raises CheckpointError, also for a model of another kind, and InputError for a model that it cannot be.
    """
    try:
        return _load(path, name, task, dtype, as_model, kind)
    except MlxJinaError:
        raise
    # What is checked nowhere by itself: a null where a number should be, a size beyond all memory.
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        reason = f"its files do not fit together ({type(error).__name__}: {error})"
        raise CheckpointError(f"{path} cannot be loaded: {reason}") from error


def _load(path: Path, name: str, task: str | None, dtype: str | None, as_model: str | None, kind: Kind) -> Loaded:
    wanted = None if as_model is None else checkpoint.published(as_model)
    files, entry = _read(path, name, task, wanted, kind)
    if kind == "reranker":
        files = rerankers.translate(files, name)
    elif kind == "embedding":
        kinds.check_embedding(files.path, name, files.config, files.tensors)
    architecture = models.identify(files.config)
    kinds.check(path, architecture.kind, kind, architecture.also)
    if entry is not None and entry.non_commercial:
        _warn_of_licence(entry.repo, entry.license)
    tasks = _tasks(files, entry, task)
    model = checkpoint.build(files.path, files.config, files.tensors)
    if wanted is not None:
        checkpoint.check_is(wanted, model, files.path, bool(files.adapters))
    files.tokenizer.fast.encode_special_tokens = files.tokenizer.fast.encode_special_tokens or model.plain_text
    if model.max_length <= files.tokenizer.special_tokens:
        raise CheckpointError(
            f"{path} limits texts to {model.max_length} tokens, of which the tokenizer's own take "
            f"{files.tokenizer.special_tokens}: nothing of a text would be left"
        )
    files = files.without(model.unused)
    stored_packings: Packings = checkpoint.packings(files, model)
    compute_dtype = _choose_dtype(model, files, dtype)
    memory = budget.of(model, files, compute_dtype, packed=bool(stored_packings), fuse=task is not None)
    _keep_float32(compute_dtype)
    files, packings = _prepare(files, stored_packings, compute_dtype, fuse=task is not None)
    _fill(model, files, packings, compute_dtype)
    by_task = _attach(model, files, packings, compute_dtype)
    if task is not None:
        # With one task there is one model, and calls need not name the task.
        by_task = {None: by_task.popitem()[1]}
    elif entry is not None and entry.untasked:
        by_task = {None: model, **by_task}
    if not device.on_gpu():
        for view in by_task.values():
            cpu_layers.adapt(view)
    loaded = Loaded(
        # The tensors are the model's now; a second reference would keep unconverted copies alive.
        files=replace(files, tensors={}, adapters={}),
        entry=entry,
        models=by_task,
        dtype=compute_dtype,
        budget=memory,
        truncate_dims=_sizes(path, files.config.get("matryoshka_dims") or (entry.truncate_dims if entry else ())),
        prompts=Prompts(
            by_name=_texts(path, files.prompts or (entry.prompts if entry else {})),
            default_name=_default_prompt_name(files, entry, task, tasks),
            tasks=tasks,
            task_required=None not in by_task,
        ),
        packings=stored_packings,
        vision=vision.of(files, model),
    )
    return loaded if kind == architecture.kind else for_tokens(loaded)


def for_tokens(loaded: Loaded) -> Loaded:
    """The same weights for late interaction, with a vector for each token. Raises CheckpointError."""
    try:
        views = {task: model.for_tokens() for task, model in loaded.models.items()}
    except CheckpointError as error:
        raise checkpoint.located(loaded.files.path, error) from None
    return replace(loaded, models=views, truncate_dims=())


def _read(
    path: Path, name: str, task: str | None, wanted: Entry | None, kind: Kind
) -> tuple[Checkpoint, Entry | None]:
    """The files, and the catalog's row of the model, if it has one."""
    if hub.holds_gguf(path):
        # Imported here: the gguf package takes a quarter of a second.
        from mlx_jina.weights.gguf import reader

        files = reader.read(path, task, packed=device.on_gpu(), entry=wanted, kind=kind)
    else:
        entry = wanted or catalog.find(name, path.name)
        if kind == "embedding":
            kinds.check_folder(path, name)
        merged = entry is not None and entry.merged
        files = folder.read(path, task, merged=merged, encoder=kind != "reranker")
    found = wanted or checkpoint.catalog_entry(name, files)
    return files, found or catalog.find(str(files.config.get("model_type")))


@cache
def _warn_of_licence(repo: str, name: str) -> None:
    logger.warning("%s is licensed %s: no commercial use", repo, name.upper())


def _tasks(files: Checkpoint, entry: Entry | None, task: str | None) -> tuple[str, ...]:
    """The tasks that can be asked for: all of the model's, or `task`."""
    names = _all_tasks(files, entry, task)
    name, _ = prompts.choose_task(task, None, names)
    return names if name is None else (name,)


def _all_tasks(files: Checkpoint, entry: Entry | None, task: str | None) -> tuple[str, ...]:
    if files.adapters:
        return tuple(files.adapters)
    if entry is not None:
        # One task may be merged, and where base weights answer too, none need be.
        merged = config_names(files.config, "task_names")
        merged = (() if entry.untasked else entry.tasks) if merged is None else merged
        return tuple(name for name in entry.tasks if name in merged)
    names = prompts.tasks_with_prompts(files.prompts)
    if task is None or names:
        return names
    # A folder with one task merged: only its user knows which of them.
    name, _ = prompts.split_task(task)
    return (name,) if name in (config_names(files.config, "task_names") or ()) else ()


def _default_prompt_name(
    files: Checkpoint, entry: Entry | None, task: str | None, tasks: tuple[str, ...]
) -> str | None:
    if (side := prompts.choose_task(task, None, tasks)[1]) is not None:
        return side
    name = files.default_prompt_name or (entry.default_prompt_name if entry else None)
    if name is None and prompts.tasks_with_prompts(files.prompts):
        return prompts.QUERY
    return name


def _choose_dtype(model: EncoderModel, files: Checkpoint, wanted: str | None) -> mx.Dtype:
    """The dtype to compute in: one that holds the checkpoint's numbers and the model's activations."""
    stored = files.exact_dtype or checkpoint.stored_dtype(files.tensors.values())
    dtype = device.compute_dtype(stored, wanted)
    if dtype != mx.float16 or model.float16:
        return dtype
    if wanted is not None:
        raise InputError(
            f"dtype={wanted!r}: this architecture's activations can exceed float16's largest number, 65504; "
            "use 'bfloat16', which takes as little memory, or 'float32'"
        )
    # Scales in float16 would be rounded by bfloat16, each by up to 0.4 % of its group.
    return mx.float32 if files.exact_dtype is not None else mx.bfloat16


def _keep_float32(dtype: mx.Dtype) -> None:
    """Also where the model computes in half precision: a vector that came out unusable is computed in float32."""
    if not device.on_gpu():
        return
    device.keep_float32()
    if dtype == mx.float32 and not device.multiplies_float32():
        warnings.warn(
            "this process multiplies float32 in TF32, with 10 bits of 23: set MLX_ENABLE_TF32=0 before it starts, "
            "or load the model before MLX computes anything",
            RuntimeWarning,
            stacklevel=2,
        )


def _prepare(files: Checkpoint, packings: Packings, dtype: mx.Dtype, *, fuse: bool) -> tuple[Checkpoint, Packings]:
    """The tensors as the model takes them: packed ones for a GPU only, and others with the adapter fused in."""
    if packings and device.on_gpu():
        # An adapter stays beside packed weights, which would have to be quantised once more.
        return files, packings
    tensors = quantize.dequantize(files.tensors, packings, dtype)
    if not fuse:
        return replace(files, tensors=tensors), {}
    for adapter in files.adapters.values():
        tensors = lora.fuse(tensors, adapter, dtype)
    return replace(files, tensors=tensors, adapters={}), {}


def _fill(model: EncoderModel, files: Checkpoint, packings: Packings, dtype: mx.Dtype) -> None:
    """Give the model its weights, in `dtype`."""
    quantize.quantize_model(model, packings, dtype)
    checkpoint.assign(model, files.tensors, files.path)
    model.apply(lambda x: x.astype(dtype) if mx.issubdtype(x.dtype, mx.floating) else x)
    mx.eval(model.parameters())


def _attach(
    model: EncoderModel, files: Checkpoint, packings: Packings, dtype: mx.Dtype
) -> dict[str | None, EncoderModel]:
    """A view of the model's weights for each adapter, with the adapter beside them; without any, the model."""
    by_task: dict[str | None, EncoderModel] = {}
    for name, adapter in files.adapters.items():
        by_task[name] = view = checkpoint.build(files.path, files.config, files.tensors)
        quantize.quantize_model(view, packings, dtype)
        view.update(model.parameters())
        lora.check(adapter, nn_lora.shapes(view))
        nn_lora.attach(view, adapter.pairs, dtype)
        mx.eval(view.parameters())
    return by_task or {None: model}


def _sizes(path: Path, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not all(type(size) is int and size > 0 for size in value):
        raise CheckpointError(f"{path}: 'matryoshka_dims' should be sizes, found {shown(value)}")
    return tuple(value)


def _texts(path: Path, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for text in value.values()):
        raise CheckpointError(f"{path}: prompts should be texts by name, found {shown(value)}")
    return dict(value)
