"""LoRA adapters in PEFT's layout: read, checked, written, and fused into the weights.

A model that is loaded for one task has its adapter fused: W + (alpha/r) B A. How adapters run beside the weights,
and what A and B are, stands in nn/lora.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_jina import durable
from mlx_jina.errors import CheckpointError, some
from mlx_jina.nn.lora import Pair
from mlx_jina.weights import jina_v4, json_file, safetensors_file

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"

# Settings of training and of bookkeeping, and those that are checked one by one below.
_ALLOWED = {
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout", "megatron_core"),
    *("peft_version", "revision", "task_type"),
    *("alpha_pattern", "bias", "init_lora_weights", "lora_alpha", "peft_type", "r", "rank_pattern"),
    "target_modules",
}
# Other ways to begin the training (pissa, loftq, olora ...) also changed the base weights.
_PLAIN_STARTS = (None, True, False, "gaussian")
# Embeddings, whose halves PEFT names otherwise and stores transposed.
_LOOKED_UP = ("embed_tokens", "word_embeddings", "token_type_embeddings")
_NAME = re.compile(
    r"base_model\.model\.(?:model\.)?(?:language_model\.)?(?P<module>.+)\."
    r"(?:lora_(?P<linear>[AB])\.weight|lora_embedding_(?P<embedding>[AB]))"
)
# In a file with the adapters of several tasks. PEFT puts "default" in when it loads such a file.
_NAME_OF_TASK = re.compile(
    r"base_model\.model\.(?P<module>.+)\.lora_(?P<linear>[AB])\.(?:default\.)?(?P<task>[\w-]+)\.weight"
)


@dataclass(frozen=True)
class Adapter:
    """One task's adapter, by module name of the base model."""

    path: Path
    base: str
    pairs: Mapping[str, Pair]

    def without(self, unused: tuple[str, ...]) -> Adapter:
        """The adapter less its pairs for modules that no vector depends on."""
        pairs = {module: pair for module, pair in self.pairs.items() if not f"{module}.".startswith(unused)}
        return replace(self, pairs=pairs)


def _refuse(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path}: {reason}; this adapter would not run exactly")


def _read_config(path: Path, several: bool) -> dict[str, Any]:
    config = json_file.read(path)
    if config.get("peft_type") != "LORA":
        raise _refuse(path, "'peft_type' is not 'LORA'")
    if config.get("bias", "none") != "none":
        raise _refuse(path, f"'bias' is {config['bias']!r}, only 'none' is implemented")
    if config.get("init_lora_weights", True) not in _PLAIN_STARTS:
        raise _refuse(path, f"'init_lora_weights' is {config['init_lora_weights']!r}")
    for key, value in config.items():
        # Every other feature of PEFT is off when its setting is empty: rslora, dora, layer choices, saved modules.
        if key not in _ALLOWED and not key.startswith("megatron") and value:
            if several and key == "exclude_modules" and isinstance(value, str):
                continue
            raise _refuse(path, f"{key!r} is {value!r}, which is not implemented")
    targets = config.get("target_modules")
    # Of several tasks' adapters the names of the tensors say what is adapted, and a regular expression is not run.
    if several and isinstance(targets, str):
        return config
    if not isinstance(targets, list) or not targets or not all(isinstance(name, str) for name in targets):
        raise _refuse(path, f"'target_modules' is {targets!r}, only a list of names is implemented")
    return config


def _by_pattern(config: Mapping[str, Any], patterns: str, key: str, module: str, path: Path) -> float:
    """`r` or `lora_alpha` of one module: the first pattern that matches its name's end, as in PEFT."""
    value = config.get(key)
    for pattern, special in (config.get(patterns) or {}).items():
        # PEFT reads any regular expression, and writes only names. Matching an expression could take for ever.
        if not re.fullmatch(r"[\w.\\]+", pattern):
            raise _refuse(path, f"{patterns!r} has {pattern!r}, only names of modules are implemented")
        if re.match(rf"(.*\.)?({pattern})$", module):
            value = special
            break
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise _refuse(path, f"{key!r} of {module} is {value!r}")
    return value


def read(folder: Path, task: str | None = None) -> Adapter:
    """Read `adapter_config.json` and `adapter_model.safetensors`, of which `task` names one of several adapters.

    Raises CheckpointError for damaged files, and for settings with which the result would differ from PEFT's.
    """
    config_path, weights_path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    config = _read_config(config_path, several=task is not None)
    tensors = safetensors_file.read(weights_path)
    halves = _halves(weights_path, tensors) if task is None else _halves_of(weights_path, tensors, task)
    pairs: dict[str, Pair] = {}
    for module, (a, b) in sorted(halves.items()):
        rank = _by_pattern(config, "rank_pattern", "r", module, config_path)
        if a.shape[0] != rank or b.shape[1] != rank:
            raise _refuse(weights_path, f"{module} has A {a.shape} and B {b.shape}, but its rank is {rank}")
        alpha = _by_pattern(config, "alpha_pattern", "lora_alpha", module, config_path)
        pairs[module] = Pair(a, b, alpha / rank)
    base = str(config.get("base_model_name_or_path") or "")
    if isinstance(config["target_modules"], str):
        return Adapter(folder, base, pairs)
    adapted, targets = {_leaf(module) for module in pairs}, set(config["target_modules"])
    if strange := adapted - targets:
        raise _refuse(weights_path, f"it adapts {some(sorted(strange))}, not in 'target_modules'")
    if idle := targets - adapted:
        raise _refuse(weights_path, f"it has nothing for {some(sorted(idle))} of 'target_modules'")
    return Adapter(folder, base, pairs)


def _halves(path: Path, tensors: Mapping[str, mx.array]) -> dict[str, tuple[mx.array, mx.array]]:
    """A and B of every module."""
    halves: dict[str, dict[str, mx.array]] = {}
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None or tensor.ndim != 2:
            raise _refuse(path, f"{name} {tensor.shape} is not the A or B of a layer")
        try:
            safetensors_file.check_floating(name, tensor)
        except CheckpointError as error:
            raise _refuse(path, str(error)) from None
        half = match["linear"]
        if half is None:
            # PEFT's A (r, rows) and B (width, r) of an embedding make up its transpose.
            half, tensor = {"A": "B", "B": "A"}[match["embedding"]], mx.contiguous(tensor.T)
        halves.setdefault(match["module"], {})[half] = tensor
    for module, present in halves.items():
        if present.keys() != {"A", "B"}:
            raise _refuse(path, f"{module} has only its lora_{next(iter(present))}")
    return {module: (both["A"], both["B"]) for module, both in halves.items()}


def _halves_of(path: Path, tensors: Mapping[str, mx.array], task: str) -> dict[str, tuple[mx.array, mx.array]]:
    """A and B of every module, in a file of several tasks of which each adapts the same modules."""
    by_task: dict[str, dict[str, mx.array]] = {}
    for name, tensor in tensors.items():
        match = _NAME_OF_TASK.fullmatch(name)
        if match is None:
            raise _refuse(path, f"{name} {tensor.shape} is not the A or B of a layer and a task")
        module = jina_v4.renamed(match["module"])
        if module.startswith(jina_v4.TOWER):
            raise _refuse(path, f"{name} adapts the vision tower, which is not implemented")
        plain = f"base_model.model.{module}.lora_{match['linear']}.weight"
        if plain in by_task.setdefault(match["task"], {}):
            raise _refuse(path, f"it has {name} twice")
        by_task[match["task"]][plain] = tensor
    if task not in by_task:
        raise _refuse(path, f"it has no adapter of the task {task!r}, but those of {some(sorted(by_task))}")
    for other, named in by_task.items():
        if named.keys() != by_task[task].keys():
            raise _refuse(path, f"its tasks {task!r} and {other!r} do not adapt the same modules")
    return _halves(path, by_task[task])


def write(folder: Path, adapter: Adapter, advance: Callable[[int], object] = lambda _: None) -> None:
    """Write an adapter as a folder that `read` and PEFT take. `advance` is called with each tensor's bytes."""
    ranks = {module: pair.a.shape[0] for module, pair in adapter.pairs.items()}
    alphas = {module: pair.scale * ranks[module] for module, pair in adapter.pairs.items()}
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    config = {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": adapter.base,
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted({_leaf(module) for module in adapter.pairs}),
        "rank_pattern": {re.escape(module): special for module, special in ranks.items() if special != rank},
        "alpha_pattern": {re.escape(module): special for module, special in alphas.items() if special != alpha},
        "bias": "none",
        "inference_mode": True,
    }
    folder.mkdir(parents=True)
    durable.write_text(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")
    safetensors_file.write(folder / WEIGHTS_FILE, outputs(adapter), advance)


def outputs(adapter: Adapter) -> list[safetensors_file.Output]:
    """An adapter's tensors under PEFT's names."""
    halves: dict[str, mx.array] = {}
    for module, pair in adapter.pairs.items():
        name = f"base_model.model.{module}.lora"
        if _leaf(module) in _LOOKED_UP:
            halves |= {f"{name}_embedding_A": pair.b.T, f"{name}_embedding_B": pair.a.T}
        else:
            halves |= {f"{name}_A.weight": pair.a, f"{name}_B.weight": pair.b}
    return [
        safetensors_file.Output({name: (array.shape, array.dtype)}, partial(dict, {name: array}))
        for name, array in halves.items()
    ]


def _leaf(module: str) -> str:
    return module.rpartition(".")[2]


def check(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse an adapter for modules that do not exist or do not fit, or for only some modules of a kind.

    `shapes` are those of the base model's weights, by module name.
    """
    for module, pair in adapter.pairs.items():
        shape = (pair.b.shape[0], pair.a.shape[1])
        if shapes.get(module) != shape:
            fault = f"has shape {shapes[module]}" if module in shapes else "does not exist"
            raise _refuse(adapter.path, f"it changes {module} as {shape}, which {fault} in the base model")
    targets = {_leaf(module) for module in adapter.pairs}
    missing = sorted(module for module in shapes.keys() - adapter.pairs.keys() if _leaf(module) in targets)
    if missing:
        count = f"{len(missing)} such modules of the base model"
        raise _refuse(adapter.path, f"it has nothing for {missing[0]} ({count})")


def fuse(tensors: Mapping[str, mx.array], adapter: Adapter, dtype: mx.Dtype) -> dict[str, mx.array]:
    """Base tensors with the adapter in them: computed in float32, and rounded once to `dtype`."""
    weights = {name.removesuffix(".weight"): x.shape for name, x in tensors.items() if name.endswith(".weight")}
    check(adapter, weights)
    fused = dict(tensors)
    for module, pair in adapter.pairs.items():
        fused[f"{module}.weight"] = pair.fused(tensors[f"{module}.weight"]).astype(dtype)
        # One matrix at a time: lazily, float32 copies of all would exist side by side.
        mx.eval(fused[f"{module}.weight"])
    return fused
