"""Norms beside a residual stream in float32: rounding that stream is what half precision loses most by."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn


def add_norm(norm: nn.LayerNorm, x: mx.array, residual: mx.array) -> mx.array:
    """LayerNorm of a sum taken in float32, rounded to the dtype of `x`."""
    return norm(x.astype(mx.float32) + residual.astype(mx.float32)).astype(x.dtype)


def rounded_norm(norm: nn.RMSNorm, x: mx.array) -> mx.array:
    """RMSNorm of a residual stream in float32, rounded to the dtype of the weights."""
    return norm(x).astype(norm.weight.dtype)
