"""MLX's affine quantisation: `X.weight` packed in uint32 beside `X.scales` and `X.biases`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_jina.errors import CheckpointError


def is_quantized(config: Mapping[str, Any]) -> bool:
    """Whether config.json has the `quantization` block that MLX folders carry."""
    return "quantization" in config


def parameters(config: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Group size and bits of one layer: mlx-lm lets layers differ from the block's common values."""
    block = config["quantization"]
    # Names of mlx-lm's have a prefix that ours have not.
    own = block.get(path, block.get(f"model.{path}"))
    chosen = own if isinstance(own, Mapping) else block
    if chosen.get("mode", "affine") != "affine":
        raise CheckpointError(f"config.json: quantization mode {chosen['mode']!r} is not implemented")
    return {"group_size": chosen["group_size"], "bits": chosen["bits"]}


def _layers(tensors: Mapping[str, mx.array]) -> list[str]:
    return [name.removesuffix(".scales") for name in tensors if name.endswith(".scales")]


def dequantize(tensors: Mapping[str, mx.array], config: Mapping[str, Any], dtype: mx.Dtype) -> dict[str, mx.array]:
    """Full weights in `dtype`, computed in float32: for CPUs, where quantised matmul is a plain loop."""
    full = dict(tensors)
    for layer in _layers(tensors):
        scales, biases = (full.pop(f"{layer}.{part}").astype(mx.float32) for part in ("scales", "biases"))
        full[f"{layer}.weight"] = mx.dequantize(
            full[f"{layer}.weight"], scales, biases, **parameters(config, layer)
        ).astype(dtype)
    return full


def quantize_model(model: nn.Module, tensors: Mapping[str, mx.array], config: Mapping[str, Any]) -> None:
    """Swap the layers that `tensors` holds in packed form for MLX's quantised ones."""
    packed = set(_layers(tensors))
    nn.quantize(model, class_predicate=lambda path, _: parameters(config, path) if path in packed else False)
