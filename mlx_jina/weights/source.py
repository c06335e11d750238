"""Any checkpoint opened for conversion: what it is, and tensors that are made one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_jina import catalog, models
from mlx_jina.errors import CheckpointError, InputError
from mlx_jina.text.tokenizer import Tokenizer
from mlx_jina.weights import folder, hub, lora, quantize
from mlx_jina.weights.gguf import lora as gguf_lora
from mlx_jina.weights.gguf import names
from mlx_jina.weights.gguf import reader as gguf_model
from mlx_jina.weights.gguf import tokenizer as gguf_tokenizer
from mlx_jina.weights.gguf.file import GGUF


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
    # By task, to be kept or fused.
    adapters: Mapping[str, lora.Adapter] = field(default_factory=dict)


def _from_gguf(path: Path, task: str | None) -> Source:
    file = GGUF(gguf_lora.base_of(path))
    config, tensors = gguf_model.open_tensors(file, packed=True)
    adapters = gguf_lora.read(file, task, alone=path.is_dir())
    if task is not None and not adapters:
        raise InputError(f"{file.path} has no adapters beside it, of which --task could choose one")
    if adapters:
        # What a folder with adapters calls itself, by which its reader expects them all.
        own = gguf_model.stored_json(file, gguf_model.CONFIG)
        config |= {key: own[key] for key in gguf_model.KINDS if key in own}
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
        adapters=adapters,
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
    if entry is not None and folder.is_another(entry, name, path, files.config):
        entry = None
    entry = entry or next((catalog.find(adapter.base) for adapter in files.adapters.values()), None)
    config = dict(files.config)
    general: dict[str, Any] = {"name": entry.repo.rpartition("/")[2] if entry else path.name}
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
        weights=_plain(config, files.tensors),
        tokenizer=files.tokenizer,
        tokenizer_json=(path / "tokenizer.json").read_text(encoding="utf-8"),
        prompts=files.prompts or (entry.prompts if entry else {}),
        default_prompt_name=files.default_prompt_name or (entry.default_prompt_name if entry else None),
        general=general,
        names=(entry.repo if entry else name, general["name"], str(path), str(config.get("_name_or_path"))),
        adapters=files.adapters,
    )


def _for_task(source: Source, task: str) -> Source:
    """The source with its adapter fused in: an ordinary model, which no longer asks for files beside it."""
    name = next(iter(source.adapters), task)
    weights, config = source.weights, {**source.config, "task_names": [name]}
    for adapter in source.adapters.values():
        weights = _with_adapter(weights, adapter)
    if config.get("model_type") == "jina_embeddings_v5":
        fixed = names.of_config(source.path, config).fixed
        config |= {key: fixed[key] for key in gguf_model.KINDS}
    general = {**source.general, "finetune": name}
    return replace(source, config=config, weights=weights, general=general, packed=None, adapters={})


def open_source(name: str, task: str | None = None) -> Source:
    """A model's name, folder or .gguf, opened without reading its weights; with the adapter of `task`, or all."""
    path = hub.resolve(name, task=task)
    source = _from_gguf(path, task) if folder.holds_gguf(path) else _from_folder(path, name, task)
    # What would not load is not converted either.
    models.build(source.config, source.weights)
    return source if task is None else _for_task(source, task)
