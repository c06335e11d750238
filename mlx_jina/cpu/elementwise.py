"""exp2, SwiGLU and GELU on x86, where MLX's own versions call the C library for each step of their polynomials.

One exp takes 12 ns that way, and one erf 23 ns. `mx.compile` turns the functions of this file into loops over
neighbours in memory, which the C++ compiler vectorises. Three facts shape these functions:

- `mx.compile` cuts a graph that is deeper than 11 operations (`max_compile_depth` in mlx/compile.cpp), where a
  number that meets another number or a constant counts as two. A loop that begins at a bad cut reads its constants
  from memory with a stride.
- A polynomial that is divided by its first coefficient needs that coefficient no more within the loop.
- Maxima and minima look for NaN, and take as long as three other operations.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import mlx.core as mx

from mlx_jina import device

LOG2_E = math.log2(math.e)

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
# 2^x = 2^n 2^f with n the nearest integer, and 2^f for |f| <= 1/2 the polynomial of least relative error.
_EXP2 = (
    0.0013277938903401567,
    0.0096757576407556344,
    0.055507095981383814,
    0.24022114337835179,
    0.69314696822967359,
    1.0000000733176138,
)
_X86 = platform.machine() in ("x86_64", "AMD64")
# Adding this constant to a number rounds the number to an integer; subtracting it again gives that integer.
_ROUND = 1.5 * 2**23
# Above this exponent 1 + 2^x equals 2^x in float32, and a little higher the formulas overflow.
_EXP2_BOUND = 126.0

T = TypeVar("T")


def _compiled(function: Callable[..., T]) -> Callable[..., T]:
    compiled: Callable[..., T] = mx.compile(function, shapeless=True)
    return compiled


def on_x86() -> bool:
    """Whether the functions of this file are faster than MLX's."""
    return _X86 and not device.on_gpu()


def _monic(coefficients: tuple[float, ...]) -> tuple[float, ...]:
    """All coefficients but the first, divided by the first."""
    return tuple(each / coefficients[0] for each in coefficients[1:])


def _horner(y: mx.array, x: mx.array, coefficients: Sequence[float]) -> mx.array:
    """Evaluate further coefficients of a polynomial in `x`, highest power first; `y` is the value so far."""
    for coefficient in coefficients:
        y = y * x + coefficient
    return y


def _begun(coefficients: tuple[float, ...], x: mx.array) -> mx.array:
    """A monic polynomial up to its fourth coefficient, the deepest graph that `mx.compile` does not cut."""
    first, *others = _monic(coefficients)[:3]
    return _horner(x + first, x, others)


# ---- 2^x


@_compiled
def _power_of_two(x: mx.array) -> mx.array:
    """The bits of 2^n, or of zero where 2^n is too small for float32."""
    exponent = x + _ROUND - (_ROUND - 127)
    return ((exponent + mx.abs(exponent)) * 2**22).astype(mx.int32)


@_compiled
def _fraction(x: mx.array) -> mx.array:
    return x - (x + _ROUND - _ROUND)


_exp2_begun = _compiled(partial(_begun, _EXP2))


@_compiled
def _exp2_ended(fraction: mx.array, begun: mx.array, power: mx.array) -> mx.array:
    return _horner(begun * fraction * _EXP2[0] + _EXP2[4], fraction, _EXP2[5:]) * power


def exp2(x: mx.array) -> mx.array:
    """2^x of finite float32 up to 126; on x86 within a relative 3e-7, and zero below -126.5."""
    if not on_x86():
        return _exp2(x)
    fraction = _fraction(x)
    return _exp2_ended(fraction, _exp2_begun(fraction), _power_of_two(x).view(mx.float32))


@_compiled
def _exp2(x: mx.array) -> mx.array:
    return mx.exp(x * math.log(2))


@_compiled
def _negative(gate: mx.array) -> mx.array:
    return mx.minimum(gate.astype(mx.float32) * -LOG2_E, _EXP2_BOUND)


@_compiled
def _swiglu(gate: mx.array, up: mx.array, exponential: mx.array) -> mx.array:
    return (gate.astype(mx.float32) / (1 + exponential) * up.astype(mx.float32)).astype(gate.dtype)


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """SiLU(gate) * up in float32, rounded once."""
    return _swiglu(gate, up, exp2(_negative(gate)))


# ---- the error function


@_compiled
def _within(x: mx.array) -> tuple[mx.array, mx.array]:
    x = x.astype(mx.float32) * math.sqrt(0.5)
    # NaN may become a number here; the caller multiplies by x, which is still NaN.
    x = mx.where(mx.abs(x) < _ERF_BOUND, x, mx.sign(x) * _ERF_BOUND)
    return x, x * x


_numerator_begun = _compiled(partial(_begun, _ERF_P))
_denominator_begun = _compiled(partial(_begun, _ERF_Q))


@_compiled
def _denominator(square: mx.array, begun: mx.array) -> mx.array:
    return _horner(begun, square, _monic(_ERF_Q)[3:])


@_compiled
def _half(x: mx.array, square: mx.array, numerator: mx.array, denominator: mx.array) -> mx.array:
    return _horner(numerator, square, _monic(_ERF_P)[3:]) * x / denominator * (_ERF_P[0] / _ERF_Q[0] / 2)


def _half_erf(x: mx.array) -> mx.array:
    """erf(x / sqrt 2) / 2, the normal distribution's function less 1/2, in float32."""
    x, square = _within(x)
    return _half(x, square, _numerator_begun(square), _denominator(square, _denominator_begun(square)))


@_compiled
def _gelu(x: mx.array, half_erf: mx.array) -> mx.array:
    return (x.astype(mx.float32) * (0.5 + half_erf)).astype(x.dtype)


def gelu(x: mx.array) -> mx.array:
    """GELU with the error function, in float32, rounded once."""
    return _gelu(x, _half_erf(x))


@_compiled
def _geglu(gate: mx.array, up: mx.array, half_erf: mx.array) -> mx.array:
    return (gate.astype(mx.float32) * (0.5 + half_erf) * up.astype(mx.float32)).astype(gate.dtype)


def geglu(gate: mx.array, up: mx.array) -> mx.array:
    """GELU(gate) * up in float32, rounded once."""
    return _geglu(gate, up, _half_erf(gate))
