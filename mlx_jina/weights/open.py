"""Any checkpoint opened for conversion: a model's name, a folder or a .gguf, with tensors made one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_jina import catalog
from mlx_jina.catalog import Entry
from mlx_jina.errors import CheckpointError, InputError
from mlx_jina.models.base import EncoderModel
from mlx_jina.text import prompts
from mlx_jina.weights import checkpoint, folder, hub, jina_v4, json_file, kinds, lora, quantize, rerankers
from mlx_jina.weights.checkpoint import Checkpoint
from mlx_jina.weights.gguf import architectures
from mlx_jina.weights.gguf import reader as gguf_reader
from mlx_jina.weights.lora import Adapter
from mlx_jina.weights.quantize import Packing, Packings
from mlx_jina.weights.source import Source, Weight


def open_source(name: str, task: str | None = None, as_model: str | None = None) -> Source:
    """A model's name, folder or .gguf, opened without reading its weights; with the adapter of `task`, or all.

    `as_model`: which published model it is.
    """
    wanted = None if as_model is None else checkpoint.published(as_model)
    path = hub.resolve(name, task=task)
    try:
        return _open_encoder(path, name, task, wanted)
    except kinds.RerankerError:
        if task is not None or wanted is not None:
            raise
    return _open_reranker(path, name)


def _open_encoder(path: Path, name: str, task: str | None, wanted: Entry | None) -> Source:
    if hub.holds_gguf(path):
        # Blocks with an adapter fused into them are no longer those of the file.
        source = gguf_reader.open_source(path, task, packed=task is None, entry=wanted)
        if task is not None and not source.adapters:
            raise InputError(f"{path} has no adapters beside it, of which --task could choose one")
        # What would not load is not converted either.
        kinds.check_embedding(source.path, name, source.config, source.weights)
        model = checkpoint.build(source.path, source.config, source.weights)
        if wanted is not None:
            checkpoint.check_is(wanted, model, path, bool(source.adapters))
    else:
        kinds.check_folder(path, name)
        source = _open_folder(path, name, task, wanted)
    return source if task is None else _for_task(source, task)


def _open_reranker(path: Path, name: str) -> Source:
    """A reranker, with the settings and the names of tensors that its model has here."""
    if hub.holds_gguf(path):
        source = gguf_reader.open_source(path, packed=True, kind="reranker")
        checkpoint.build(source.path, source.config, source.weights)
        return source
    files = rerankers.translate(folder.read(path, encoder=False), name)
    model = checkpoint.build(path, files.config, files.tensors)
    source = _source(files.without(model.unused), model, name, catalog.find(name, path.name))
    return replace(source, kind="reranker")


def _open_folder(path: Path, name: str, task: str | None, wanted: Entry | None) -> Source:
    entry = wanted or catalog.find(name, path.name)
    files = folder.read(path, task, merged=entry is not None and entry.merged)
    entry = wanted or checkpoint.catalog_entry(name, files)
    model = checkpoint.build(path, files.config, files.tensors)
    if wanted is not None:
        checkpoint.check_is(wanted, model, path, bool(files.adapters))
    return _source(files, model, name, entry)


def _source(files: Checkpoint, model: EncoderModel, name: str, entry: Entry | None) -> Source:
    path, config = files.path, dict(files.config)
    general = {**_general(path, entry), **config.pop("gguf", {})}
    return Source(
        path=path,
        config=config,
        weights=_full_weights(files.tensors, checkpoint.packings(files, model)),
        tokenizer=files.tokenizer,
        tokenizer_json=json_file.text(path / "tokenizer.json"),
        prompts=files.prompts or (entry.prompts if entry else {}),
        default_prompt_name=files.default_prompt_name or (entry.default_prompt_name if entry else None),
        general=general,
        names=(entry.repo if entry else name, general["name"], str(path), str(config.get("_name_or_path"))),
        adapters=files.adapters,
    )


def _general(path: Path, entry: Entry | None) -> dict[str, Any]:
    """What a .gguf says under `general.` of a folder: its name, and where it comes from."""
    general = {"name": entry.repo.rpartition("/")[2] if entry else path.name}
    if entry is not None:
        general["license"] = entry.license
        if "/" in entry.repo:
            general["source.url"] = f"https://huggingface.co/{entry.repo}"
    if path.parent.name == "snapshots":
        general["source.revision"] = path.name
    return general


def _full_weights(tensors: dict[str, mx.array], packings: Packings) -> dict[str, Weight]:
    """A folder's weights, with quantised ones expanded. A weight that is made leaves `tensors`."""
    weights: dict[str, Weight] = {}
    for name in tensors:
        layer, _, leaf = name.rpartition(".")
        if layer not in packings or leaf not in quantize.PARTS:
            weights[name] = _plain_weight(name, tensors)
        elif leaf == "weight":
            weights[name] = _expanded_weight(layer, packings[layer], tensors)
    return weights


def _plain_weight(name: str, tensors: dict[str, mx.array]) -> Weight:
    # Once read, an array keeps its data: the last reference has to go with it.
    return Weight(tensors[name].shape, tensors[name].dtype, lambda: tensors.pop(name))


def _expanded_weight(layer: str, packing: Packing, tensors: dict[str, mx.array]) -> Weight:
    names = [name for part in quantize.PARTS if (name := f"{layer}.{part}") in tensors]
    rows, groups = tensors[f"{layer}.scales"].shape

    def make() -> mx.array:
        parts = {name: tensors.pop(name) for name in names}
        return quantize.dequantize(parts, {layer: packing}, mx.float32)[f"{layer}.weight"]

    return Weight((rows, groups * packing.group_size), mx.float32, make)


def _for_task(source: Source, task: str) -> Source:
    """The source with its adapter fused in: an ordinary model, which no longer asks for files beside it."""
    name = next(iter(source.adapters), task)
    weights, config = source.weights, {**source.config, "task_names": [name]}
    for adapter in source.adapters.values():
        weights = _fused(weights, adapter)
    kept = source.prompts
    if source.adapters:
        # Of the other tasks, there are no weights any more.
        kept = prompts.of_task(kept, name, tuple(prompts.tasks_with_prompts(kept)))
    if config.get("model_type") == "jina_embeddings_v5" or jina_v4.has_adapters(config):
        fixed = architectures.of_config(config).fixed
        config |= {key: fixed[key] for key in gguf_reader.KINDS}
    general = {**source.general, "finetune": name}
    return replace(source, config=config, weights=weights, prompts=kept, general=general, adapters={})


def _fused(weights: Mapping[str, Weight], adapter: Adapter) -> dict[str, Weight]:
    """Weights with an adapter that is fused in when their turn comes."""
    fused = dict(weights)
    for module, pair in adapter.pairs.items():
        name = f"{module}.weight"
        if name not in weights:
            raise CheckpointError(f"{adapter.path}: it changes {module}, which does not exist in the base model")
        fused[name] = _fused_weight(name, weights[name], replace(adapter, pairs={module: pair}))
    return fused


def _fused_weight(name: str, weight: Weight, adapter: Adapter) -> Weight:
    return Weight(weight.shape, weight.dtype, lambda: lora.fuse({name: weight.make()}, adapter, mx.float32)[name])
