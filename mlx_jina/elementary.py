"""Functions of single numbers that take a large share of the time where MLX computes them slowly.

MLX's kernels for x86 call the C library for each step of their polynomials: 12 ns for an exp, 23 ns for an erf.
Here a GPU and an ARM CPU keep MLX's own functions. For x86 they are written in steps that `mx.compile` turns
into loops over neighbours in memory, which the compiler vectorises: it cuts what is deeper than 11 operations
(`max_compile_depth` in mlx/compile.cpp), and what it cuts badly reads its constants from memory with a stride.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
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
# e^x = 2^n e^f with f = x - n ln 2, and e^f a polynomial for |f| <= ln 2 / 2: constants of Cephes' expf.
_EXP = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
    1.0,
    1.0,
)
# ln 2 in two parts, of which n times the first is exact.
_LN2 = (0.693359375, -2.12194440e-4)
# Added to a number it leaves the nearest integer, plus the exponent's offset, in the lowest bits.
_ROUND = 1.5 * 2**23 + 127
# Where e^x and e^-x are normal numbers; what lies beyond is computed as its bound.
_EXP_BOUND = 87.0

_compiled: Callable[[Callable[..., mx.array]], Callable[..., mx.array]] = partial(mx.compile, shapeless=True)


def _on_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64") and not device.on_gpu()


def _polynomial(coefficients: tuple[float, ...], x: mx.array) -> mx.array:
    """Horner's rule, highest power first."""
    y = mx.array(coefficients[0], dtype=x.dtype)
    for coefficient in coefficients[1:]:
        y = y * x + coefficient
    return y


# ---- e^x


@_compiled
def _bounded(x: mx.array) -> mx.array:
    return mx.clip(x, -_EXP_BOUND, _EXP_BOUND)


@_compiled
def _exponent(x: mx.array) -> mx.array:
    return x * math.log2(math.e) + _ROUND


@_compiled
def _fraction(x: mx.array, exponent: mx.array) -> mx.array:
    n = exponent - _ROUND
    return x - n * _LN2[0] - n * _LN2[1]


_exp_of_fraction = _compiled(partial(_polynomial, _EXP))


def exp(x: mx.array) -> mx.array:
    """e^x of float32; on x86 within a relative 2e-7 from -87 to 87, and beyond that of these bounds."""
    if not _on_x86():
        return mx.exp(x)
    x = _bounded(x)
    exponent = _exponent(x)
    power_of_two = mx.left_shift(exponent.view(mx.uint32), 23).view(mx.float32)
    return _exp_of_fraction(_fraction(x, exponent)) * power_of_two


@_compiled
def _swiglu(gate: mx.array, up: mx.array, exponential: mx.array) -> mx.array:
    # Where the exponential overflows, x / inf is the right 0.
    return (gate.astype(mx.float32) / (1 + exponential) * up.astype(mx.float32)).astype(gate.dtype)


@_compiled
def _fused_swiglu(gate: mx.array, up: mx.array) -> mx.array:
    return _swiglu(gate, up, mx.exp(-gate.astype(mx.float32)))


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """SiLU(gate) * up in float32, rounded once."""
    return _swiglu(gate, up, exp(-gate.astype(mx.float32))) if _on_x86() else _fused_swiglu(gate, up)


# ---- the error function


@_compiled
def _within(x: mx.array) -> mx.array:
    return mx.clip(x.astype(mx.float32) * math.sqrt(0.5), -_ERF_BOUND, _ERF_BOUND)


_numerator = _compiled(partial(_polynomial, _ERF_P))
_denominator = _compiled(partial(_polynomial, _ERF_Q))


@_compiled
def _quotient(x: mx.array, numerator: mx.array, denominator: mx.array) -> mx.array:
    return x * numerator / denominator


def _erf(x: mx.array) -> mx.array:
    """erf(x / sqrt 2), twice the normal distribution's function less 1, in float32."""
    if not _on_x86():
        return mx.erf(x.astype(mx.float32) * math.sqrt(0.5))
    x = _within(x)
    square = x * x
    return _quotient(x, _numerator(square), _denominator(square))


@_compiled
def _gelu(x: mx.array, erf: mx.array) -> mx.array:
    return (x.astype(mx.float32) * (0.5 + 0.5 * erf)).astype(x.dtype)


@_compiled
def _fused_gelu(x: mx.array) -> mx.array:
    return _gelu(x, _erf(x))


def gelu(x: mx.array) -> mx.array:
    """GELU with the error function, not its tanh approximation, in float32, rounded once."""
    return _gelu(x, _erf(x)) if _on_x86() else _fused_gelu(x)


@_compiled
def _geglu(gate: mx.array, up: mx.array, erf: mx.array) -> mx.array:
    return (gate.astype(mx.float32) * (0.5 + 0.5 * erf) * up.astype(mx.float32)).astype(gate.dtype)


@_compiled
def _fused_geglu(gate: mx.array, up: mx.array) -> mx.array:
    return _geglu(gate, up, _erf(gate))


def geglu(gate: mx.array, up: mx.array) -> mx.array:
    """GELU(gate) * up in float32, rounded once."""
    return _geglu(gate, up, _erf(gate)) if _on_x86() else _fused_geglu(gate, up)
