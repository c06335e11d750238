"""Any checkpoint opened for conversion: a model's name, a folder or a .gguf, with tensors made one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_jina import catalog, models
from mlx_jina.errors import CheckpointError, InputError
from mlx_jina.weights import folder, hub, lora, quantize
from mlx_jina.weights.gguf import names
from mlx_jina.weights.gguf import reader as gguf_reader
from mlx_jina.weights.source import Source, Weight


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
        config |= {key: fixed[key] for key in gguf_reader.KINDS}
    general = {**source.general, "finetune": name}
    return replace(source, config=config, weights=weights, general=general, adapters={})


def open_source(name: str, task: str | None = None) -> Source:
    """A model's name, folder or .gguf, opened without reading its weights; with the adapter of `task`, or all."""
    path = hub.resolve(name, task=task)
    if folder.holds_gguf(path):
        # Blocks with an adapter fused into them are no longer those of the file.
        source = gguf_reader.open_source(path, task, packed=task is None)
        if task is not None and not source.adapters:
            raise InputError(f"{path} has no adapters beside it, of which --task could choose one")
    else:
        source = _from_folder(path, name, task)
    # What would not load is not converted either.
    models.build(source.config, source.weights)
    return source if task is None else _for_task(source, task)
