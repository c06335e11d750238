"""jina-reranker-v3's projector.

It is among the weights as `projector.0.weight` and `projector.2.weight`, or, in the repositories for MLX and GGUF,
beside a plain Qwen3: projector.safetensors with `linear1.weight` and `linear2.weight`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_jina.errors import CheckpointError, some
from mlx_jina.text.listwise import QUERY_MARKER
from mlx_jina.text.tokenizer import Tokenizer
from mlx_jina.weights import safetensors_file

FILE = "projector.safetensors"
ARCHITECTURE = "JinaForRanking"
NAMES = ("projector.0.weight", "projector.2.weight")
_BESIDE = {"linear1.weight": NAMES[0], "linear2.weight": NAMES[1]}


def is_beside(folder: Path) -> bool:
    """Whether a folder has the projector in a file of its own."""
    return (folder / FILE).is_file()


def missing(folder: Path, config: Mapping[str, Any]) -> list[Path]:
    """The projector's file, where config.json asks for one that is neither there nor in model.safetensors."""
    weights = folder / "model.safetensors"
    if ARCHITECTURE not in (config.get("architectures") or ()) or is_beside(folder) or not weights.is_file():
        return []
    try:
        return [] if NAMES[0] in safetensors_file.read(weights) else [folder / FILE]
    except CheckpointError:
        # A damaged file is refused when it is loaded.
        return []


def read(folder: Path) -> dict[str, mx.array]:
    """The projector's tensors, under the names of the other repository. Raises CheckpointError."""
    path = folder / FILE
    tensors = safetensors_file.read(path)
    if tensors.keys() != _BESIDE.keys():
        raise CheckpointError(f"{path} has {some(sorted(tensors))}; a projector has {some(_BESIDE)}")
    return {_BESIDE[name]: tensor for name, tensor in tensors.items()}


def check_absence(path: Path, tokenizer: Tokenizer, config: Mapping[str, Any]) -> None:
    """Refuse a jina-reranker-v3 that lost its projector; the rest is a Qwen3 as any. Raises CheckpointError."""
    has_marker = tokenizer.fast.token_to_id(QUERY_MARKER) is not None
    if has_marker or ARCHITECTURE in (config.get("architectures") or ()):
        raise CheckpointError(
            f"{path} is jina-reranker-v3 without its projector: {FILE} of its repository belongs beside it"
        )


def sizes(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> list[int]:
    """The rows of the two layers; `shapes` are those of tensors by name. Raises CheckpointError."""
    found = [shapes.get(name, ()) for name in NAMES]
    if any(len(shape) != 2 for shape in found):
        raise CheckpointError(f"{path}: a projector has the matrices {some(NAMES)}, found {found}")
    return [shape[0] for shape in found]
