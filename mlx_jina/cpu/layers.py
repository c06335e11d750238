"""Layers that a CPU computes faster than MLX's own; `adapt` puts them into a loaded model."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import cache, partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_jina.cpu import blas, cores, steady

# At most so many rows are few: `LayerNorm` is fused, and `Linear` cuts products with weights of so many numbers.
FEW_ROWS = 32
FEW_WEIGHTS = 1 << 18
# Weights of fewer numbers than this are copied for such products, which is faster still.
COPIED_WEIGHTS = 1 << 19
# Weights of so many numbers are worth a second core.
LARGE = 1 << 20
# The largest product for OpenBLAS's kernel for small matrices: `sgemm_small_kernel_permit` of its kernel/x86_64.
_CELLS = 1200
_MULTIPLICATIONS = 1_000_000
# Outputs of one such product, at least and at most, and with copied weights.
_NARROW, _WIDE, _COPIED = 8, 128, 64
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
    share. For small weights that share is too small, so a copy of them is kept in the order of the products.
    """

    def __call__(self, x: mx.array) -> mx.array:
        if _by_copy_is_faster(x, self["weight"]):
            return _by_copy(x, self)[0]
        if not (outputs := _together(x, self["weight"])):
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


def products(x: mx.array, *layers: nn.Linear) -> list[mx.array]:
    """What each of some layers makes of the same rows, in one product where that is faster."""
    if all(isinstance(layer, Linear) and _by_copy_is_faster(x, layer["weight"]) for layer in layers):
        return _by_copy(x, *layers)
    return [layer(x) for layer in layers]


def _by_copy_is_faster(x: mx.array, weight: mx.array) -> bool:
    return weight.size < COPIED_WEIGHTS and len(weight) % _COPIED == 0 and _fits(x, weight, _COPIED)


def _by_copy(x: mx.array, *layers: nn.Linear) -> list[mx.array]:
    """The layers for a few rows (T, D), by a copy of their weights that the first one keeps."""
    own = [layer.get(name) for layer in layers for name in ("weight", "bias")]
    copy = getattr(layers[0], "_copy", None)
    # A model's parameters can be replaced; nothing here changes them in place.
    if copy is None or len(copy.own) != len(own) or not all(map(operator.is_, own, copy.own)):
        copy = layers[0]._copy = _Copy(own)
    rows = mx.addmm(copy.bias, x[None], copy.blocks)
    return [part.transpose(1, 0, 2).reshape(len(x), -1) for part in mx.split(rows, copy.ends)]


class _Copy:
    """Weights of layers as (N / o, D, o) and their biases as (N / o, 1, o), where o is `_COPIED`."""

    def __init__(self, own: Sequence[mx.array | None]) -> None:
        self.own = own
        """What this is a copy of: the first layer's weight and its bias, if it has any, and so on."""
        weights = [weight for weight in own[::2] if weight is not None]
        biases = [mx.zeros(len(w)) if bias is None else bias for w, bias in zip(weights, own[1::2], strict=True)]
        blocks = mx.concatenate(weights).reshape(-1, _COPIED, weights[0].shape[1]).transpose(0, 2, 1)
        self.blocks, self.bias = mx.contiguous(blocks), mx.concatenate(biases).reshape(-1, 1, _COPIED)
        # An unevaluated array would belong to the thread that asked first.
        mx.eval(self.blocks, self.bias)
        self.ends = np.cumsum([len(weight) // _COPIED for weight in weights])[:-1].tolist()


def _in_parts(weight: mx.array, x: mx.array, outputs: int) -> mx.array:
    """Weights (N, D) times the columns of (T, D), so many outputs at a time: (N, T)."""
    # With three axes, because MLX would join products of two axes into one.
    return (weight.reshape(-1, outputs, x.shape[1]) @ x.T[None]).reshape(-1, x.shape[0])


def _together(x: mx.array, weight: mx.array) -> int:
    """Outputs of one small product of (T, D) with weights (N, D), a divisor of N; 0 where no cut helps."""
    if len(x) > FEW_ROWS or weight.size < FEW_WEIGHTS:
        return 0
    outputs = _WIDE
    while outputs >= _NARROW:
        if _fits(x, weight, outputs) and len(weight) % outputs == 0:
            return outputs
        outputs //= 2
    return 0


def _fits(x: mx.array, weight: mx.array, outputs: int) -> bool:
    """Whether the BLAS has a kernel for small matrices that computes so many outputs of (T, D)."""
    if not blas.multiplies_small() or not x.dtype == weight.dtype == mx.float32:
        return False
    rows, width = x.shape
    return rows * outputs <= _CELLS and rows * outputs * width <= _MULTIPLICATIONS


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


@partial(mx.compile, shapeless=True)
def _centred(x: mx.array, mean: mx.array) -> tuple[mx.array, mx.array]:
    """The rows less their means, and the squares of that."""
    centred = x - mean
    return centred, centred * centred


@partial(mx.compile, shapeless=True)
def _normed(centred: mx.array, mean_square: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    return centred * mx.rsqrt(mean_square) * weight + bias


class LayerNorm(nn.LayerNorm):
    """LayerNorm over the last axis, in float32, rounded once."""

    def __call__(self, x: mx.array) -> mx.array:
        wide = x.astype(mx.float32)
        if len(x) <= FEW_ROWS and not steady.wanted():
            # Fused operations are slower for many rows, which they go through with strides, and faster to start.
            averaging = _averaging(x.shape[-1])
            centred, squares = _centred(wide, wide @ averaging)
            mean_square = mx.addmm(mx.array(self.eps), squares, averaging)
            return _normed(centred, mean_square, self["weight"], self["bias"]).astype(x.dtype)
        centred = wide - _mean(wide)
        return (_scaled(centred, self.eps) * self["weight"] + self["bias"]).astype(x.dtype)


class RMSNorm(nn.RMSNorm):
    """RMSNorm over the last axis, in float32, rounded once."""

    def __call__(self, x: mx.array) -> mx.array:
        return (_scaled(x.astype(mx.float32), self.eps) * self["weight"]).astype(x.dtype)


_OWN: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: Linear, nn.LayerNorm: LayerNorm, nn.RMSNorm: RMSNorm}
