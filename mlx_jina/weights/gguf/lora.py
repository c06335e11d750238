"""LoRA adapters as .gguf files beside the .gguf of their base model, as llama.cpp's converters write them.

A base NAME.gguf has its adapters in lora-TASK-NAME.gguf. An adapter holds `X.weight.lora_a` (r, in) and
`X.weight.lora_b` (out, r) for a weight `X.weight` of the base, and one alpha: W + (alpha / r) B A, where alpha 0
stands for a factor of 1. Of token_embd, whose rows are looked up, lora_a is B and lora_b is A transposed.

llama.cpp runs no adapter of token_types. Since every token is of type 0, a pair (b, a) of v3's adapters for
token_types is written as further ranks of token_embd, with the row b for each token: [B 1b] [A a] = B A + 1 (b a).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from glob import escape
from pathlib import Path
from statistics import mode
from typing import Any

import mlx.core as mx
from gguf import GGMLQuantizationType as Type

from mlx_jina.errors import CheckpointError, some
from mlx_jina.nn.lora import Pair
from mlx_jina.text import prompts
from mlx_jina.weights import folder, hub
from mlx_jina.weights.gguf import architectures, names
from mlx_jina.weights.gguf import blocks as gguf_blocks
from mlx_jina.weights.gguf import file as gguf_file
from mlx_jina.weights.gguf.architectures import Architecture
from mlx_jina.weights.gguf.file import GGUF
from mlx_jina.weights.gguf.names import Rows
from mlx_jina.weights.lora import Adapter
from mlx_jina.weights.source import Source

ALPHA, TASK, PROMPT = "adapter.lora.alpha", "adapter.lora.task_name", "adapter.lora.prompt_prefix"
# The key of a base model that lists its tasks; the base alone must not be used without their adapters.
TASKS = "mlx-jina.adapters"
# In an adapter: how many of the last ranks of token_embd belong to token_types.
TYPE_RANKS = "mlx-jina.token_type_ranks"
BASE = "general.base_model.0.repo_url"
HUB = "https://huggingface.co/"
ADAPTER, LOOKED_UP, TYPES = "adapter", "token_embd.weight", "token_types.weight"


def name_of(task: str, base: Path) -> Path:
    """Where the adapter of a task lies beside its base."""
    return base.with_name(f"lora-{task}-{base.name}")


def _is_adapter(file: GGUF) -> bool:
    return file.metadata.get("general.type") == ADAPTER


def _task(file: GGUF) -> str:
    return folder.check_task(file.get(TASK, str, file.path.stem), file.path)


def base_of(path: Path) -> Path:
    """A .gguf itself, or the one model among the .gguf files of a folder."""
    if not path.is_dir():
        return path
    models = [file for file in hub.gguf_files(path) if not _is_adapter(GGUF(file))]
    if len(models) != 1:
        present = some(file.name for file in models) or "only adapters"
        raise CheckpointError(f"{path} should hold the .gguf of one model, but holds {present}; name one file")
    return models[0]


def named_after(base: Path) -> set[Path]:
    """The adapters that lie beside a base and are named after it."""
    paths = base.parent.glob(f"lora-*-{escape(base.name)}")
    return {path for path in paths if path == name_of(_task(GGUF(path)), base)}


def _beside(base: Path, alone: bool) -> dict[str, GGUF]:
    """Adapters by task: those named after the base, or all in its folder where the base is `alone` there."""
    adapters: dict[str, GGUF] = {}
    paths = set(hub.gguf_files(base.parent)) - {base} if alone else named_after(base)
    for file in map(GGUF, sorted(paths)):
        if (task := _task(file)) in adapters:
            raise CheckpointError(f"{file.path} and {adapters[task].path} are both adapters for the task {task!r}")
        adapters[task] = file
    return adapters


def read(file: GGUF, task: str | None, *, alone: bool = False) -> dict[str, Adapter]:
    """The adapters of a base by task: all, or the one of `task`. `alone`: there is no other base in its folder."""
    base = file.path
    architecture = architectures.of_gguf(base, file.metadata.get("general.architecture"))
    files = _beside(base, alone)
    if (fused := file.metadata.get("general.finetune")) in files:
        raise CheckpointError(f"{files[fused].path} is for a base model, but {base} has the task {fused!r} fused")
    tasks = file.get(TASKS, list, []) or list(files)
    if tasks and task is not None:
        name, _ = prompts.choose_task(task, None, tasks)
        tasks = [name] if name is not None else []
    # Without its adapter a model would answer all the same, from the base weights.
    if missing := [name_of(str(name), base).name for name in tasks if name not in files]:
        raise CheckpointError(f"{base} is a base model that lacks its adapters beside it: {some(missing)}")
    width = file.get(f"{architecture.name}.embedding_length", int)
    return {name: _adapter(files[name], architecture, width) for name in tasks}


def _refuse(file: GGUF, reason: str) -> CheckpointError:
    return CheckpointError(f"{file.path}: {reason}; this adapter would not run exactly")


def _adapter(file: GGUF, architecture: Architecture, width: int) -> Adapter:
    """An adapter for a base of this architecture and width, by our names."""
    if (name := file.get("general.architecture", str)) != architecture.name:
        raise _refuse(file, f"it is for {name}, but its base is {architecture.name}")
    if (kind := file.get("adapter.type", str)) != "lora":
        raise _refuse(file, f"metadata 'adapter.type' is {kind!r}, only 'lora' is implemented")
    pairs = _pairs(file)
    _split_types(file, pairs)
    parts, _ = names.from_gguf(file.path, architecture, pairs, (width, width, width), 1)
    by_module = {
        name.removesuffix(".weight"): _part(file, pairs, rows, width) for name, rows in sorted(parts.items())
    }
    return Adapter(file.path, str(file.get(BASE, str, "")).removeprefix(HUB), by_module)


def _pairs(file: GGUF) -> dict[str, Pair]:
    """The A and B of each weight, by GGUF's name of the weight."""
    halves: dict[str, dict[str, str]] = {}
    for name in file.entries:
        weight, _, half = name.rpartition(".")
        if half not in ("lora_a", "lora_b") or not weight.endswith(".weight"):
            raise _refuse(file, f"tensor {name!r} is not the lora_a or lora_b of a weight")
        halves.setdefault(weight, {})[half] = name
    alpha = float(file.get(ALPHA, (int, float), 0.0))
    return {weight: _pair(file, weight, both, alpha) for weight, both in sorted(halves.items())}


def _pair(file: GGUF, weight: str, halves: Mapping[str, str], alpha: float) -> Pair:
    if halves.keys() != {"lora_a", "lora_b"}:
        raise _refuse(file, f"{weight} has only its {next(iter(halves))}")
    a, b = (_tensor(file, halves[half]) for half in ("lora_a", "lora_b"))
    if weight == LOOKED_UP:
        a, b = mx.contiguous(b.T), a
    if a.shape[0] != b.shape[1]:
        raise _refuse(file, f"{weight} has a lora_a {a.shape} and a lora_b {b.shape}, which have no rank")
    return Pair(a, b, alpha / a.shape[0] if alpha else 1.0)


def _part(file: GGUF, pairs: Mapping[str, Pair], parts: Sequence[Rows], width: int) -> Pair:
    """The pair of one of our weights: a whole one, or the rows of B that a fused matrix has for it."""
    rows, *others = parts
    pair, fused = pairs[rows.name], rows.stop is not None
    # Queries, keys and values of one matrix share its A, where all three are as wide as the model.
    if others or (fused and pair.b.shape[0] != 3 * width):
        raise _refuse(file, f"tensor {rows.name!r} is fused")
    return replace(pair, b=mx.contiguous(pair.b[rows.start : rows.stop])) if fused else pair


def _split_types(file: GGUF, pairs: dict[str, Pair]) -> None:
    """Undo `_join_types`, exactly where both pairs have the same rank."""
    if not (ranks := file.get(TYPE_RANKS, int, 0)):
        return
    joint = pairs.get(LOOKED_UP)
    if joint is None or TYPES in pairs or not 0 < ranks < joint.a.shape[0]:
        raise _refuse(file, f"metadata {TYPE_RANKS!r} is {ranks}, which its {LOOKED_UP} has not")
    words = joint.a.shape[0] - ranks
    for weight, rows, part in ((LOOKED_UP, None, slice(0, words)), (TYPES, 1, slice(words, None))):
        # The scale that this part alone would have.
        a, b = joint.a[part], mx.contiguous(joint.b[:rows, part])
        share = a.shape[0] / joint.a.shape[0]
        pairs[weight] = Pair(a * share, b, joint.scale / share)


def _join_types(adapter: Adapter, pairs: dict[str, Pair]) -> int:
    """Put the pair of the one token type into the pair of the tokens. Returns how many ranks that takes."""
    if TYPES not in pairs:
        return 0
    types, words = pairs.pop(TYPES), pairs.get(LOOKED_UP)
    if words is None or types.b.shape[0] != 1:
        raise CheckpointError(
            f"{adapter.path}: llama.cpp can be given an adapter of one token type, with one of token_embd; this "
            f"one is of {types.b.shape[0]} types and {'of' if words else 'not of'} token_embd"
        )
    row = types.b.astype(mx.float32) * (types.scale / words.scale)
    rows = mx.broadcast_to(row, (words.b.shape[0], row.shape[1]))
    a, b = mx.concatenate([words.a, types.a]), mx.concatenate([words.b, rows], axis=1)
    pairs[LOOKED_UP] = Pair(a, b, words.scale)
    return types.a.shape[0]


def _tensor(file: GGUF, name: str) -> mx.array:
    entry = file.entries[name]
    if len(entry.shape) != 2:
        raise _refuse(file, f"tensor {name!r} has the shape {entry.shape}")
    return gguf_blocks.decode(file, name, file.raw(name), entry.shape)


def files(source: Source, architecture: Architecture, target: Path) -> list[gguf_file.File]:
    """The file of each adapter, to be written beside `target`: in float32, which holds every dtype exactly."""
    return [
        _file(source, architecture, name_of(task, target), task, adapter)
        for task, adapter in source.adapters.items()
    ]


def _file(source: Source, architecture: Architecture, target: Path, task: str, adapter: Adapter) -> gguf_file.File:
    pairs: dict[str, Pair] = {}
    adapted = [f"{module}.weight" for module in adapter.pairs]
    for name, piece in names.to_gguf(adapter.path, architecture, adapted).items():
        module = piece.name.removesuffix(".weight")
        if piece.of > 1:
            raise CheckpointError(f"{adapter.path}: it changes {module}, which GGUF holds in parts")
        pairs[name] = adapter.pairs[module]
    type_ranks = _join_types(adapter, pairs)
    alphas = {name: pair.scale * pair.a.shape[0] for name, pair in pairs.items()}
    alpha = mode(alphas.values())
    outputs = [
        output for name, pair in pairs.items() for output in _outputs(name, pair, factor=alphas[name] / alpha)
    ]
    return gguf_file.File(target, architecture.name, _keys(source, task, alpha, type_ranks), outputs)


def _outputs(name: str, pair: Pair, factor: float) -> list[gguf_file.Output]:
    """Both halves of a pair. A file has one alpha: by `factor`, this pair's alpha is larger."""
    arrays = (pair.b, pair.a.T) if name == LOOKED_UP else (pair.a, pair.b)
    return [
        gguf_file.Output(f"{name}.{half}", Type.F32, array.shape, partial(_scaled, array, scale))
        for half, array, scale in zip(("lora_a", "lora_b"), arrays, (1.0, factor), strict=True)
    ]


def _keys(source: Source, task: str, alpha: float, type_ranks: int) -> dict[str, Any]:
    base = source.general.get("name", source.path.stem)
    keys: dict[str, Any] = {
        "general.type": ADAPTER,
        "general.name": f"{base} {task}",
        "general.file_type": 0,
        "adapter.type": "lora",
        ALPHA: alpha,
        TASK: task,
        "general.base_model.count": 1,
        "general.base_model.0.name": base,
    }
    if type_ranks:
        keys[TYPE_RANKS] = type_ranks
    if "license" in source.general:
        keys["general.license"] = source.general["license"]
    if "source.url" in source.general:
        keys[BASE] = source.general["source.url"]
    if prefix := source.prompts.get(task, source.prompts.get(source.default_prompt_name or "")):
        keys[PROMPT] = prefix
    return keys


def _scaled(array: mx.array, factor: float) -> Any:
    return gguf_blocks.quantize(array.astype(mx.float32) * factor, Type.F32)
