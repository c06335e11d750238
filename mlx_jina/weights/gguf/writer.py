"""A checkpoint as a .gguf: what the file of a model says, and its tensors, each of the type chosen for it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
from gguf import GGMLQuantizationType as Type

from mlx_jina.errors import CheckpointError
from mlx_jina.models.qwen2_5_vl import sections_of
from mlx_jina.weights.gguf import architectures, names
from mlx_jina.weights.gguf import blocks as gguf_blocks
from mlx_jina.weights.gguf import file as gguf_file
from mlx_jina.weights.gguf import lora as gguf_lora
from mlx_jina.weights.gguf import rerankers as gguf_rerankers
from mlx_jina.weights.gguf import tokenizer as gguf_tokenizer
from mlx_jina.weights.gguf import types as gguf_types
from mlx_jina.weights.gguf.architectures import Architecture
from mlx_jina.weights.gguf.reader import CONFIG, KINDS, PROMPTS, SECTIONS
from mlx_jina.weights.source import Source

# config.json is stored whole in CONFIG, except what would be wrong about the file, and what other keys say.
_NOT_KEPT = ("quantization", "quantization_config", "auto_map", "_name_or_path", "gguf", "vocab_size")


def model_file(source: Source, architecture: Architecture, target: Path, file_type: str) -> gguf_file.File:
    """The .gguf of a model, to be written to `target` with tensors of the types that `file_type` asks for."""
    keys: dict[str, Any] = {}
    if source.kind == "reranker":
        keys, source = gguf_rerankers.for_llama(source)
    metadata = keys | _model_keys(source, architecture, file_type)
    metadata |= gguf_tokenizer.metadata(
        source.tokenizer_json,
        source.tokenizer,
        source.config["vocab_size"],
        source.config.get("type_vocab_size"),
        gguf_tokenizer.pre_of_v2(source.names, source.weights),
    )
    return gguf_file.File(target, architecture.name, metadata, _outputs(source, architecture, file_type))


def _model_keys(source: Source, architecture: Architecture, file_type: str) -> dict[str, Any]:
    """Every key but the tokenizer's. llama.cpp silently assumes other values for several that are missing."""
    keys: dict[str, Any] = {"general.type": "model"}
    keys |= {f"general.{key}": value for key, value in source.general.items()}
    keys["general.file_type"] = gguf_types.number(file_type)
    keys["general.quantization_version"] = 2
    settings = {**_hyper_parameters(source, architecture), **architecture.extra}
    settings["pooling_type"] = architecture.pooling
    settings["vocab_size"] = int(source.config["vocab_size"])
    if architecture.sections:
        if (sections := sections_of(source.config)) is None:
            raise CheckpointError(
                f"{source.path}: config.json has no 'mrope_section', without which llama.cpp loads none"
            )
        settings[SECTIONS] = [*sections, 0]
    keys |= {f"{architecture.name}.{key}": value for key, value in settings.items()}
    elsewhere = {*_NOT_KEPT, *architecture.keys, *architecture.fixed} - {*KINDS}
    config = {key: value for key, value in source.config.items() if key not in elsewhere}
    keys[CONFIG] = json.dumps(config, sort_keys=True)
    if source.adapters:
        keys[gguf_lora.TASKS] = list(source.adapters)
    if source.prompts:
        keys[PROMPTS] = json.dumps(source.sentence_transformers_config)
    return keys


def _hyper_parameters(source: Source, architecture: Architecture) -> dict[str, int | float]:
    """The numbers of config.json, by GGUF's keys below the architecture's prefix."""
    config = source.config
    numbers: dict[str, int | float] = {}
    for name, key in architecture.keys.items():
        value = config.get(name)
        if name == "rope_theta" and value is None:
            value = (config.get("rope_parameters") or {}).get("rope_theta")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise CheckpointError(f"{source.path}: config.json: {name!r} should be a number, found {value!r}")
        numbers[key] = float(value) if architectures.is_real(key) else int(value)
    numbers["context_length"] -= architecture.uncounted
    if "head_dim" in architecture.keys:
        numbers["attention.value_length"] = int(config["head_dim"])
    return numbers


def _outputs(source: Source, architecture: Architecture, file_type: str) -> list[gguf_file.Output]:
    """The tensors in the order of the source's, of which some are cut in parts."""
    pieces = names.to_gguf(source.path, architecture, source.weights)
    # Parts of one tensor follow each other, so that it is read once.
    order = {name: i for i, name in enumerate(source.weights)}
    rows = sorted(pieces.items(), key=lambda item: (order[item[1].name], item[1].index))
    cut: dict[str, mx.array] = {}

    def make(piece: names.Piece, kind: Type) -> Any:
        tensor = cut.pop(piece.name) if piece.name in cut else source.weights[piece.name].make()
        if piece.index + 1 < piece.of:
            cut[piece.name] = tensor
        size = tensor.shape[0] // piece.of
        return gguf_blocks.quantize(tensor[piece.index * size : (piece.index + 1) * size], kind)

    layers, heads = int(source.config["num_hidden_layers"]), int(source.config["num_attention_heads"])
    heads_per_kv = heads // int(source.config.get("num_key_value_heads") or heads)
    outputs = []
    for name, piece in rows:
        full = source.weights[piece.name].shape
        shape = (full[0] // piece.of, *full[1:])
        kind = gguf_types.choose(name, shape, file_type, layers, heads_per_kv)
        outputs.append(gguf_file.Output(name, kind, shape, partial(make, piece, kind)))
    return outputs
