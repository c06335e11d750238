"""Layers that a CPU computes faster than MLX's own; `adapt` puts them into a loaded model."""

from __future__ import annotations

from functools import cache

import mlx.core as mx
import mlx.nn as nn

from mlx_jina.cpu import blas, cores, steady

# `Linear` cuts a product of at most so many rows with weights of at least so many numbers, where that is faster.
FEW_ROWS = 32
FEW_WEIGHTS = 1 << 18
# Weights of so many numbers are worth a second core.
LARGE = 1 << 20
# The largest product for OpenBLAS's kernel for small matrices: `sgemm_small_kernel_permit` of its kernel/x86_64.
_CELLS = 1200
_MULTIPLICATIONS = 1_000_000
# Outputs of one such product, at least and at most.
_NARROW, _WIDE = 8, 128
# Columns enough for OpenBLAS to compute 40 rows (nn/steady.py) by its kernel for large matrices.
_COLUMNS = 32


def adapt(model: nn.Module) -> None:
    """Swap the linear layers and norms of a loaded model for this file's; their weights stay where they are."""
    for module in model.modules():
        if (own := _OWN.get(type(module))) is not None:
            module.__class__ = own


class Linear(nn.Linear):
    """`nn.Linear`, cut into small products for a short text where BLAS has a kernel for small matrices.

    For a larger product OpenBLAS first rearranges the weights, and for one short text that takes longer than the
    product. Small products, of some outputs each, read the weights once as they stand, and each core reads a
    share.
    """

    def __call__(self, x: mx.array) -> mx.array:
        outputs = _together(x, self["weight"]) if blas.multiplies_small() else 0
        if not outputs:
            return super().__call__(x)
        streams = cores.streams()[: 1 + self.weight.size // LARGE]
        if len(streams) == 1:
            columns = _in_parts(self.weight, x, outputs)
        else:
            parts = []
            share = -(-len(self.weight) // (outputs * len(streams))) * outputs
            for start, stream in zip(range(0, len(self.weight), share), streams, strict=False):
                with mx.stream(stream):
                    parts.append(_in_parts(self.weight[start : start + share], x, outputs))
            columns = mx.concatenate(parts)
        return columns.T + self.bias if "bias" in self else mx.contiguous(columns.T)


def _in_parts(weight: mx.array, x: mx.array, outputs: int) -> mx.array:
    """Weights (N, D) times the columns of (T, D), so many outputs at a time: (N, T)."""
    # With three axes, because MLX would join products of two axes into one.
    return (weight.reshape(-1, outputs, x.shape[1]) @ x.T[None]).reshape(-1, x.shape[0])


def _together(x: mx.array, weight: mx.array) -> int:
    """Outputs of one small product of (T, D) with weights (N, D), a divisor of N; 0 where no cut helps."""
    rows, width = x.shape
    if rows > FEW_ROWS or weight.size < FEW_WEIGHTS or not x.dtype == weight.dtype == mx.float32:
        return 0
    outputs = _WIDE
    while outputs >= _NARROW:
        fits = rows * outputs <= _CELLS and rows * outputs * width <= _MULTIPLICATIONS
        if fits and weight.shape[0] % outputs == 0:
            return outputs
        outputs //= 2
    return 0


@cache
def _averaging(width: int, columns: int = 1) -> mx.array:
    """Columns (width, C) whose product with rows is their mean, in a fifth of the time of `mx.mean`."""
    made = mx.full((width, columns), 1 / width)
    # An unevaluated array would belong to the thread that asked first.
    mx.eval(made)
    return made


def _mean(x: mx.array) -> mx.array:
    """The mean of each row, (..., 1)."""
    if steady.wanted():
        # The same as a product of matrices, whose rows do not depend on how many there are.
        rows = x.reshape(-1, x.shape[-1]) @ _averaging(x.shape[-1], _COLUMNS)
        return rows[:, :1].reshape(*x.shape[:-1], 1)
    return x @ _averaging(x.shape[-1])


def _scaled(x: mx.array, eps: float) -> mx.array:
    """Scale each row to a mean square of one."""
    if steady.wanted():
        return x * mx.rsqrt(_mean(x * x) + eps)
    return x * mx.rsqrt(mx.addmm(mx.array(eps), x * x, _averaging(x.shape[-1])))


class LayerNorm(nn.LayerNorm):
    """LayerNorm over the last axis, in float32, rounded once."""

    def __call__(self, x: mx.array) -> mx.array:
        wide = x.astype(mx.float32)
        centred = wide - _mean(wide)
        return (_scaled(centred, self.eps) * self["weight"] + self["bias"]).astype(x.dtype)


class RMSNorm(nn.RMSNorm):
    """RMSNorm over the last axis, in float32, rounded once."""

    def __call__(self, x: mx.array) -> mx.array:
        return (_scaled(x.astype(mx.float32), self.eps) * self["weight"]).astype(x.dtype)


_OWN: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: Linear, nn.LayerNorm: LayerNorm, nn.RMSNorm: RMSNorm}
