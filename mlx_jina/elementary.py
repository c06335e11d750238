"""Functions of single numbers that take a large share of the time where MLX computes them slowly.

MLX's kernels for x86 are built without fused multiply-add and call the C library for each of the six steps of
their polynomials: 10 ns for an exp, 23 ns for an erf. Here a GPU and an ARM CPU keep MLX's own functions.
"""

from __future__ import annotations

import math
import platform
from functools import partial

import mlx.core as mx

from mlx_jina import device

# erf(x) = x P(x^2) / Q(x^2) between -3.744 and 3.744, constants of Eigen and XLA; within 4e-7 in float32.
_ERF_BOUND = 3.7439211627767994
_ERF_P = (
    0.00022905065861350646,
    0.0034082910107109506,
    0.050955695062380861,
    0.18520832239976145,
    1.128379143519084,
)
_ERF_Q = (
    -1.1791602954361697e-7,
    0.000023547966471313185,
    0.0010179625278914885,
    0.014070470171167667,
    0.11098505178285362,
    0.49746925110067538,
    1.0,
)


def _on_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64") and not device.on_gpu()


def _polynomial(coefficients: tuple[float, ...], x: mx.array) -> mx.array:
    """Horner's rule, highest power first."""
    y = mx.array(coefficients[0], dtype=x.dtype)
    for coefficient in coefficients[1:]:
        y = y * x + coefficient
    return y


def exp(x: mx.array) -> mx.array:
    """e^x of float32."""
    # One call of the C library. e is rounded to float32, which costs a relative 3e-8 |x|.
    return mx.power(mx.array(math.e), x) if _on_x86() else mx.exp(x)


def erf(x: mx.array) -> mx.array:
    """The error function of float32."""
    if not _on_x86():
        return mx.erf(x)
    x = mx.clip(x, -_ERF_BOUND, _ERF_BOUND)
    square = x * x
    return x * _polynomial(_ERF_P, square) / _polynomial(_ERF_Q, square)


@partial(mx.compile, shapeless=True)
def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """SiLU(gate) * up in float32, rounded once."""
    x = gate.astype(mx.float32)
    # Where the exponential overflows, x / inf is the right 0.
    return (x / (1 + exp(-x)) * up.astype(mx.float32)).astype(gate.dtype)


def _gelu(x: mx.array) -> mx.array:
    return x * (0.5 + 0.5 * erf(x * math.sqrt(0.5)))


@partial(mx.compile, shapeless=True)
def gelu(x: mx.array) -> mx.array:
    """GELU with the error function, not its tanh approximation, in float32, rounded once."""
    return _gelu(x.astype(mx.float32)).astype(x.dtype)


@partial(mx.compile, shapeless=True)
def geglu(gate: mx.array, up: mx.array) -> mx.array:
    """GELU(gate) * up in float32, rounded once."""
    return (_gelu(gate.astype(mx.float32)) * up.astype(mx.float32)).astype(gate.dtype)
