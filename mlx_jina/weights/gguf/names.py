"""Names of tensors, Hugging Face's <-> GGUF's, by the tables of architectures.py."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from mlx_jina.errors import CheckpointError, some
from mlx_jina.weights.gguf.architectures import Architecture


@dataclass(frozen=True)
class Piece:
    """Part `index` of `of` equal parts of a tensor's rows."""

    name: str
    index: int = 0
    of: int = 1


@dataclass(frozen=True)
class Rows:
    """Some rows of a tensor, or all."""

    name: str
    start: int = 0
    stop: int | None = None


# Tensors of a .gguf that no vector depends on.
_NOT_READ = ("rope_freqs.weight", "output.weight")


def _split(name: str) -> tuple[str, str, str]:
    """Module with `N` for its layer, the layer's number, and the leaf."""
    module, _, leaf = name.rpartition(".")
    match = re.fullmatch(r"(.*?\.?)(layer|layers|blk)\.(\d+)\.(.*)", module)
    return (f"{match[1]}{match[2]}.N.{match[4]}", match[3], leaf) if match else (module, "", leaf)


def to_gguf(path: Path, architecture: Architecture, names: Collection[str]) -> dict[str, Piece]:
    """GGUF names, each with the piece of our tensor that it stands for. A tensor without a place is an error."""
    pieces: dict[str, Piece] = {}
    for name in names:
        if name.startswith(architecture.without_place):
            continue
        module, number, leaf = _split(name)
        targets = architecture.modules.get(module)
        if targets is None or leaf not in ("weight", "bias"):
            raise CheckpointError(f"{path}: tensor {name!r} has no place in a GGUF file of {architecture.name}")
        prefix = architecture.layer[1].replace(".N.", f".{number}.") if number else ""
        for index, target in enumerate(targets):
            pieces[f"{prefix}{target}.{leaf}"] = Piece(name, index, len(targets))
    return pieces


def from_gguf(
    path: Path, architecture: Architecture, names: Collection[str], qkv: tuple[int, int, int], up_halves: int
) -> tuple[dict[str, list[Rows]], dict[str, Any]]:
    """Our names, each with the rows of GGUF tensors that make it up, and the settings that follow from the layout.

    `qkv` are the rows of queries, keys and values in a fused attn_qkv; `up_halves` is 2 where ffn_up is fused.
    """
    pieces, config = _pieces(architecture, names, up_halves)
    parts: dict[str, dict[int, Rows]] = {}
    counts: dict[str, int] = {}
    for name in names:
        module, number, leaf = _split(name)
        if name in _NOT_READ or module.startswith("cls"):
            continue
        for piece, rows in _contents(path, architecture, name, pieces, qkv, up_halves):
            target = f"{piece.name.replace('.N.', f'.{number}.')}.{leaf}"
            if piece.index in parts.get(target, ()):
                raise CheckpointError(f"{path}: tensor {name!r} is there a second time under another name")
            parts.setdefault(target, {})[piece.index] = rows
            counts[target] = piece.of
    for target, present in parts.items():
        if len(present) != counts[target]:
            only = some(rows.name for rows in present.values())
            raise CheckpointError(f"{path}: of the tensors that make up {target} there is only {only}")
    return {target: [present[i] for i in sorted(present)] for target, present in parts.items()}, config


def _pieces(
    architecture: Architecture, names: Collection[str], up_halves: int
) -> tuple[dict[str, Piece], dict[str, Any]]:
    """The piece of our modules that each GGUF module is in this file's layout, and the layout's settings."""
    modules, config = architecture.layout(names, up_halves) if architecture.layout else (architecture.modules, {})
    pieces: dict[str, Piece] = {}
    for module, targets in modules.items():
        prefix = architecture.layer[1] if module.startswith(architecture.layer[0]) else ""
        for index, target in enumerate(targets):
            pieces[f"{prefix}{target}"] = Piece(module, index, len(targets))
    return pieces, config


def _contents(
    path: Path,
    architecture: Architecture,
    name: str,
    pieces: Mapping[str, Piece],
    qkv: tuple[int, int, int],
    up_halves: int,
) -> list[tuple[Piece, Rows]]:
    """Which of our pieces a tensor of a .gguf holds, and in which rows."""
    module, _, _ = _split(name)
    if module == "blk.N.attn_qkv":
        ends = (0, qkv[0], qkv[0] + qkv[1], sum(qkv))
        targets = [pieces[f"blk.N.attn_{part}"] for part in "qkv"]
        return [(piece, Rows(name, *span)) for piece, span in zip(targets, pairwise(ends), strict=True)]
    if module not in pieces:
        raise CheckpointError(f"{path}: tensor {name!r} is not one that {architecture.name} has")
    if module == "blk.N.ffn_up" and up_halves == 2:
        # A fused tensor is ours as it stands: converters that fuse copy it verbatim.
        return [(Piece(pieces[module].name), Rows(name))]
    return [(pieces[module], Rows(name))]
