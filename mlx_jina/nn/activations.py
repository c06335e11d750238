"""Activations, computed in float32 and rounded once."""

from __future__ import annotations

import math
from collections.abc import Callable

import mlx.core as mx

from mlx_jina.cpu import elementwise


def _fused(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """One kernel for all shapes."""
    compiled: Callable[..., mx.array] = mx.compile(function, shapeless=True)
    return compiled


@_fused
def _swiglu(gate: mx.array, up: mx.array) -> mx.array:
    wide = gate.astype(mx.float32)
    # Where the exponential overflows, x / inf is the right 0.
    return (wide / (1 + mx.exp(-wide)) * up.astype(mx.float32)).astype(gate.dtype)


@_fused
def _gelu(x: mx.array) -> mx.array:
    wide = x.astype(mx.float32)
    return (wide * (0.5 + mx.erf(wide * math.sqrt(0.5)) / 2)).astype(x.dtype)


@_fused
def _gelu_tanh(x: mx.array) -> mx.array:
    wide = x.astype(mx.float32)
    inner = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide * wide * wide)
    return (wide * (1 + mx.tanh(inner)) / 2).astype(x.dtype)


@_fused
def _geglu(gate: mx.array, up: mx.array) -> mx.array:
    wide = gate.astype(mx.float32)
    return (wide * (0.5 + mx.erf(wide * math.sqrt(0.5)) / 2) * up.astype(mx.float32)).astype(gate.dtype)


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """SiLU(gate) * up: Shazeer 2020, "GLU Variants Improve Transformer" (arXiv 2002.05202)."""
    return elementwise.swiglu(gate, up) if elementwise.on_x86() else _swiglu(gate, up)


def gelu(x: mx.array) -> mx.array:
    """GELU with the error function, not its tanh approximation: Hendrycks and Gimpel 2016 (arXiv 1606.08415)."""
    return elementwise.gelu(x) if elementwise.on_x86() else _gelu(x)


def gelu_tanh(x: mx.array) -> mx.array:
    """GELU by its tanh approximation, section 2 of the same paper: for models that were trained with it."""
    return _gelu_tanh(x)


def geglu(gate: mx.array, up: mx.array) -> mx.array:
    """GELU(gate) * up: Shazeer 2020 (arXiv 2002.05202)."""
    return elementwise.geglu(gate, up) if elementwise.on_x86() else _geglu(gate, up)
