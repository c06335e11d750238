"""Weights to Q4_K, Q5_K and Q6_K blocks, which the gguf package can only read.

A block of 256 weights has sub-blocks whose scales are themselves small integers times one number in float16.
Of each sub-block the scale (and minimum) with the least weighted squared error is searched, then rounded, and
the weights are rounded once more to what was rounded.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

BLOCK = 256
# Weights at a time, so that the many passes of a search stay in a core's cache.
_PIECE = 1 << 16
_LEVELS = {Type.Q4_K: 15, Type.Q5_K: 31}


def _divide(a: Floats | np.float32, b: Floats) -> Floats:
    """The quotient, and 0 where b is 0."""
    shape = np.broadcast_shapes(np.shape(a), b.shape)
    return np.divide(a, b, out=np.zeros(shape, dtype=np.float32), where=b != 0)


def _half(x: Floats) -> tuple[Bytes, Floats]:
    """As bytes of float16, and the value that those have."""
    half = x.astype(np.float16)
    return half.view(np.uint8).reshape(*x.shape[:-1], -1), half.astype(np.float32)


def _affine(x: Floats, levels: int) -> tuple[Floats, Floats]:
    """Scale and minimum (both >= 0) of w = scale q - minimum, for groups along the last axis."""
    weight = np.sqrt(np.mean(x * x, axis=-1, keepdims=True)) + np.abs(x)
    low = np.minimum(x.min(axis=-1, keepdims=True), 0)
    span = x.max(axis=-1, keepdims=True) - low
    total, sum_x = weight.sum(axis=-1, keepdims=True), (weight * x).sum(axis=-1, keepdims=True)
    best = np.full_like(low, np.inf)
    scale, minimum = span / levels, -low
    for step in np.arange(-1.0, 1.01, 0.1, dtype=np.float32):
        q = np.clip(np.rint(_divide(levels + step, span) * (x - low)), 0, levels)
        wq = weight * q
        sum_q, sum_qq = wq.sum(axis=-1, keepdims=True), (wq * q).sum(axis=-1, keepdims=True)
        sum_qx = (wq * x).sum(axis=-1, keepdims=True)
        # The line through (q, x) with the least weighted error; one that starts above zero goes through it.
        slope = _divide(total * sum_qx - sum_q * sum_x, total * sum_qq - sum_q * sum_q)
        start = _divide(sum_x - slope * sum_q, total)
        above = start > 0
        slope, start = np.where(above, _divide(sum_qx, sum_qq), slope), np.where(above, 0, start)
        error = (weight * (slope * q + start - x) ** 2).sum(axis=-1, keepdims=True)
        better = (error < best) & (slope > 0)
        best = np.where(better, error, best)
        scale, minimum = np.where(better, slope, scale), np.where(better, -start, minimum)
    return scale[..., 0], minimum[..., 0]


def _six_bits(scales: Bytes, minima: Bytes) -> Bytes:
    """Eight scales and eight minima of six bits in twelve bytes."""
    low = scales[:, :4] | scales[:, 4:] >> 4 << 6
    mid = minima[:, :4] | minima[:, 4:] >> 4 << 6
    high = (scales[:, 4:] & 15) | minima[:, 4:] << 4
    return np.concatenate([low, mid, high], axis=-1)


def _q45(x: Floats, kind: Type) -> Bytes:
    levels = _LEVELS[kind]
    groups = x.reshape(-1, 8, 32)
    scale, minimum = _affine(groups, levels)
    parts, values = [], []
    for numbers in (scale, minimum):
        raw, unit = _half(numbers.max(axis=-1, keepdims=True) / np.float32(63))
        small = np.clip(np.rint(_divide(numbers, unit)), 0, 63)
        parts.append((raw, small.astype(np.uint8)))
        values.append((unit * small)[..., None])
    q = np.clip(np.rint(_divide(groups + values[1], values[0])), 0, levels)
    bits = q.astype(np.uint8)
    pairs = (bits & 15).reshape(-1, 4, 2, 32)
    nibbles = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(len(x), -1)
    columns = [parts[0][0], parts[1][0], _six_bits(parts[0][1], parts[1][1])]
    if kind is Type.Q5_K:
        columns.append(np.packbits(bits >> 4, axis=1, bitorder="little").reshape(len(x), -1))
    return np.concatenate([*columns, nibbles], axis=-1)


def _symmetric(x: Floats) -> Floats:
    """Scale of w = scale q, q from -32 to 31, for groups along the last axis."""
    weight = x * x
    at = np.abs(x).argmax(axis=-1, keepdims=True)
    top = np.take_along_axis(x, at, axis=-1)
    best, scale = np.zeros_like(top), np.zeros_like(top)
    for step in np.arange(-0.9, 0.91, 0.1, dtype=np.float32):
        q = np.clip(np.rint(_divide(-32 - step, top) * x), -32, 31)
        wq = weight * q
        sum_qx, sum_qq = (wq * x).sum(axis=-1, keepdims=True), (wq * q).sum(axis=-1, keepdims=True)
        # How much of the weighted square the best multiple of q explains.
        gain = _divide(sum_qx * sum_qx, sum_qq)
        better = gain > best
        best, scale = np.where(better, gain, best), np.where(better, _divide(sum_qx, sum_qq), scale)
    return scale[..., 0]


def _q6(x: Floats) -> Bytes:
    groups = x.reshape(-1, 16, 16)
    scale = _symmetric(groups)
    at = np.abs(scale).argmax(axis=-1, keepdims=True)
    raw, unit = _half(np.take_along_axis(scale, at, axis=-1) / np.float32(-128))
    small = np.clip(np.rint(_divide(scale, unit)), -128, 127)
    q = np.clip(np.rint(_divide(groups, (unit * small)[..., None])), -32, 31) + 32
    # Each half of 128 weights is four runs of 32.
    runs = q.astype(np.uint8).reshape(-1, 2, 4, 32)
    low = (runs[:, :, :2] & 15) | runs[:, :, 2:] << 4
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = np.bitwise_or.reduce(runs >> 4 << shifts, axis=2)
    scales = small.astype(np.int8).view(np.uint8)
    return np.concatenate([low.reshape(len(x), -1), high.reshape(len(x), -1), scales, raw], axis=-1)


def quantize(rows: Floats, kind: Type) -> Bytes:
    """Rows of whole blocks as the bytes of Q4_K, Q5_K or Q6_K."""
    blocks = rows.reshape(-1, BLOCK)
    step = _PIECE // BLOCK
    pieces = [blocks[at : at + step] for at in range(0, len(blocks), step)]
    made = [_q6(piece) if kind is Type.Q6_K else _q45(piece, kind) for piece in pieces]
    return np.concatenate(made).reshape(len(rows), -1)
