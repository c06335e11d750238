"""Blocks of GGUF's tensor types: into plain numbers, into MLX's packed form without rounding, and from numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type
from gguf import quants

from mlx_jina.errors import CheckpointError
from mlx_jina.weights.gguf import iquants as gguf_iquants
from mlx_jina.weights.gguf import kquants as gguf_kquants

if TYPE_CHECKING:
    from mlx_jina.weights.gguf.file import GGUF

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

GROUP = 32
# Types that the gguf package can read and not write.
_QUANTIZE = {
    **dict.fromkeys(gguf_kquants.TYPES, gguf_kquants.quantize),
    **dict.fromkeys(gguf_iquants.TYPES, gguf_iquants.quantize),
}
_PLAIN = {Type.F32: np.float32, Type.F16: np.float16}
# Rows are converted in pieces of this many weights: the arithmetic takes several times their size.
PIECE = 1 << 22


class Packed(NamedTuple):
    """MLX's affine layout: w = scale q + bias over groups of 32 along the last axis."""

    weight: npt.NDArray[np.uint32]
    scales: npt.NDArray[Any]
    biases: npt.NDArray[Any]
    bits: int


def _halves(raw: Bytes) -> Floats:
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


def _nibbles(raw: Bytes) -> Bytes:
    """Sixteen bytes to 32 values: all low nibbles, then all high ones."""
    return np.concatenate([raw & 15, raw >> 4], axis=-1)


def _fifth_bits(raw: Bytes) -> Bytes:
    high: Bytes = np.unpackbits(raw, axis=-1, bitorder="little") << np.uint8(4)
    return high


Groups = tuple[Bytes, Floats, Floats]


def _q8_0(b: Bytes) -> Groups:
    scale = _halves(b[:, :2])
    return b[:, 2:] ^ np.uint8(128), scale, -128 * scale


def _q4_0(b: Bytes) -> Groups:
    scale = _halves(b[:, :2])
    return _nibbles(b[:, 2:]), scale, -8 * scale


def _q4_1(b: Bytes) -> Groups:
    return _nibbles(b[:, 4:]), _halves(b[:, :2]), _halves(b[:, 2:4])


def _q5_0(b: Bytes) -> Groups:
    scale = _halves(b[:, :2])
    return _nibbles(b[:, 6:]) | _fifth_bits(b[:, 2:6]), scale, -16 * scale


def _q5_1(b: Bytes) -> Groups:
    return _nibbles(b[:, 8:]) | _fifth_bits(b[:, 4:8]), _halves(b[:, :2]), _halves(b[:, 2:4])


def _k_scales(b: Bytes) -> tuple[Floats, Floats]:
    """Eight scales and minima of a 256-block: 6-bit numbers times two halves."""
    low, mid, high = b[:, 4:8], b[:, 8:12], b[:, 12:16]
    scales = np.concatenate([low & 63, (high & 15) | (low >> 6 << 4)], axis=-1)
    minima = np.concatenate([mid & 63, (high >> 4) | (mid >> 6 << 4)], axis=-1)
    return _halves(b[:, :2]) * scales, -_halves(b[:, 2:4]) * minima


def _k_nibbles(raw: Bytes) -> Bytes:
    """128 bytes to 8 groups of 32: each run of 32 bytes holds two groups."""
    runs = raw.reshape(-1, 4, 1, GROUP)
    return np.concatenate([runs & 15, runs >> 4], axis=2).reshape(-1, 8, GROUP)


def _q4_k(b: Bytes) -> Groups:
    scales, biases = _k_scales(b)
    return _k_nibbles(b[:, 16:]), scales, biases


def _q5_k(b: Bytes) -> Groups:
    scales, biases = _k_scales(b)
    bits = np.arange(8, dtype=np.uint8)[:, None]
    fifth = (b[:, None, 16:48] >> bits & np.uint8(1)) << np.uint8(4)
    return _k_nibbles(b[:, 48:]) | fifth, scales, biases


_REPACK: dict[Type, tuple[int, int, Callable[[Bytes], Groups]]] = {
    Type.Q8_0: (8, 34, _q8_0),
    Type.Q4_0: (4, 18, _q4_0),
    Type.Q4_1: (4, 20, _q4_1),
    Type.Q5_0: (5, 22, _q5_0),
    Type.Q5_1: (5, 24, _q5_1),
    Type.Q4_K: (4, 144, _q4_k),
    Type.Q5_K: (5, 176, _q5_k),
}
# Bits of the packed form, by type.
REPACKABLE = {kind: bits for kind, (bits, *_) in _REPACK.items()}


def _pack(q: Bytes, bits: int) -> npt.NDArray[np.uint32]:
    """Values (rows, columns) as one stream of bits, the lowest first."""
    if bits == 8:
        packed = q
    elif bits == 4:
        packed = q[:, ::2] | q[:, 1::2] << np.uint8(4)
    else:
        eights = q.reshape(len(q), -1, 8).astype(np.uint64)
        words = np.bitwise_or.reduce(eights << (np.arange(8, dtype=np.uint64) * np.uint64(bits)), axis=-1)
        packed = words.astype("<u8").view(np.uint8).reshape(len(q), -1, 8)[:, :, :bits].reshape(len(q), -1)
    return np.ascontiguousarray(packed).view(np.uint32)


def _narrow(values: Floats) -> npt.NDArray[Any]:
    """The values in float16, which takes half the memory, if that changes none of them."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float16)
    return narrow if np.array_equal(narrow.astype(np.float32), values) else values


def _pieces(raw: Bytes, columns: int) -> list[Bytes]:
    rows = max(1, PIECE // columns)
    return [raw[start : start + rows] for start in range(0, len(raw), rows)]


def repack(raw: Bytes, kind: Type, columns: int) -> Packed:
    """Blocks (rows, bytes) to MLX's packed form; its values are exactly those of the blocks."""
    bits, size, groups_of = _REPACK[kind]
    parts = []
    for piece in _pieces(raw, columns):
        q, scales, biases = groups_of(piece.reshape(-1, size))
        rows = len(piece)
        parts.append((_pack(q.reshape(rows, columns), bits), scales.reshape(rows, -1), biases.reshape(rows, -1)))
    weight, scales, biases = (np.concatenate(column) for column in zip(*parts, strict=True))
    narrow, narrow_biases = _narrow(scales), _narrow(biases)
    if narrow.dtype == narrow_biases.dtype == np.float16:
        scales, biases = narrow, narrow_biases
    return Packed(weight, scales, biases, bits)


def dequantize(raw: Bytes, kind: Type, shape: tuple[int, ...]) -> mx.array:
    """Blocks as an array of `shape`: F32, F16 and BF16 keep their dtype, the others are exact in float32.

    Raises NotImplementedError for the few types that the gguf package cannot decode either.
    """
    if kind in _PLAIN:
        return mx.array(raw.view(_PLAIN[kind]).reshape(shape))
    if kind is Type.BF16:
        return mx.array(raw.view(np.uint16).reshape(shape)).view(mx.bfloat16)
    values = np.empty((len(raw), shape[-1]), dtype=np.float32)
    at = 0
    # Overflowing scales become infinities, which the encoder reports as damaged weights.
    with np.errstate(all="ignore"):
        for piece in _pieces(raw, shape[-1]):
            values[at : at + len(piece)] = quants.dequantize(piece, kind)
            at += len(piece)
    return mx.array(values.reshape(shape))


def decode(file: GGUF, name: str, raw: Bytes, shape: tuple[int, ...]) -> mx.array:
    """Bytes of a file's tensor, or of some of its rows, as an array of `shape`."""
    kind = file.entries[name].type
    try:
        return dequantize(raw, kind, shape)
    except NotImplementedError:
        raise CheckpointError(
            f"{file.path}: tensor {name!r} has the type {kind.name}, which cannot be decoded here"
        ) from None


def quantize(values: mx.array, kind: Type) -> npt.NDArray[Any]:
    """An array as the bytes of a type that types.py chooses."""
    rows = values.reshape(-1, values.shape[-1])
    step = max(1, PIECE // rows.shape[-1])
    out: npt.NDArray[Any] | None = None
    for at in range(0, len(rows), step):
        piece = _encode(rows[at : at + step], kind)
        if out is None:
            out = np.empty((len(rows), piece.shape[-1]), dtype=piece.dtype)
        out[at : at + step] = piece
    if out is None:
        raise ValueError("a tensor without rows")
    return out


def _encode(rows: mx.array, kind: Type) -> npt.NDArray[Any]:
    if kind is Type.BF16 and rows.dtype == mx.bfloat16:
        return np.array(rows.view(mx.uint16))
    full = rows.astype(mx.float32)
    if kind is Type.F16:
        return np.array(full.astype(mx.float16))
    return _QUANTIZE.get(kind, quants.quantize)(np.array(full), kind)
