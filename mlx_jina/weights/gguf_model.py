"""A .gguf as a checkpoint with Hugging Face names, and a checkpoint as the tensors and keys of a .gguf."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import LlamaFileType

from mlx_jina.errors import CheckpointError
from mlx_jina.weights import gguf_blocks, gguf_tokenizer, names
from mlx_jina.weights.checkpoint import Checkpoint
from mlx_jina.weights.gguf_file import GGUF, nbytes
from mlx_jina.weights.names import Architecture, Rows

CONFIG, PROMPTS = "mlx-jina.config", "mlx-jina.prompts"
# Stored whole in CONFIG, except what the file itself says or what would be wrong about it.
_NOT_KEPT = ("quantization", "quantization_config", "auto_map", "_name_or_path", "gguf")
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
        if len(kinds) > 1 or kind not in gguf_blocks.REPACKABLE or not name.endswith(".weight"):
            return None
        return 8 if kind is Type.Q8_0 else 5 if kind in (Type.Q5_0, Type.Q5_1, Type.Q5_K) else 4

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
        return (
            raw
            if rows.stop is None
            else raw.reshape(self.file.entries[rows.name].shape[0], -1)[rows.start : rows.stop]
        )

    def __getitem__(self, name: str) -> mx.array:
        self.shape(name)
        dtype = self.dtype(name)
        pieces = [
            gguf_blocks.dequantize(
                self._raw(rows), self.file.entries[rows.name].type, self._shape(rows), rows.name
            ).astype(dtype)
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


def _number(file: GGUF, key: str) -> Any:
    value = file.get(key, (int, float))
    if isinstance(value, float):
        # 1e-12 was narrowed to float32 on its way into the file: its shortest spelling is the one meant.
        return float(str(np.float32(value)))
    return value


def _config(file: GGUF, architecture: Architecture, stored: Mapping[str, Any]) -> dict[str, Any]:
    config = {**stored, **architecture.fixed}
    for ours, theirs in architecture.keys.items():
        config[ours] = _number(file, f"{architecture.name}.{theirs}")
    rows = file.entries.get("token_embd.weight")
    if rows is None:
        raise CheckpointError(f"{file.path} has no tensor 'token_embd.weight'")
    config["vocab_size"] = rows.shape[0]
    if (types := file.entries.get("token_types.weight")) is not None:
        config["type_vocab_size"] = types.shape[0]
    wanted = file.metadata.get(f"{architecture.name}.pooling_type", architecture.pooling)
    if wanted != architecture.pooling:
        raise CheckpointError(
            f"{file.path}: it asks for {POOLING.get(wanted, wanted)} pooling, but {architecture.name} models are "
            f"pooled by {POOLING[architecture.pooling]}"
        )
    return config


def _json(file: GGUF, key: str) -> dict[str, Any]:
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
    architecture = names.of_gguf(file.metadata.get("general.architecture"))
    config = _config(file, architecture, _json(file, CONFIG))
    up = file.entries.get("blk.0.ffn_up.weight")
    halves = up.shape[0] // config["intermediate_size"] if up is not None and config["intermediate_size"] else 1
    if halves == 2 and "blk.0.attn_norm_2.weight" in file.entries:
        warnings.warn(
            f"{file.path} has a fused ffn_up, which is read as up|gate, as its model has it; llama.cpp takes it "
            "for gate|up and computes other vectors from this file",
            stacklevel=2,
        )
    width = config.get("head_dim", config["hidden_size"] // max(1, config["num_attention_heads"]))
    q = config["num_attention_heads"] * width
    kv = config.get("num_key_value_heads", config["num_attention_heads"]) * width
    parts, found = names.from_gguf(architecture, file.entries, (q, kv, kv), halves)
    config.update(found)
    return config, Tensors(file, parts, packed=packed)


def quantization(bits: Mapping[str, int]) -> dict[str, Any]:
    """config.json's block for packed modules, which may differ in bits."""
    common = max(sorted(set(bits.values())), key=lambda n: sum(b == n for b in bits.values()))
    other = {module: {"group_size": gguf_blocks.GROUP, "bits": n} for module, n in bits.items() if n != common}
    return {"group_size": gguf_blocks.GROUP, "bits": common, **other}


def read(path: Path, *, packed: bool = False) -> Checkpoint:
    """Read a .gguf. `packed`: blocks that MLX can hold exactly stay small; else all become plain arrays."""
    file = GGUF(path)
    config, lazy = open_tensors(file, packed=packed)
    tensors: dict[str, mx.array] = {}
    for name in lazy:
        module = name.removesuffix(".weight")
        if module in lazy.bits and name.endswith(".weight"):
            held = lazy.pack(module)
            tensors[name] = mx.array(held.weight)
            tensors[f"{module}.scales"], tensors[f"{module}.biases"] = mx.array(held.scales), mx.array(held.biases)
        else:
            tensors[name] = lazy[name]
    if lazy.bits:
        config["quantization"] = quantization(lazy.bits)
    stored = _json(file, PROMPTS)
    tokenizer, _ = gguf_tokenizer.read(file)
    return Checkpoint(
        path=path,
        config=config,
        tensors=tensors,
        tokenizer=tokenizer,
        prompts=stored.get("prompts") or {},
        default_prompt_name=stored.get("default_prompt_name"),
    )


def choose_type(name: str, shape: tuple[int, ...], wanted: Type) -> Type:
    """What a tensor is stored as, after llama.cpp: vectors, norms and token types stay in F32.

    Token vectors of 4- and 5-bit files are Q8_0: llama.cpp's own choice, Q6_K, cannot be written here.
    """
    if len(shape) < 2 or name.endswith("_norm.weight") or name == "token_types.weight":
        return Type.F32
    if name == "token_embd.weight" and wanted in (Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1):
        wanted = Type.Q8_0
    # Rows that are not whole blocks.
    return wanted if nbytes(wanted, shape) is not None else Type.F16


def metadata(
    architecture: Architecture,
    config: Mapping[str, Any],
    kind: Type,
    general: Mapping[str, Any],
    prompts: Mapping[str, str],
    default_prompt_name: str | None,
) -> dict[str, Any]:
    """Every key but the tokenizer's. llama.cpp silently assumes other values for several that are missing."""
    keys: dict[str, Any] = {"general.type": "model", **{f"general.{key}": value for key, value in general.items()}}
    file_type = {"F32": "ALL_F32"}.get(kind.name, f"MOSTLY_{kind.name}")
    keys["general.file_type"] = int(LlamaFileType[file_type])
    keys["general.quantization_version"] = 2
    for ours, theirs in architecture.keys.items():
        value = config.get(ours)
        if ours == "rope_theta" and value is None:
            value = (config.get("rope_parameters") or {}).get("rope_theta")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise CheckpointError(f"config.json: {ours!r} should be a number, found {value!r}")
        real = theirs in ("rope.freq_base",) or "epsilon" in theirs
        keys[f"{architecture.name}.{theirs}"] = float(value) if real else int(value)
    if "head_dim" in architecture.keys:
        keys[f"{architecture.name}.attention.value_length"] = int(config["head_dim"])
    for key, value in architecture.extra.items():
        keys[f"{architecture.name}.{key}"] = value
    keys[f"{architecture.name}.pooling_type"] = architecture.pooling
    keys[f"{architecture.name}.vocab_size"] = int(config["vocab_size"])
    kept = {key: value for key, value in config.items() if key not in _NOT_KEPT}
    keys[CONFIG] = json.dumps(kept, sort_keys=True)
    if prompts:
        keys[PROMPTS] = json.dumps({"prompts": dict(prompts), "default_prompt_name": default_prompt_name})
    return keys
