"""Safetensors: files read lazily, and written one tensor at a time.

MLX's reader trusts a header, so that the safetensors package reads it first: every tensor has the bytes that its
shape and dtype take, and together they fill the file. The writers of both need all tensors in memory at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import cast

import mlx.core as mx
import numpy as np
from safetensors import SafetensorError, safe_open

from mlx_jina import durable
from mlx_jina.errors import CheckpointError
from mlx_jina.weights import json_file

_NAMES = {
    mx.float32: ("F32", 4),
    mx.float16: ("F16", 2),
    mx.bfloat16: ("BF16", 2),
    mx.uint32: ("U32", 4),
    mx.uint8: ("U8", 1),
}

# Of weights that are not packed.
_FLOATS = (mx.float32, mx.float16, mx.bfloat16)

# Shape and dtype by name.
Layout = dict[str, tuple[tuple[int, ...], mx.Dtype]]


@dataclass(frozen=True)
class Output:
    """Tensors to write, of a known layout. `make` makes all of them when their turn comes."""

    layout: Layout
    make: Callable[[], dict[str, mx.array]]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return sum(prod(shape) * _NAMES[dtype][1] for shape, dtype in self.layout.values())


def read(path: Path) -> dict[str, mx.array]:
    """The tensors of a file, which stay on disk until they are used. Raises CheckpointError for a damaged file."""
    try:
        # safe_open calls every file missing that it cannot open.
        path.open("rb").close()
        with safe_open(path, framework="numpy"):
            return cast("dict[str, mx.array]", mx.load(str(path)))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}") from None
    except SafetensorError as error:
        if (words := json_file.impostor(path)) is not None:
            raise CheckpointError(f"{path} {words}") from None
        raise CheckpointError(
            f"{path} cannot be read as safetensors: {error}. It is damaged or incomplete; fetch or copy it again"
        ) from None
    # MLX's error for a dtype that it does not have.
    except RuntimeError as error:
        raise CheckpointError(
            f"MLX cannot read {path}: {error}; write its weights as float32, float16 or bfloat16"
        ) from None


def rows(paths: Sequence[Path], name: str, indices: Sequence[int]) -> mx.array | None:
    """Some rows of a matrix, (N, D), of which nothing else is read; None if no file has it.

    The files are such as `read` has taken. Raises CheckpointError for rows that the matrix does not have.
    """
    dtypes = {code: dtype for dtype, (code, _) in _NAMES.items()}
    for path in paths:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(size)).get(name)
            if entry is None or len(entry["shape"]) != 2 or entry["dtype"] not in dtypes:
                continue
            first, end = entry["data_offsets"]
            count = entry["shape"][0]
            if max(indices) >= count:
                raise CheckpointError(f"{path}: {name} has {count} rows, and none for token {max(indices)}")
            width = (end - first) // count
            found = []
            for index in indices:
                file.seek(8 + size + first + index * width)
                found.append(np.frombuffer(file.read(width), dtype=np.uint8))
        return mx.array(np.stack(found)).view(dtypes[entry["dtype"]])
    return None


def check_floating(name: str, tensor: mx.array) -> None:
    """Refuse a weight that is not stored as what it is. Raises CheckpointError, without a path."""
    if tensor.dtype not in _FLOATS:
        dtype = str(tensor.dtype).removeprefix("mlx.core.")
        kind = f"{dtype}, as MLX reads float8" if tensor.dtype == mx.uint8 else dtype
        raise CheckpointError(
            f"{name} is {kind}, which is no weight: those are float32, float16, bfloat16, or as MLX packs them"
        )


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
            arrays = output.make()
            for name, (shape, dtype) in output.layout.items():
                array = arrays.pop(name)
                if array.shape != shape or array.dtype != dtype:
                    raise CheckpointError(f"{name} came out as {array.dtype} {array.shape}, not {dtype} {shape}")
                raw = mx.contiguous(array).reshape(-1).view(mx.uint8)
                mx.eval(raw)
                # An array has the buffer protocol, but its annotations do not say so.
                file.write(cast("bytes", raw))
            advance(output.nbytes)
        file.flush()
        durable.sync(file.fileno())
