"""Linear layers, and what one short text does to them on a CPU."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_jina import device
from mlx_jina.nn import pieces

# Rows of the input, and numbers in the weights, for which the cut below is faster.
FEW_ROWS = 32
LARGE = 1 << 20
# What OpenBLAS multiplies as it stands: `sgemm_small_kernel_permit` of its kernel/x86_64.
_CELLS = 1200
_MULTIPLICATIONS = 1_000_000
# Outputs of a product, at least and at most.
_NARROW, _WIDE = 8, 128


class Linear(nn.Linear):
    """`nn.Linear`, in small products where BLAS has a way of its own for these.

    For any other product OpenBLAS first rearranges the weights, which for one short text takes longer than to
    multiply. Cut into groups of outputs they are read once, as they stand, and each core reads a share of them.
    """

    def __call__(self, x: mx.array) -> mx.array:
        outputs = _together(x, self["weight"]) if device.multiplies_small() else 0
        if not outputs:
            return super().__call__(x)
        total = self.weight.shape[0]
        cores = pieces.streams()[: 1 + self.weight.size // LARGE]
        share = -(-total // (outputs * len(cores))) * outputs
        # Of three axes, or MLX makes one product of all.
        columns = x.T[None]
        parts = []
        for start, core in zip(range(0, total, share), cores, strict=False):
            weight = self.weight[start : start + share]
            with mx.stream(core):
                parts.append((weight.reshape(-1, outputs, x.shape[1]) @ columns).reshape(-1, x.shape[0]))
        y = mx.contiguous(mx.concatenate(parts).T)
        return y + self.bias if "bias" in self else y


def _together(x: mx.array, weight: mx.array) -> int:
    """Outputs of one small product of (T, D) and weights (N, D), a divisor of N; 0 if not to be cut."""
    rows, width = x.shape
    if rows > FEW_ROWS or weight.size < LARGE or not x.dtype == weight.dtype == mx.float32:
        return 0
    outputs = _WIDE
    while outputs >= _NARROW:
        fits = rows * outputs <= _CELLS and rows * outputs * width <= _MULTIPLICATIONS
        if fits and weight.shape[0] % outputs == 0:
            return outputs
        outputs //= 2
    return 0
