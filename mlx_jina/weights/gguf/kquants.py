"""Weights to Q2_K ... Q6_K blocks, which the gguf package can only read.

A block of 256 weights has sub-blocks whose scales are small integers times one number in float16. For each
sub-block, the scale (and the minimum) with the least weighted squared error is searched and rounded. Then the
weights are rounded once more, with the rounded scale.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

BLOCK = 256
# Weights at a time: so many that NumPy works long without Python's lock, for which the threads wait.
_PIECE = 1 << 18
_THREADS = min(4, os.cpu_count() or 1)
_LEVELS = {Type.Q2_K: 3, Type.Q4_K: 15, Type.Q5_K: 31}
_PAIRS_OF_BITS = np.arange(0, 8, 2, dtype=np.uint8)[:, None]


def divide(a: Floats | np.float32, b: Floats) -> Floats:
    """The quotient, and 0 where b is 0."""
    shape = np.broadcast_shapes(np.shape(a), b.shape)
    return np.divide(a, b, out=np.zeros(shape, dtype=np.float32), where=b != 0)


def half(x: Floats) -> tuple[Bytes, Floats]:
    """The bytes of numbers in float16, and the values that these bytes stand for."""
    rounded = x.astype(np.float16)
    return rounded.view(np.uint8).reshape(*x.shape[:-1], -1), rounded.astype(np.float32)


def _columns(groups: Floats) -> Floats:
    """(size of a group, all groups): sums over groups then run along memory."""
    return np.ascontiguousarray(groups.reshape(-1, groups.shape[-1]).T)


def _add_up(a: Floats, b: Floats, out: Floats) -> None:
    """Sums of products over the groups of `_columns`."""
    np.einsum("ij,ij->j", a, b, out=out)


def _of_best(gain: Floats, *results: Floats) -> list[Floats]:
    """The gain and the results of the try with the largest gain, for each group; all are (tries, groups)."""
    best = gain.argmax(axis=0)[None]
    return [np.take_along_axis(values, best, axis=0)[0] for values in (gain, *results)]


def _affine(groups: Floats, levels: int) -> tuple[Floats, Floats]:
    """Scale and minimum (both >= 0) of w = scale q - minimum, for groups along the last axis."""
    x = _columns(groups)
    weight = np.sqrt(np.mean(x * x, axis=0)) + np.abs(x)
    weighted = weight * x
    low = np.minimum(x.min(axis=0), 0)
    span = x.max(axis=0) - low
    unit = divide(x - low, span)
    total, sum_x = weight.sum(axis=0), weighted.sum(axis=0)
    steps = np.arange(-1.0, 1.01, 0.1, dtype=np.float32)
    sum_q, sum_qq, sum_qx = np.empty((3, len(steps), len(span)), dtype=np.float32)
    for i, step in enumerate(steps):
        q = unit * (levels + step)
        np.minimum(np.rint(q, out=q), levels, out=q)
        _add_up(weight, q, out=sum_q[i])
        _add_up(weighted, q, out=sum_qx[i])
        q *= q
        _add_up(weight, q, out=sum_qq[i])
    # The line through (q, x) with the least weighted error; one that starts above zero goes through it.
    slope = divide(total * sum_qx - sum_q * sum_x, total * sum_qq - sum_q * sum_q)
    start = divide(sum_x - slope * sum_q, total)
    above = start > 0
    slope, start = np.where(above, divide(sum_qx, sum_qq), slope), np.where(above, 0, start)
    # How much of the weighted square the line explains.
    gain = np.where(slope > 0, slope * sum_qx + start * sum_x, 0)
    gain, slope, start = _of_best(gain, slope, start)
    scale, minimum = np.where(gain > 0, slope, span / levels), np.where(gain > 0, -start, -low)
    return scale.reshape(groups.shape[:-1]), minimum.reshape(groups.shape[:-1])


def _six_bits(scales: Bytes, minima: Bytes) -> Bytes:
    """Eight scales and eight minima of six bits in twelve bytes."""
    low = scales[:, :4] | scales[:, 4:] >> 4 << 6
    mid = minima[:, :4] | minima[:, 4:] >> 4 << 6
    high = (scales[:, 4:] & 15) | minima[:, 4:] << 4
    return np.concatenate([low, mid, high], axis=-1)


def _two_bits(q: Bytes) -> Bytes:
    """The two lowest bits of 256 weights in 64 bytes: each half of 128 is four runs of 32."""
    runs = (q & np.uint8(3)).reshape(len(q), 2, 4, 32)
    return np.bitwise_or.reduce(runs << _PAIRS_OF_BITS, axis=2).reshape(len(q), -1)


def _rounded(groups: Floats, kind: Type, top: int) -> tuple[Bytes, list[Bytes], list[Bytes]]:
    """Weights as w = scale q - minimum: q; scales and minima as integers up to `top`; the unit of each."""
    levels = _LEVELS[kind]
    small, units, values = [], [], []
    for numbers in _affine(groups, levels):
        raw, unit = half(numbers.max(axis=-1, keepdims=True) / np.float32(top))
        integers = np.clip(np.rint(divide(numbers, unit)), 0, top)
        small.append(integers.astype(np.uint8))
        units.append(raw)
        values.append((unit * integers)[..., None])
    q = np.clip(np.rint(divide(groups + values[1], values[0])), 0, levels)
    return q.astype(np.uint8), small, units


def _q2(x: Floats) -> Bytes:
    q, (scales, minima), units = _rounded(x.reshape(-1, 16, 16), Type.Q2_K, 15)
    return np.concatenate([scales | minima << 4, _two_bits(q), *units], axis=-1)


def _q45(x: Floats, kind: Type) -> Bytes:
    q, (scales, minima), units = _rounded(x.reshape(-1, 8, 32), kind, 63)
    pairs = (q & 15).reshape(-1, 4, 2, 32)
    nibbles = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(len(x), -1)
    columns = [*units, _six_bits(scales, minima)]
    if kind is Type.Q5_K:
        columns.append(np.packbits(q >> 4, axis=1, bitorder="little").reshape(len(x), -1))
    return np.concatenate([*columns, nibbles], axis=-1)


def best_scale(groups: Floats, extremes: Floats, nearest: Callable[[Floats], Floats]) -> Floats:
    """Scale of w = scale q with the least weighted squared error, for groups along the last axis.

    Each of `extremes` is tried as what the largest weight becomes; `nearest` gives what can be stored, for groups
    along the first axis.
    """
    x = _columns(groups)
    high, low = x.max(axis=0), x.min(axis=0)
    peak = np.where(high > -low, high, low)
    unit = divide(x, peak)
    weight = unit * unit
    weighted = weight * unit
    sum_qq, sum_qx = np.empty((2, len(extremes), len(peak)), dtype=np.float32)
    for i, extreme in enumerate(extremes):
        q = nearest(unit * extreme)
        _add_up(weighted, q, out=sum_qx[i])
        q *= q
        _add_up(weight, q, out=sum_qq[i])
    # How much of the weighted square the best multiple of q explains.
    scale = divide(sum_qx, sum_qq)
    _, scale = _of_best(scale * sum_qx, scale)
    return (peak * scale).reshape(groups.shape[:-1])


def _symmetric(x: Floats, top: int) -> Floats:
    """Scale of w = scale q, q from -top to top - 1, for groups along the last axis."""
    extremes = -top - np.arange(-0.9, 0.91, 0.1, dtype=np.float32)
    return best_scale(x, extremes, lambda scaled: np.clip(np.rint(scaled, out=scaled), -top, top - 1, out=scaled))


def signed(scale: Floats, top: int) -> tuple[Bytes, npt.NDArray[np.int8], Floats]:
    """Scales of a block as integers from -top to top - 1: bytes of their unit, the integers, their values."""
    largest = np.abs(scale).argmax(axis=-1, keepdims=True)
    raw, unit = half(np.take_along_axis(scale, largest, axis=-1) / np.float32(-top))
    small = np.clip(np.rint(divide(scale, unit)), -top, top - 1)
    return raw, small.astype(np.int8), (unit * small)[..., None]


def _q3(x: Floats) -> Bytes:
    groups = x.reshape(-1, 16, 16)
    raw, small, scale = signed(_symmetric(groups, 4), 32)
    q = (np.clip(np.rint(divide(groups, scale)), -4, 3) + 4).astype(np.uint8).reshape(len(x), -1)
    mask = np.packbits((q >> 2).reshape(-1, 8, 32), axis=1, bitorder="little").reshape(len(x), -1)
    six = (small + 32).astype(np.uint8)
    low = (six[:, :8] & 15) | six[:, 8:] << 4
    high = np.bitwise_or.reduce((six >> 4).reshape(-1, 4, 4) << _PAIRS_OF_BITS, axis=1)
    return np.concatenate([mask, _two_bits(q), low, high, raw], axis=-1)


def _q6(x: Floats) -> Bytes:
    groups = x.reshape(-1, 16, 16)
    raw, small, scale = signed(_symmetric(groups, 32), 128)
    q = (np.clip(np.rint(divide(groups, scale)), -32, 31) + 32).astype(np.uint8).reshape(len(x), -1)
    # Each half of 128 weights is four runs of 32.
    runs = q.reshape(-1, 2, 4, 32)
    low = (runs[:, :, :2] & 15) | runs[:, :, 2:] << 4
    return np.concatenate(
        [low.reshape(len(x), -1), _two_bits(q >> np.uint8(4)), small.view(np.uint8), raw], axis=-1
    )


_MAKE: dict[Type, Callable[[Floats], Bytes]] = {
    Type.Q2_K: _q2,
    Type.Q3_K: _q3,
    Type.Q4_K: partial(_q45, kind=Type.Q4_K),
    Type.Q5_K: partial(_q45, kind=Type.Q5_K),
    Type.Q6_K: _q6,
}
TYPES = tuple(_MAKE)


def quantize(rows: Floats, kind: Type) -> Bytes:
    """Rows of whole blocks as the bytes of a K type."""
    return by_pieces(rows, BLOCK, _MAKE[kind])


def by_pieces(rows: Floats, block: int, make: Callable[[Floats], Bytes]) -> Bytes:
    """Rows as the bytes that `make` gives for blocks, some at a time, in threads."""
    blocks = rows.reshape(-1, block)
    step = _PIECE // block
    with ThreadPoolExecutor(_THREADS) as pool:
        pieces = list(pool.map(make, (blocks[at : at + step] for at in range(0, len(blocks), step))))
    return np.concatenate(pieces).reshape(len(rows), -1)
