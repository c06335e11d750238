"""A .gguf as a checkpoint with Hugging Face names: its settings, its tensors, its tokenizer, its adapters."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import PoolingType

from mlx_jina.catalog import Entry, Kind
from mlx_jina.errors import CheckpointError
from mlx_jina.weights import checkpoint, modules, quantize
from mlx_jina.weights.checkpoint import Checkpoint, Recognised
from mlx_jina.weights.gguf import architectures, names, recognition
from mlx_jina.weights.gguf import blocks as gguf_blocks
from mlx_jina.weights.gguf import lora as gguf_lora
from mlx_jina.weights.gguf import rerankers as gguf_rerankers
from mlx_jina.weights.gguf import tokenizer as gguf_tokenizer
from mlx_jina.weights.gguf.architectures import Architecture
from mlx_jina.weights.gguf.file import GGUF
from mlx_jina.weights.gguf.names import Rows
from mlx_jina.weights.quantize import Packing
from mlx_jina.weights.source import Source, Weight

# mlx-jina's own keys: what llama.cpp's keys do not say of config.json, and the prompts.
CONFIG, PROMPTS = "mlx-jina.config", "mlx-jina.prompts"
# Below the architecture's prefix: how many angles turn with time, height, width, and with nothing.
SECTIONS = "rope.dimension_sections"
# The settings of config.json that name the model.
KINDS = ("model_type", "architectures")
# Keys that some converters leave out, with the value that llama.cpp then takes.
_LEFT_OUT: Mapping[str, Callable[[Mapping[str, Any]], int]] = {
    "attention.head_count_kv": lambda config: int(config["num_attention_heads"]),
    "attention.key_length": lambda config: int(config["hidden_size"] // config["num_attention_heads"]),
}
# Keys below `general.` that are about the file, and not about the model.
_ABOUT_THE_FILE = ("architecture", "type", "file_type", "quantization_version", "alignment")
POOLING = {pooling.value: pooling.name.lower() for pooling in PoolingType}
_DTYPES = {Type.F16: mx.float16, Type.BF16: mx.bfloat16}


def _shape(file: GGUF, rows: Rows) -> tuple[int, ...]:
    shape = file.entries[rows.name].shape
    if rows.stop is not None and rows.stop > shape[0]:
        raise CheckpointError(f"{file.path}: tensor {rows.name!r} has {shape[0]} rows, not {rows.stop}")
    return (shape[0] if rows.stop is None else rows.stop - rows.start, *shape[1:])


def _raw(file: GGUF, rows: Rows) -> gguf_blocks.Bytes:
    raw = file.raw(rows.name)
    if rows.stop is None:
        return raw
    return raw.reshape(file.entries[rows.name].shape[0], -1)[rows.start : rows.stop]


def _weight(file: GGUF, name: str, parts: Sequence[Rows], packed: bool) -> Weight:
    """Our tensor `name`, decoded from its parts in the file when its turn comes."""
    shapes = [_shape(file, rows) for rows in parts]
    if len({shape[1:] for shape in shapes}) > 1:
        raise CheckpointError(f"{file.path}: the parts of {name} have shapes that do not fit: {shapes}")
    shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    kind, *others = {file.entries[rows.name].type for rows in parts}
    dtype = mx.float32 if others else _DTYPES.get(kind, mx.float32)

    def make() -> mx.array:
        pieces = [
            gguf_blocks.decode(file, rows.name, _raw(file, rows), shape).astype(dtype)
            for rows, shape in zip(parts, shapes, strict=True)
        ]
        return pieces[0] if len(pieces) == 1 else mx.concatenate(pieces)

    def pack() -> gguf_blocks.Packed:
        return gguf_blocks.repack(np.concatenate([_raw(file, rows) for rows in parts]), kind, shape[-1])

    matrix = name.endswith(".weight") and len(shape) == 2
    fits = packed and matrix and not others and kind in gguf_blocks.REPACKABLE
    return Weight(shape, dtype, make, pack if fits else None)


def _number(file: GGUF, architecture: Architecture, key: str) -> int | float:
    full = f"{architecture.name}.{key}"
    if architectures.is_real(key):
        # The file has 1e-12 in float32, whose shortest spelling is 1e-12 again.
        return float(str(np.float32(file.get(full, (int, float)))))
    value: int = file.get(full, int)
    if value <= 0:
        raise CheckpointError(f"{file.path}: metadata {full!r} is {value}, which is no size")
    return value


def _check_sizes(file: GGUF, architecture: Architecture, config: Mapping[str, Any]) -> None:
    """Compare the metadata with the tensors, before a model is built from the metadata."""
    blocks = {name.split(".")[1] for name in file.entries if name.startswith("blk.")}
    sizes = {"block_count": (config["num_hidden_layers"], len(blocks))}
    sizes["embedding_length"] = (config["hidden_size"], file.entries["token_embd.weight"].shape[-1])
    if (down := file.entries.get("blk.0.ffn_down.weight")) is not None:
        sizes["feed_forward_length"] = (config["intermediate_size"], down.shape[-1])
    for key, (value, tensor_value) in sizes.items():
        if value != tensor_value:
            raise CheckpointError(
                f"{file.path}: metadata '{architecture.name}.{key}' is {value}, but the tensors say {tensor_value}"
            )


def _check_settings(file: GGUF, architecture: Architecture, config: Mapping[str, Any]) -> None:
    """Refuse settings with which llama.cpp would compute something else than mlx-jina."""
    causal = architecture.extra.get("attention.causal", True)
    for key, implemented in (("rope.scaling.type", "none"), ("attention.causal", causal)):
        full = f"{architecture.name}.{key}"
        value = file.metadata.get(full, implemented)
        if value != implemented:
            raise CheckpointError(
                f"{file.path}: metadata {full!r} is {value!r}; only {implemented!r} is implemented"
            )
    if f"{architecture.name}.rope.scaling.type" not in file.metadata:
        # Without a type, llama.cpp takes these for linear scaling.
        _expect_number(file, f"{architecture.name}.rope.scaling.factor", (0, 1))
        _expect_number(file, f"{architecture.name}.rope.scale_linear", (0, 1))
    if "rope_theta" in architecture.keys:
        _expect_number(file, f"{architecture.name}.rope.scaling.attn_factor", (1,))
        width = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
        _expect_number(file, f"{architecture.name}.rope.dimension_count", (width,))


def _expect_number(file: GGUF, key: str, implemented: tuple[int, ...]) -> None:
    value = file.metadata.get(key, implemented[0])
    if value not in implemented:
        raise CheckpointError(f"{file.path}: metadata {key!r} is {value!r}; only {implemented[-1]} is implemented")


def _config(file: GGUF, architecture: Architecture, stored: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    config = {**stored, **architecture.fixed}
    for setting, key in architecture.keys.items():
        if key in _LEFT_OUT and f"{architecture.name}.{key}" not in file.metadata:
            config[setting] = _LEFT_OUT[key](config)
        else:
            config[setting] = _number(file, architecture, key)
    config["max_position_embeddings"] += architecture.uncounted
    rows = file.entries.get("token_embd.weight")
    if rows is None:
        raise CheckpointError(f"{file.path} has no tensor 'token_embd.weight'")
    config["vocab_size"] = rows.shape[0]
    if architecture.sections and f"{architecture.name}.{SECTIONS}" in file.metadata:
        sections = [int(x) for x in file.metadata[f"{architecture.name}.{SECTIONS}"]]
        config.setdefault("rope_scaling", {"mrope_section": sections[:3], "rope_type": "default"})
    if (types := file.entries.get("token_types.weight")) is not None:
        config["type_vocab_size"] = types.shape[0]
    pooling = file.get(f"{architecture.name}.pooling_type", int, architecture.pooling)
    if pooling != architecture.pooling and kind == "embedding":
        raise CheckpointError(
            f"{file.path}: it asks for {POOLING.get(pooling, pooling)} pooling, but {architecture.name} models "
            f"are pooled by {POOLING[architecture.pooling]}"
        )
    _check_sizes(file, architecture, config)
    _check_settings(file, architecture, config)
    return config


def _stored_json(file: GGUF, key: str) -> dict[str, Any]:
    """The JSON object under one of mlx-jina's own keys; empty in the files of other programs."""
    try:
        content = json.loads(file.get(key, str, "{}"))
    except (ValueError, RecursionError):
        raise CheckpointError(f"{file.path}: metadata {key!r} is not valid JSON") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file.path}: metadata {key!r} should be a JSON object")
    return content


def _tensors(file: GGUF, packed: bool, kind: Kind) -> tuple[dict[str, Any], dict[str, Weight]]:
    """config.json's content, and the tensors under our names."""
    if file.metadata.get("general.type", "model") != "model":
        raise CheckpointError(f"{file.path} is an {file.metadata['general.type']}, not a model")
    if file.get("split.count", int, 1) > 1:
        raise CheckpointError(
            f"{file.path} is one of {file.metadata['split.count']} parts of a model; llama.cpp's "
            "`llama-gguf-split --merge FIRST-PART OUT.gguf` joins them"
        )
    architecture = architectures.of_gguf(file.path, file.metadata.get("general.architecture"))
    config = _config(file, architecture, _stored_json(file, CONFIG), kind)
    up = file.entries.get("blk.0.ffn_up.weight")
    halves = up.shape[0] // config["intermediate_size"] if up is not None else 1
    if halves == 2 and "blk.0.attn_norm_2.weight" in file.entries:
        warnings.warn(
            f"{file.path} has a fused ffn_up, which is read as up|gate, as its model has it; llama.cpp takes it "
            "for gate|up and computes other vectors from this file",
            stacklevel=2,
        )
    width = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    q = config["num_attention_heads"] * width
    kv = config.get("num_key_value_heads", config["num_attention_heads"]) * width
    parts, layout = names.from_gguf(file.path, architecture, file.entries, (q, kv, kv), halves)
    config.update(layout)
    return config, {name: _weight(file, name, rows, packed) for name, rows in parts.items()}


def open_source(
    path: Path,
    task: str | None = None,
    *,
    packed: bool = False,
    entry: Entry | None = None,
    kind: Kind = "embedding",
) -> Source:
    """Open a .gguf, or the one in a folder, with all of its adapters or the one of `task`. Decodes no tensor.

    `packed`: a matrix whose blocks MLX can hold exactly can also be made in MLX's packed form. `entry`: the model
    that it is; without it, the one that the file names.
    """
    file = GGUF(gguf_lora.base_of(path))
    if kind == "embedding":
        gguf_rerankers.refuse(file)
    else:
        gguf_rerankers.check(file)
    config, weights = _tensors(file, packed, kind)
    adapters = gguf_lora.read(file, task, alone=path.is_dir())
    if adapters:
        # By the name of the model, the reader of a folder expects its adapters.
        stored = _stored_json(file, CONFIG)
        config |= {key: stored[key] for key in KINDS if key in stored}
    tokenizer, tokenizer_json = gguf_tokenizer.read(file)
    if kind == "reranker":
        config, weights = gguf_rerankers.with_head(file, tokenizer, config, weights)
    recognised = _recognise(file, bool(adapters), entry) if kind == "embedding" else None
    prompts = _stored_json(file, PROMPTS) or _known(config, recognised)
    modules.check_prompts(path, prompts)
    general = {
        key.removeprefix("general."): value
        for key, value in file.metadata.items()
        if key.startswith("general.") and not isinstance(value, np.ndarray)
    }
    return Source(
        path=path,
        config=config,
        weights=weights,
        tokenizer=tokenizer,
        tokenizer_json=tokenizer_json,
        prompts=prompts.get("prompts") or {},
        default_prompt_name=prompts.get("default_prompt_name"),
        general={key: value for key, value in general.items() if key not in _ABOUT_THE_FILE},
        names=(str(file.metadata.get("tokenizer.ggml.pre")), str(file.metadata.get("general.name")), str(path)),
        adapters=adapters,
        recognised=recognised,
        kind=kind,
    )


def _recognise(file: GGUF, has_adapters: bool, entry: Entry | None) -> Recognised | None:
    """The published model that a file is. Warns of a file that may be one and does not say which."""
    if entry is not None:
        return Recognised(entry, "as_model")
    architecture = architectures.of_gguf(file.path, file.metadata.get("general.architecture"))
    found = recognition.recognise(file, architecture, has_adapters)
    if found is None and not has_adapters and CONFIG not in file.metadata:
        recognition.warn(file, architecture)
    return found


def _known(config: dict[str, Any], recognised: Recognised | None) -> dict[str, Any]:
    """The prompts of a published model; what else is known of it goes into its config.json."""
    if recognised is None:
        return {}
    entry = recognised.entry
    config.setdefault("matryoshka_dims", list(entry.truncate_dims))
    config.setdefault(checkpoint.LIMIT, entry.max_length)
    if entry.merged:
        config.setdefault("task_names", list(entry.tasks))
    return {"prompts": dict(entry.prompts), "default_prompt_name": entry.default_prompt_name}


def read(
    path: Path,
    task: str | None = None,
    *,
    packed: bool = False,
    entry: Entry | None = None,
    kind: Kind = "embedding",
) -> Checkpoint:
    """Read a .gguf, or the one in a folder, with all of its adapters or the one of `task`.

    `packed`: blocks that MLX can hold exactly stay packed; otherwise all become plain arrays. `entry`: the model
    that it is; without it, the one that the file names.
    """
    source = open_source(path, task, packed=packed, entry=entry, kind=kind)
    config, tensors = source.config, {}
    packings: dict[str, Packing] = {}
    exact_dtype: mx.Dtype | None = None
    for name, weight in source.weights.items():
        if weight.pack is None:
            tensors[name] = weight.make()
            continue
        module, blocks = name.removesuffix(".weight"), weight.pack()
        arrays = map(mx.array, blocks[:3])
        tensors |= {f"{module}.{part}": array for part, array in zip(quantize.PARTS, arrays, strict=True)}
        packings[module] = Packing(gguf_blocks.GROUP, blocks.bits)
        exact_dtype = (exact_dtype or mx.float16) if blocks.scales.dtype == np.float16 else mx.float32
    if packings:
        config["quantization"] = quantize.block(packings)
    return Checkpoint(
        path=path,
        config=config,
        tensors=tensors,
        tokenizer=source.tokenizer,
        prompts=source.prompts,
        default_prompt_name=source.default_prompt_name,
        adapters=source.adapters,
        exact_dtype=exact_dtype,
        recognised=source.recognised,
    )
