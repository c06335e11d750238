"""Copies of .gguf files that say something else."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type

from mlx_jina.weights.gguf import file as gguf_file
from mlx_jina.weights.gguf.file import GGUF


def with_metadata(source: Path, target: Path, metadata: Mapping[str, Any]) -> Path:
    """A copy of a file of float32 tensors, with these keys instead of its own."""
    file = GGUF(source)

    def tensor(name: str) -> npt.NDArray[np.float32]:
        return np.frombuffer(file.raw(name), np.float32).reshape(file.entries[name].shape)

    outputs = [
        gguf_file.Output(name, Type.F32, entry.shape, partial(tensor, name))
        for name, entry in file.entries.items()
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    gguf_file.write([gguf_file.File(target, str(metadata["general.architecture"]), metadata, outputs)])
    return target
