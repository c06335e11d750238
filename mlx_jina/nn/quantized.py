"""MLX's quantised embedding, with rows in the dtype that the model computes in."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn


class QuantizedEmbedding(nn.QuantizedEmbedding):
    """MLX's own looks rows up in bfloat16, or for affine weights in the dtype of their scales."""

    dtype: mx.Dtype

    @classmethod
    def adapt(cls, model: nn.Module, dtype: mx.Dtype) -> None:
        """Swap MLX's layers in a model for this class; their weights stay where they are."""
        for module in model.modules():
            if type(module) is nn.QuantizedEmbedding:
                module.__class__ = cls
                module.dtype = dtype

    def __call__(self, ids: mx.array) -> mx.array:
        biases = self.get("biases")
        # A single id has no rows, and MLX dequantises nothing but rows.
        rows = ids.reshape(-1)
        found = mx.dequantize(
            self["weight"][rows],
            self["scales"][rows],
            None if biases is None else biases[rows],
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
            dtype=self.dtype,
        )
        return found.reshape(*ids.shape, -1)
