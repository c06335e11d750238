"""Weights to IQ4_NL, IQ4_XS and IQ3_S blocks, which the gguf package can only read.

Their weights are entries of a fixed table times a scale. As in kquants.py, the scale with the least weighted
squared error is searched and rounded; then the entries are chosen once more, for the rounded scale. The other IQ
types need a calibration file (an importance matrix), without which llama.cpp does not write them either.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type
from gguf.quants import IQ3_S, IQ4_NL

from mlx_jina.weights.gguf.kquants import BLOCK, Bytes, Floats, best_scale, by_pieces, divide, half, signed

GROUP = 32
_TABLE = np.array(IQ4_NL.kvalues, dtype=np.float32)
# The nearest entry for every multiple of a half from -128 to 127.5: between integers, borders lie on halves.
_STEPS = np.arange(-256, 256) / 2 + 0.25
_NEAREST = np.abs(_STEPS[:, None] - _TABLE).argmin(axis=1).astype(np.uint8)
_VALUES = _TABLE[_NEAREST]


def _half_steps(x: Floats) -> npt.NDArray[np.intp]:
    """Indices into `_NEAREST`, which `take` clips to the ends of the table."""
    return (x * 2 + 256).astype(np.intp)


def _entries(x: Floats) -> Bytes:
    """For each weight, the index of the table's nearest entry."""
    return _NEAREST.take(_half_steps(x), mode="clip")


def _scales(x: Floats) -> Floats:
    """Scale of w = scale entry, for groups along the last axis."""
    extremes = _TABLE[0] + np.arange(-7, 8, dtype=np.float32)
    return best_scale(x, extremes, lambda scaled: _VALUES.take(_half_steps(scaled), mode="clip"))


def _nibbles(entries: Bytes) -> Bytes:
    """Groups of 32 in 16 bytes: the first half low, the second high."""
    halves = entries.reshape(-1, 2, 16)
    return halves[:, 0] | halves[:, 1] << np.uint8(4)


def _iq4_nl(x: Floats) -> Bytes:
    raw, scale = half(_scales(x)[:, None])
    return np.concatenate([raw, _nibbles(_entries(divide(x, scale)))], axis=-1)


def _iq4_xs(x: Floats) -> Bytes:
    groups = x.reshape(-1, 8, GROUP)
    raw, small, scale = signed(_scales(groups), 32)
    nibbles = _nibbles(_entries(divide(groups, scale))).reshape(len(x), -1)
    six = (small + 32).astype(np.uint8)
    low = (six[:, ::2] & 15) | six[:, 1::2] << 4
    high = np.bitwise_or.reduce((six >> 4).astype("<u2") << np.arange(0, 16, 2, dtype="<u2"), axis=1)
    return np.concatenate([raw, high.astype("<u2")[:, None].view(np.uint8), low, nibbles], axis=-1)


@cache
def _grid() -> tuple[Floats, npt.NDArray[np.int64]]:
    """The 512 points (512, 4) of IQ3_S, odd numbers up to 15; and for each of 8^4 cells its 8 nearest of them."""
    IQ3_S.init_grid()
    assert IQ3_S.grid is not None
    points = IQ3_S.grid.reshape(-1, 4).astype(np.float32)
    cells = 2 * np.stack(np.meshgrid(*[np.arange(8)] * 4, indexing="ij"), axis=-1).reshape(-1, 4) + 1
    # Squared distances, less what is the same for all points of a cell.
    distances = (points * points).sum(axis=-1) - 2 * cells @ points.T
    near = np.argpartition(distances, 8, axis=-1)[:, :8]
    order = np.take_along_axis(distances, near, axis=-1).argsort(axis=-1, kind="stable")
    return points, np.take_along_axis(near, order, axis=-1)


def _cells(x: Floats, axis: int) -> npt.NDArray[np.intp]:
    """The cell of each four weights along an axis, in units of their scale."""
    digits = np.clip(np.rint((x - 1) / 2), 0, 7).astype(np.intp)
    first, second, third, fourth = np.moveaxis(digits, axis, 0)
    return first * 512 + second * 64 + third * 8 + fourth


def _nearest_points(scaled: Floats) -> Floats:
    """Groups of 32 along the first axis as the nearest points of four weights each."""
    points, near = _grid()
    cells = _cells(scaled.reshape(8, 4, -1), axis=1)
    return np.stack([column[cells] for column in points[near[:, 0]].T], axis=1).reshape(scaled.shape)


def _iq3_s(x: Floats) -> Bytes:
    points, near = _grid()
    fours = np.abs(x).reshape(-1, 8, 8, 4)
    weight = fours * fours
    extremes = np.arange(13.2, 16.9, 0.2, dtype=np.float32)
    scale = best_scale(fours.reshape(-1, 8, GROUP), extremes, _nearest_points)[..., None, None]
    # Scales are odd numbers up to 31 times one unit.
    unit = scale.max(axis=1, keepdims=True) / np.float32(31)
    small = np.clip(np.rint((divide(scale, unit) - 1) / 2), 0, 15)
    rounded = (2 * small + 1) * unit
    candidates = near[_cells(divide(fours, rounded), axis=-1)]
    differences = rounded[..., None] * points[candidates] - fours[..., None, :]
    errors = (weight[..., None, :] * differences**2).sum(axis=-1)
    index = np.take_along_axis(candidates, errors.argmin(axis=-1)[..., None], axis=-1)[..., 0]
    q = points[index] * (2 * small + 1)
    axes = (1, 2, 3)
    raw, _ = half(divide((weight * q * fours).sum(axis=axes), (weight * q * q).sum(axis=axes))[:, None])
    index, small = index.reshape(len(x), -1), small.reshape(len(x), 8).astype(np.uint8)
    high = np.packbits((index >> 8).astype(np.uint8), axis=-1, bitorder="little")
    signs = np.packbits(x < 0, axis=-1, bitorder="little")
    low = (index & 255).astype(np.uint8)
    return np.concatenate([raw, low, high, signs, small[:, ::2] | small[:, 1::2] << 4], axis=-1)


_MAKE = {Type.IQ4_NL: (GROUP, _iq4_nl), Type.IQ4_XS: (BLOCK, _iq4_xs), Type.IQ3_S: (BLOCK, _iq3_s)}
TYPES = tuple(_MAKE)


def quantize(rows: Floats, kind: Type) -> Bytes:
    """Rows of whole blocks as the bytes of an IQ type."""
    block, make = _MAKE[kind]
    return by_pieces(rows, block, make)
