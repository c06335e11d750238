"""MLX's affine quantisation: `X.weight` packed in uint32 beside `X.scales` and `X.biases`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_jina.errors import CheckpointError
from mlx_jina.models.config import required

# config.json says under these names how layers are packed. mlx-lm writes both; the first is read.
BLOCKS = ("quantization", "quantization_config")
# The parts of a packed layer's weight.
PARTS = ("weight", "scales", "biases")
# Numbers of a tensor that are unpacked at a time: MLX's steps for 3, 5 and 6 bits take many times the result.
UNPACKED = 1 << 24


def is_quantized(config: Mapping[str, Any]) -> bool:
    """Whether config.json has the `quantization` block that MLX folders carry."""
    return "quantization" in config


def block(bits: Mapping[str, int], group_size: int) -> dict[str, Any]:
    """The `quantization` block for layers of these bits: the most frequent number, and the other layers."""
    widths = list(bits.values())
    common = max(sorted(set(widths)), key=widths.count)
    other = {layer: {"group_size": group_size, "bits": width} for layer, width in bits.items() if width != common}
    return {"group_size": group_size, "bits": common, **other}


def parameters(config: Mapping[str, Any], layer: str) -> dict[str, int]:
    """Group size and bits of one layer: mlx-lm lets layers differ from the block's common values."""
    common = config.get("quantization")
    if not isinstance(common, Mapping):
        raise CheckpointError(f"config.json: 'quantization' should say how {layer} is packed, found {common!r}")
    # mlx-lm's names begin with a prefix that is not in our names.
    special = common.get(layer, common.get(f"model.{layer}"))
    settings = special if isinstance(special, Mapping) else common
    if settings.get("mode", "affine") != "affine":
        raise CheckpointError(f"config.json: quantization mode {settings['mode']!r} is not implemented")
    return {key: required(settings, key, int) for key in ("group_size", "bits")}


def layers(tensors: Collection[str]) -> list[str]:
    """Names of the layers that are packed, given those of all tensors."""
    return [name.removesuffix(".scales") for name in tensors if name.endswith(".scales")]


def part_names(layer: str, tensors: Collection[str]) -> list[str]:
    """Names of the tensors that make up a packed layer. Raises CheckpointError where one of them is missing."""
    names = [f"{layer}.{part}" for part in PARTS]
    if missing := [name for name in names if name not in tensors]:
        raise CheckpointError(f"{layer} is quantised, but there is no {missing[0]}: the files are incomplete")
    return names


def dequantize(tensors: Mapping[str, mx.array], config: Mapping[str, Any], dtype: mx.Dtype) -> dict[str, mx.array]:
    """Full weights in `dtype`, computed in float32: for CPUs, where quantised matmul is a plain loop."""
    full = dict(tensors)
    for layer in layers(tensors):
        settings = parameters(config, layer)
        parts = [full.pop(name) for name in part_names(layer, tensors)]
        full[f"{layer}.weight"] = _unpacked(parts, dtype, **settings)
    return full


def _unpacked(packed: Sequence[mx.array], dtype: mx.Dtype, group_size: int, bits: int) -> mx.array:
    """The full weight of the parts (packed weight, scales, biases), evaluated some rows at a time."""
    rows, groups = packed[1].shape
    step = max(1, UNPACKED // (groups * group_size))
    pieces = []
    for start in range(0, rows, step):
        weight, scales, biases = (part[start : start + step] for part in packed)
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
        pieces.append(mx.dequantize(weight, scales, biases, group_size=group_size, bits=bits).astype(dtype))
        mx.eval(pieces[-1])
    full = pieces[0] if len(pieces) == 1 else mx.concatenate(pieces)
    mx.eval(full)
    return full


def quantize_model(model: nn.Module, tensors: Mapping[str, mx.array], config: Mapping[str, Any]) -> None:
    """Swap the layers that `tensors` holds in packed form, if there are any, for MLX's quantised ones."""
    packed = set(layers(tensors)) if is_quantized(config) else ()
    nn.quantize(model, class_predicate=lambda path, _: parameters(config, path) if path in packed else False)
