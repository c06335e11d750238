"""A .gguf as a checkpoint with Hugging Face names, and a checkpoint as the tensors and keys of a .gguf."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from gguf import GGMLQuantizationType as Type

from mlx_jina.errors import CheckpointError
from mlx_jina.weights.checkpoint import Checkpoint
from mlx_jina.weights.gguf import blocks as gguf_blocks
from mlx_jina.weights.gguf import lora as gguf_lora
from mlx_jina.weights.gguf import names
from mlx_jina.weights.gguf import tokenizer as gguf_tokenizer
from mlx_jina.weights.gguf import types as gguf_types
from mlx_jina.weights.gguf.file import GGUF
from mlx_jina.weights.gguf.names import Architecture, Rows

if TYPE_CHECKING:
    from mlx_jina.weights.source import Source

CONFIG, PROMPTS = "mlx-jina.config", "mlx-jina.prompts"
# config.json is stored whole in CONFIG, except what would be wrong about the file, and what other keys say.
_NOT_KEPT = ("quantization", "quantization_config", "auto_map", "_name_or_path", "gguf", "vocab_size")
KINDS = ("model_type", "architectures")
# Keys that some converters leave out where the value follows from others, as llama.cpp takes it to do.
_LEFT_OUT: Mapping[str, Callable[[Mapping[str, Any]], int]] = {
    "attention.head_count_kv": lambda config: int(config["num_attention_heads"]),
    "attention.key_length": lambda config: int(config["hidden_size"] // config["num_attention_heads"]),
}
POOLING = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}


class Tensors(Mapping[str, mx.array]):
    """A file's tensors under our names, each decoded when asked for and kept by nobody."""

    def __init__(self, file: GGUF, parts: Mapping[str, list[Rows]], *, packed: bool) -> None:
        self.file = file
        self._parts = parts
        # As far as MLX can hold them, blocks stay packed: X.weight, X.scales, X.biases.
        self.bits: dict[str, int] = {}
        for name in parts if packed else ():
            if (bits := self._bits(name)) is not None:
                self.bits[name.removesuffix(".weight")] = bits

    def _bits(self, name: str) -> int | None:
        kinds = {self.file.entries[rows.name].type for rows in self._parts[name]}
        kind = next(iter(kinds))
        matrix = name.endswith(".weight") and len(self.file.entries[self._parts[name][0].name].shape) == 2
        if len(kinds) > 1 or kind not in gguf_blocks.REPACKABLE or not matrix:
            return None
        return gguf_blocks.REPACKABLE[kind]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the decoded tensor."""
        shapes = [self._shape(rows) for rows in self._parts[name]]
        if len({shape[1:] for shape in shapes}) > 1:
            raise CheckpointError(f"{self.file.path}: the parts of {name} have shapes that do not fit: {shapes}")
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def _shape(self, rows: Rows) -> tuple[int, ...]:
        shape = self.file.entries[rows.name].shape
        if rows.stop is not None and rows.stop > shape[0]:
            raise CheckpointError(f"{self.file.path}: tensor {rows.name!r} has {shape[0]} rows, not {rows.stop}")
        return (shape[0] if rows.stop is None else rows.stop - rows.start, *shape[1:])

    def dtype(self, name: str) -> mx.Dtype:
        """Dtype of the decoded tensor."""
        kinds = {self.file.entries[rows.name].type for rows in self._parts[name]}
        plain = {Type.F16: mx.float16, Type.BF16: mx.bfloat16}
        return plain.get(next(iter(kinds)), mx.float32) if len(kinds) == 1 else mx.float32

    def _raw(self, rows: Rows) -> gguf_blocks.Bytes:
        raw = self.file.raw(rows.name)
        if rows.stop is None:
            return raw
        return raw.reshape(self.file.entries[rows.name].shape[0], -1)[rows.start : rows.stop]

    def __getitem__(self, name: str) -> mx.array:
        self.shape(name)
        dtype = self.dtype(name)
        pieces = [
            gguf_blocks.decode(self.file, rows.name, self._raw(rows), self._shape(rows)).astype(dtype)
            for rows in self._parts[name]
        ]
        return pieces[0] if len(pieces) == 1 else mx.concatenate(pieces)

    def pack(self, module: str) -> gguf_blocks.Packed:
        """A module of `bits` in MLX's packed form."""
        name = f"{module}.weight"
        kind = self.file.entries[self._parts[name][0].name].type
        raw = np.concatenate([self._raw(rows) for rows in self._parts[name]])
        return gguf_blocks.repack(raw, kind, self.shape(name)[-1])

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


def _is_real(key: str) -> bool:
    return key == "rope.freq_base" or "epsilon" in key


def _number(file: GGUF, architecture: Architecture, key: str) -> int | float:
    full = f"{architecture.name}.{key}"
    if _is_real(key):
        # 1e-12 was narrowed to float32 on its way into the file: its shortest spelling is the one meant.
        return float(str(np.float32(file.get(full, (int, float)))))
    value: int = file.get(full, int)
    if value <= 0:
        raise CheckpointError(f"{file.path}: metadata {full!r} is {value}, which is no size")
    return value


def _check_sizes(file: GGUF, architecture: Architecture, config: Mapping[str, Any]) -> None:
    """Metadata against the tensors, before anything is built after it."""
    blocks = {name.split(".")[1] for name in file.entries if name.startswith("blk.")}
    wanted = {"block_count": (config["num_hidden_layers"], len(blocks))}
    wanted["embedding_length"] = (config["hidden_size"], file.entries["token_embd.weight"].shape[-1])
    if (down := file.entries.get("blk.0.ffn_down.weight")) is not None:
        wanted["feed_forward_length"] = (config["intermediate_size"], down.shape[-1])
    for key, (said, found) in wanted.items():
        if said != found:
            raise CheckpointError(
                f"{file.path}: metadata '{architecture.name}.{key}' is {said}, but the tensors say {found}"
            )


def _check_settings(file: GGUF, architecture: Architecture) -> None:
    """Refuse what llama.cpp would compute and we would not."""
    causal = architecture.extra.get("attention.causal", True)
    for key, wanted in (("rope.scaling.type", "none"), ("attention.causal", causal)):
        found = file.metadata.get(f"{architecture.name}.{key}", wanted)
        if found != wanted:
            raise CheckpointError(
                f"{file.path}: metadata '{architecture.name}.{key}' is {found!r}; only {wanted!r} is implemented"
            )


def _config(file: GGUF, architecture: Architecture, stored: Mapping[str, Any]) -> dict[str, Any]:
    config = {**stored, **architecture.fixed}
    for ours, theirs in architecture.keys.items():
        if theirs in _LEFT_OUT and f"{architecture.name}.{theirs}" not in file.metadata:
            config[ours] = _LEFT_OUT[theirs](config)
        else:
            config[ours] = _number(file, architecture, theirs)
    config["max_position_embeddings"] += architecture.uncounted
    rows = file.entries.get("token_embd.weight")
    if rows is None:
        raise CheckpointError(f"{file.path} has no tensor 'token_embd.weight'")
    config["vocab_size"] = rows.shape[0]
    if (types := file.entries.get("token_types.weight")) is not None:
        config["type_vocab_size"] = types.shape[0]
    wanted = file.get(f"{architecture.name}.pooling_type", int, architecture.pooling)
    if wanted != architecture.pooling:
        raise CheckpointError(
            f"{file.path}: it asks for {POOLING.get(wanted, wanted)} pooling, but {architecture.name} models are "
            f"pooled by {POOLING[architecture.pooling]}"
        )
    _check_sizes(file, architecture, config)
    _check_settings(file, architecture)
    return config


def stored_json(file: GGUF, key: str) -> dict[str, Any]:
    """What mlx-jina keeps under a key of its own; empty in other people's files."""
    try:
        content = json.loads(file.get(key, str, "{}"))
    except (ValueError, RecursionError):
        raise CheckpointError(f"{file.path}: metadata {key!r} is not valid JSON") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file.path}: metadata {key!r} should be a JSON object")
    return content


def open_tensors(file: GGUF, *, packed: bool = False) -> tuple[dict[str, Any], Tensors]:
    """config.json's content, and the tensors under our names."""
    if file.metadata.get("general.type", "model") != "model":
        raise CheckpointError(f"{file.path} is an {file.metadata['general.type']}, not a model")
    architecture = names.of_gguf(file.path, file.metadata.get("general.architecture"))
    config = _config(file, architecture, stored_json(file, CONFIG))
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
    parts, found = names.from_gguf(file.path, architecture, file.entries, (q, kv, kv), halves)
    config.update(found)
    return config, Tensors(file, parts, packed=packed)


def quantization(bits: Mapping[str, int]) -> dict[str, Any]:
    """config.json's block for packed modules, which may differ in bits."""
    common = max(sorted(set(bits.values())), key=lambda n: sum(b == n for b in bits.values()))
    other = {module: {"group_size": gguf_blocks.GROUP, "bits": n} for module, n in bits.items() if n != common}
    return {"group_size": gguf_blocks.GROUP, "bits": common, **other}


def read(path: Path, task: str | None = None, *, packed: bool = False) -> Checkpoint:
    """Read a .gguf, or the one in a folder; of the adapters beside it all, or the one of `task`.

    `packed`: blocks that MLX can hold exactly stay small; else all become plain arrays.
    """
    file = GGUF(gguf_lora.base_of(path))
    config, lazy = open_tensors(file, packed=packed)
    tensors: dict[str, mx.array] = {}
    dtype = mx.float16 if lazy.bits else None
    for name in lazy:
        module = name.removesuffix(".weight")
        if module in lazy.bits and name.endswith(".weight"):
            held = lazy.pack(module)
            tensors[name] = mx.array(held.weight)
            tensors[f"{module}.scales"], tensors[f"{module}.biases"] = mx.array(held.scales), mx.array(held.biases)
            if held.scales.dtype != np.float16:
                dtype = mx.float32
        else:
            tensors[name] = lazy[name]
    if lazy.bits:
        config["quantization"] = quantization(lazy.bits)
    stored = stored_json(file, PROMPTS)
    tokenizer, _ = gguf_tokenizer.read(file)
    return Checkpoint(
        path=path,
        config=config,
        tensors=tensors,
        tokenizer=tokenizer,
        prompts=stored.get("prompts") or {},
        default_prompt_name=stored.get("default_prompt_name"),
        adapters=gguf_lora.read(file, task, alone=path.is_dir()),
        exact_dtype=dtype,
    )


def metadata(source: Source, architecture: Architecture, file_type: str) -> dict[str, Any]:
    """Every key but the tokenizer's. llama.cpp silently assumes other values for several that are missing."""
    config = source.config
    keys: dict[str, Any] = {"general.type": "model"}
    keys |= {f"general.{key}": value for key, value in source.general.items()}
    keys["general.file_type"] = gguf_types.number(file_type)
    keys["general.quantization_version"] = 2
    for ours, theirs in architecture.keys.items():
        value = config.get(ours)
        if ours == "rope_theta" and value is None:
            value = (config.get("rope_parameters") or {}).get("rope_theta")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise CheckpointError(f"{source.path}: config.json: {ours!r} should be a number, found {value!r}")
        keys[f"{architecture.name}.{theirs}"] = float(value) if _is_real(theirs) else int(value)
    keys[f"{architecture.name}.context_length"] -= architecture.uncounted
    if "head_dim" in architecture.keys:
        keys[f"{architecture.name}.attention.value_length"] = int(config["head_dim"])
    for key, value in architecture.extra.items():
        keys[f"{architecture.name}.{key}"] = value
    keys[f"{architecture.name}.pooling_type"] = architecture.pooling
    keys[f"{architecture.name}.vocab_size"] = int(config["vocab_size"])
    said = {*_NOT_KEPT, *architecture.keys, *architecture.fixed} - {*KINDS}
    kept = {key: value for key, value in config.items() if key not in said}
    keys[CONFIG] = json.dumps(kept, sort_keys=True)
    if source.adapters:
        keys[gguf_lora.TASKS] = list(source.adapters)
    if source.prompts:
        own = {"prompts": dict(source.prompts), "default_prompt_name": source.default_prompt_name}
        keys[PROMPTS] = json.dumps(own)
    return keys
