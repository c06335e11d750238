"""Safetensors: headers checked before MLX reads them, and files written one tensor at a time.

MLX's reader trusts a header, and its writer needs all tensors in memory at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, cast

import mlx.core as mx

from mlx_jina.errors import CheckpointError

_NAMES = {
    mx.float32: ("F32", 4),
    mx.float16: ("F16", 2),
    mx.bfloat16: ("BF16", 2),
    mx.uint32: ("U32", 4),
}


# Shape and dtype by name.
Layout = dict[str, tuple[tuple[int, ...], mx.Dtype]]


@dataclass(frozen=True)
class Output:
    """Tensors to write, known in shape and made together when their turn comes."""

    layout: Layout
    make: Callable[[], dict[str, mx.array]]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return sum(prod(shape) * _NAMES[dtype][1] for shape, dtype in self.layout.values())


# Bits of every dtype that a file may have; which of them MLX can read, it says itself.
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32}
_BITS |= {"U64": 64, "I64": 64, "F64": 64, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8}
_MAX_DIMENSIONS, _MAX_SIZE = 8, (1 << 31) - 1


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _span(name: str, entry: Any, available: int) -> tuple[int, int]:
    """Where a tensor lies; ValueError says what is wrong with it."""
    what = f"tensor {name!r}"
    if not isinstance(entry, dict):
        raise ValueError(f"{what} is no JSON object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ValueError(f"{what} has the unknown dtype {str(dtype)[:20]!r}")
    if not isinstance(shape, list) or not all(map(_is_size, shape)) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"{what} has the shape {str(shape)[:40]}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise ValueError(f"{what} has the data_offsets {str(offsets)[:40]}")
    start, end = offsets
    if any(size > _MAX_SIZE for size in shape) or (end - start) * 8 != prod(shape) * _BITS[dtype]:
        raise ValueError(f"{what} of shape {shape} in {dtype} cannot lie at {start} to {end}")
    if end > available:
        raise ValueError(f"{what} ends at byte {end} of {available}")
    return start, end


def check(path: Path) -> None:
    """Refuse a file whose header promises what is not there."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise ValueError(f"its header should have {length} bytes, but the file has {size}")
            header = json.loads(file.read(length).decode("utf-8"))
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        spans = sorted((*_span(name, entry, size - 8 - length), name) for name, entry in tensors.items())
        for (_, before, first), (start, _, second) in pairwise(spans):
            if start < before:
                raise ValueError(f"tensors {first!r} and {second!r} overlap")
    except UnicodeDecodeError:
        raise CheckpointError(f"{path} cannot be read as safetensors: its header is not valid UTF-8") from None
    except RecursionError:
        raise CheckpointError(f"{path} cannot be read as safetensors: its header is nested too deeply") from None
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from None


def write(path: Path, outputs: Sequence[Output], advance: Callable[[int], object] = lambda _: None) -> None:
    """Write a file in the order given, with the metadata by which MLX's tools know it."""
    header: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    at = 0
    for output in outputs:
        for name, (shape, dtype) in output.layout.items():
            code, size = _NAMES[dtype]
            end = at + prod(shape) * size
            header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [at, end]}
            at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for output in outputs:
            made = output.make()
            for name, (shape, dtype) in output.layout.items():
                array = made.pop(name)
                if array.shape != shape or array.dtype != dtype:
                    raise CheckpointError(f"{name} came out as {array.dtype} {array.shape}, not {dtype} {shape}")
                raw = mx.contiguous(array).reshape(-1).view(mx.uint8)
                mx.eval(raw)
                # An array has the buffer protocol, but its annotations do not say so.
                file.write(cast("bytes", raw))
            advance(output.nbytes)
        file.flush()
        os.fsync(file.fileno())
