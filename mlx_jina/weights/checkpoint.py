"""What every reader returns, and how its tensors get into a model: exactly, or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_jina import catalog, models
from mlx_jina.catalog import Entry
from mlx_jina.errors import CheckpointError, InputError, some
from mlx_jina.models.base import EncoderModel
from mlx_jina.models.config import required
from mlx_jina.nn import lora as nn_lora
from mlx_jina.nn.lora import BesideLayer, Pair
from mlx_jina.text.tokenizer import Tokenizer
from mlx_jina.weights import quantize, safetensors_file, settings
from mlx_jina.weights.lora import Adapter
from mlx_jina.weights.quantize import Packing


@dataclass(frozen=True)
class Recognised:
    """A row of the catalog, and what it was told by."""

    entry: Entry
    by: str


@dataclass(frozen=True)
class Checkpoint:
    """A model as its files describe it. Tensors carry Hugging Face names and may still be on disk."""

    path: Path
    config: Mapping[str, Any]
    tensors: dict[str, mx.array]
    tokenizer: Tokenizer
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    # By task. Empty for a model with one vector space, and for one with its task merged.
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    # The smallest dtype that holds the scales of packed weights without rounding, where a reader knows it.
    exact_dtype: mx.Dtype | None = None
    # Of a .gguf: the published model that it is.
    recognised: Recognised | None = None

    def without(self, prefixes: tuple[str, ...]) -> Checkpoint:
        """The checkpoint less the tensors whose names begin so."""
        tensors = {name: tensor for name, tensor in self.tensors.items() if not name.startswith(prefixes)}
        return replace(self, tensors=tensors)


def catalog_entry(name: str, files: Checkpoint) -> Entry | None:
    """The catalog's row of what the user called `name`, or of the model that its adapters were made for."""
    if files.recognised is not None:
        return files.recognised.entry
    entry = catalog.find(name, files.path.name)
    if entry is not None and not _is_namesake(entry, name, files):
        return entry
    return catalog.find(*(adapter.base for adapter in files.adapters.values()))


def published(name: str) -> Entry:
    """The catalog's row of the model that a person says some files are. Raises InputError."""
    if not isinstance(name, str) or (entry := catalog.find(name)) is None:
        known = ", ".join(catalog.short_names())
        raise InputError(
            f"as_model={name!r} is no published model; those are {known}, of which v5's also with one task, as in "
            "'v5-small-retrieval'"
        )
    return entry


def check_is(entry: Entry, model: EncoderModel, path: Path, has_adapters: bool) -> None:
    """Refuse to take files for a model that they cannot be. Raises InputError."""
    if (entry.architecture, entry.dimension) != (model.architecture, model.dimension):
        raise InputError(
            f"{path} is {model.architecture} with {model.dimension} dimensions, but {entry.repo} is "
            f"{entry.architecture} with {entry.dimension}: as_model={entry.repo!r} cannot be"
        )
    if not has_adapters and needs_adapters(entry):
        names = ", ".join(f"{entry.repo}-{task}" for task in entry.tasks)
        raise InputError(
            f"{path} has no adapters, but {entry.repo} has one for each task; as_model= can be the task that is "
            f"in its weights: {names}"
        )


def needs_adapters(entry: Entry) -> bool:
    """Whether a model's weights answer for none of its tasks without an adapter."""
    return len(entry.tasks) > 1 and not entry.untasked and not entry.tasks_by_prompt


def _is_namesake(entry: Entry, name: str, files: Checkpoint) -> bool:
    """Whether a local folder only happens to be called like a known model: "v3" may be someone's third try."""
    local = Path(os.path.expanduser(name)) == files.path and "jina" not in files.path.name.lower()
    # A ColBERT's vectors are narrower than its encoder.
    width = files.config["colbert"]["dim"] if "colbert" in files.config else files.config.get("hidden_size")
    return local and width != entry.dimension


LIMIT = "max_seq_length"
"""The key of config.json for the longest text, where a folder limits it below what the model can do."""


def located(path: Path, error: CheckpointError) -> CheckpointError:
    """The error with the path of the files at fault, where it does not name it yet."""
    return error if str(path) in str(error) else CheckpointError(f"{path}: {error}")


def build(path: Path, config: Mapping[str, Any], names: Collection[str]) -> EncoderModel:
    """The empty model for a config.json and the names of the tensors beside it. Errors name their `path`."""
    try:
        settings.check_kinds(config)
        model = models.build(config, names)
        settings.check(config, model.architecture)
        if config.get(LIMIT) is not None:
            model.max_length = min(model.max_length, required(config, LIMIT, int))
    except CheckpointError as error:
        raise located(path, error) from None
    return model


def packings(files: Checkpoint, model: EncoderModel) -> dict[str, Packing]:
    """How each packed layer of a model's files is packed.

    Raises CheckpointError, which names the files' path; also for a weight that is neither packed nor floating.
    """
    try:
        found = quantize.packings(files.config, files.tensors, nn_lora.shapes(model))
        for name, tensor in files.tensors.items():
            layer, _, leaf = name.rpartition(".")
            if not name.startswith(model.unused) and not (layer in found and leaf in quantize.PARTS):
                safetensors_file.check_floating(name, tensor)
    except CheckpointError as error:
        raise located(files.path, error) from None
    return found


def stored_dtype(tensors: Iterable[mx.array]) -> mx.Dtype:
    """The floating dtype that holds most of the weights."""
    sizes: dict[mx.Dtype, int] = {}
    for tensor in tensors:
        if mx.issubdtype(tensor.dtype, mx.floating):
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size
    return max(sizes, key=lambda dtype: sizes[dtype], default=mx.float32)


def assign(model: nn.Module, tensors: Mapping[str, mx.array], path: Path) -> None:
    """Give every parameter its tensor. A missing tensor, an unused one and a wrong shape are errors."""
    expected = dict(tree_flatten(model.parameters()))
    if missing := expected.keys() - tensors.keys():
        raise CheckpointError(
            f"{path} lacks {some(sorted(missing), 3)}: it is incomplete or of another architecture"
        )
    if unused := tensors.keys() - expected.keys():
        raise CheckpointError(f"{path} holds {some(sorted(unused), 3)}, which this architecture has no use for")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tensor.shape}, but its config.json asks for {expected[name].shape}"
            )
    model.load_weights(list(tensors.items()), strict=True)


def digest(model: nn.Module) -> str:
    """SHA-256 of the weights as float32 values by name. The format and the dtype of their file do not matter.

    An adapter beside a weight counts as if it was fused in float32.
    """
    sha = hashlib.sha256()
    for name, make in sorted(_full_weights(model).items()):
        # A zero may be negative in one format and not in another.
        values = mx.contiguous(make().astype(mx.float32) + 0)
        mx.eval(values)
        sha.update(f"{name}{values.shape}".encode())
        # An array has the buffer protocol, but its annotations do not say so.
        sha.update(cast("bytes", values.reshape(-1).view(mx.uint8)))
    return sha.hexdigest()


def _full_weights(model: nn.Module) -> dict[str, Callable[[], mx.array]]:
    """Every weight by name, unpacked and with its adapter; each function makes one."""
    modules = dict(model.named_modules())
    weights: dict[str, Callable[[], mx.array]] = {}
    for path, module in modules.items():
        if isinstance(module, BesideLayer):
            continue
        parent = path.rpartition(".")[0]
        beside = modules.get(parent)
        for key, value in module.items():
            if not isinstance(value, mx.array) or (_is_packed(module) and key in quantize.PARTS[1:]):
                continue
            owner, pair = path, None
            if isinstance(beside, BesideLayer):
                owner, pair = parent, beside.pair if key == "weight" else None
            weights[f"{owner}.{key}".removeprefix(".")] = partial(_full, module, key, pair)
    return weights


def _is_packed(module: nn.Module) -> bool:
    return isinstance(module, (nn.QuantizedLinear, nn.QuantizedEmbedding))


def _full(module: nn.Module, key: str, pair: Pair | None) -> mx.array:
    tensor = module[key]
    if key == "weight" and _is_packed(module):
        parts = [module[part] for part in quantize.PARTS if part in module]
        tensor = quantize.unpack(parts, Packing(module.group_size, module.bits, module.mode))
    return tensor if pair is None else pair.fused(tensor)
