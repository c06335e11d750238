"""Any checkpoint opened for conversion: what it is, and tensors that are made one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_jina import catalog, hub
from mlx_jina.errors import CheckpointError, InputError
from mlx_jina.tokens import Tokenizer
from mlx_jina.weights import folder, gguf_model, gguf_tokenizer, lora, names, quantize
from mlx_jina.weights.gguf_file import GGUF


@dataclass(frozen=True)
class Weight:
    """One tensor that can be made when needed, and is then kept by nobody."""

    shape: tuple[int, ...]
    dtype: mx.Dtype
    make: Callable[[], mx.array]


@dataclass(frozen=True)
class Source:
    """A checkpoint opened for conversion."""

    path: Path
    config: dict[str, Any]
    weights: dict[str, Weight]
    tokenizer: Tokenizer
    tokenizer_json: str
    prompts: Mapping[str, str]
    default_prompt_name: str | None
    general: dict[str, Any]
    # What the tokenizer in GGUF may be called after, best first.
    names: tuple[str, ...] = ()
    # Modules of a .gguf whose blocks MLX can hold as they are.
    packed: gguf_model.Tensors | None = None


def _from_gguf(path: Path, task: str | None) -> Source:
    if task is not None:
        raise InputError(f"{path} is one file without adapters; --task needs a folder that has them")
    file = GGUF(path)
    config, tensors = gguf_model.open_tensors(file, packed=True)
    tokenizer, raw = gguf_tokenizer.read(file)
    stored = gguf_model.stored_json(file, gguf_model.PROMPTS)

    def weight(name: str) -> Weight:
        return Weight(tensors.shape(name), tensors.dtype(name), lambda: tensors[name])

    return Source(
        path=path,
        config=config,
        weights={name: weight(name) for name in tensors},
        tokenizer=tokenizer,
        tokenizer_json=raw,
        prompts=stored.get("prompts") or {},
        default_prompt_name=stored.get("default_prompt_name"),
        general={
            key.removeprefix("general."): value
            for key, value in file.metadata.items()
            if key.startswith("general.")
            and key.removeprefix("general.") not in ("architecture", "type", "file_type", "quantization_version")
            and key != "general.alignment"
        },
        names=(str(file.metadata.get("tokenizer.ggml.pre")), str(file.metadata.get("general.name")), str(path)),
        packed=tensors,
    )


def _plain(config: Mapping[str, Any], tensors: dict[str, mx.array]) -> dict[str, Weight]:
    """Full weights of a folder's tensors; quantised ones are expanded. Takes the tensors out of the dictionary."""

    def weight(name: str) -> Weight:
        held = tensors[name]
        module = name.removesuffix(".weight")
        if f"{module}.scales" not in tensors or not name.endswith(".weight"):
            # Once read, an array keeps its data: the last reference has to go with it.
            shape, dtype = held.shape, held.dtype
            return Weight(shape, dtype, lambda: tensors.pop(name))
        parts = {f"{module}.{part}": tensors[f"{module}.{part}"] for part in ("weight", "scales", "biases")}
        scales = parts[f"{module}.scales"]
        columns = scales.shape[-1] * quantize.parameters(config, module)["group_size"]

        def expand() -> mx.array:
            mine = {key: tensors.pop(key) for key in parts}
            return quantize.dequantize(mine, config, mx.float32)[name]

        shape = (*scales.shape[:-1], columns)
        parts = dict.fromkeys(parts, mx.array(0))
        return Weight(shape, mx.float32, expand)

    return {
        name: weight(name)
        for name in tensors
        if not (name.endswith((".scales", ".biases")) and f"{name.rpartition('.')[0]}.weight" in tensors)
    }


def _with_adapter(weights: dict[str, Weight], adapter: lora.Adapter) -> dict[str, Weight]:
    """Weights with an adapter fused in when their turn comes."""
    for module in adapter.pairs:
        if f"{module}.weight" not in weights:
            raise CheckpointError(f"{adapter.path}: it changes {module}, which does not exist in the base model")

    def fused(name: str, plain: Weight) -> Weight:
        module = name.removesuffix(".weight")
        if module not in adapter.pairs or not name.endswith(".weight"):
            return plain
        own = lora.Adapter(adapter.path, adapter.base, {module: adapter.pairs[module]})
        return Weight(plain.shape, plain.dtype, lambda: lora.fuse({name: plain.make()}, own)[name])

    return {name: fused(name, plain) for name, plain in weights.items()}


def _from_folder(path: Path, name: str, task: str | None) -> Source:
    entry = catalog.find(name) or catalog.find(path.name)
    merged = entry is not None and len(entry.tasks) == 1
    files = folder.read(path, task, merged=merged)
    if files.adapters and task is None:
        raise InputError(
            f"{path} has an adapter for each task; choose one with --task: {', '.join(files.adapters)}"
        )
    entry = entry or next((catalog.find(adapter.base) for adapter in files.adapters.values()), None)
    config = dict(files.config)
    weights = _plain(config, files.tensors)
    for adapter in files.adapters.values():
        weights = _with_adapter(weights, adapter)
    general: dict[str, Any] = {"name": entry.repo.rpartition("/")[2] if entry else path.name}
    if task is not None:
        general["finetune"] = task
        config["task_names"] = [task]
        if config.get("model_type") == "jina_embeddings_v5":
            # With its adapter fused it is an ordinary model, and no longer asks for files beside it.
            fixed = names.of_config(path, config).fixed
            config.update({key: fixed[key] for key in ("model_type", "architectures")})
    if entry is not None:
        general["license"] = entry.license
        if "/" in entry.repo:
            general["source.url"] = f"https://huggingface.co/{entry.repo}"
    if path.parent.name == "snapshots":
        general["source.revision"] = path.name
    general.update(config.pop("gguf", {}))
    return Source(
        path=path,
        config=config,
        weights=weights,
        tokenizer=files.tokenizer,
        tokenizer_json=(path / "tokenizer.json").read_text(encoding="utf-8"),
        prompts=files.prompts or (entry.prompts if entry else {}),
        default_prompt_name=files.default_prompt_name or (entry.default_prompt_name if entry else None),
        general=general,
        names=(entry.repo if entry else name, general["name"], str(path), str(config.get("_name_or_path"))),
    )


def open_source(name: str, task: str | None = None) -> Source:
    """A model's name, folder or .gguf, opened without reading its weights."""
    path = hub.resolve(name, task=task)
    if not path.is_dir():
        return _from_gguf(path, task)
    return _from_folder(path, name, task)
