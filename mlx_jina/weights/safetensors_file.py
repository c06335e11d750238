"""Writing safetensors one tensor at a time: MLX's own writer needs all of them in memory at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import mlx.core as mx

_NAMES = {
    mx.float32: ("F32", 4),
    mx.float16: ("F16", 2),
    mx.bfloat16: ("BF16", 2),
    mx.uint32: ("U32", 4),
}


@dataclass(frozen=True)
class Output:
    """Tensors to write, known in shape and made together when their turn comes."""

    layout: dict[str, tuple[tuple[int, ...], mx.Dtype]]
    make: Callable[[], dict[str, mx.array]]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return sum(prod(shape) * _NAMES[dtype][1] for shape, dtype in self.layout.values())


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
                array = made[name]
                assert array.shape == shape, (name, array.shape, shape)
                assert array.dtype == dtype, (name, array.dtype, dtype)
                array = mx.contiguous(array)
                mx.eval(array)
                file.write(bytes(array.reshape(-1).view(mx.uint8)))
            advance(output.nbytes)
