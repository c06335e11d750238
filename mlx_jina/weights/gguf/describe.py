"""The content of a .gguf in lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from mlx_jina.weights.gguf.file import GGUF
from mlx_jina.weights.gguf.reader import POOLING

_WIDTH = 60


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{len(value)} x {value.dtype}"
    if isinstance(value, list):
        return f"{len(value)} x {type(value[0]).__name__ if value else 'nothing'}"
    text = str(value).replace("\n", "\\n")
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}... ({len(text)} characters)"


def describe(path: Path) -> Iterator[tuple[str, str]]:
    """Rows of name and value: architecture, size, tensors by type, tokenizer, pooling, all metadata."""
    file = GGUF(path)
    architecture = str(file.metadata.get("general.architecture", "not given"))
    parameters = sum(prod(entry.shape) for entry in file.entries.values())
    yield "architecture", architecture
    yield "size", f"{file.size:,} bytes"
    yield "parameters", f"{parameters:,}"
    pooling = file.metadata.get(f"{architecture}.pooling_type")
    yield "pooling", str(POOLING.get(pooling, pooling)) if pooling is not None else "not given"
    model, pre = (file.metadata.get(f"tokenizer.ggml.{key}", "not given") for key in ("model", "pre"))
    yield "tokenizer", f"{model}, pre-tokenizer {pre}"
    kinds: dict[str, list[int]] = {}
    for entry in file.entries.values():
        kinds.setdefault(entry.type.name, []).append(entry.nbytes)
    for kind, sizes in sorted(kinds.items()):
        yield f"tensors {kind}", f"{len(sizes)}, {sum(sizes):,} bytes"
    for key, value in file.metadata.items():
        yield key, _short(value)
