"""A folder with config.json, safetensors and tokenizer.json: Hugging Face's and MLX's layout alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import mlx.core as mx

from mlx_jina.errors import CheckpointError
from mlx_jina.tokens import Tokenizer
from mlx_jina.weights.checkpoint import Checkpoint


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} should hold a JSON object")
    return content


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, from its index where it has one."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(read_json(index).get("weight_map", {}).values()))
        return [folder / shard for shard in shards]
    return [folder / "model.safetensors"]


def missing_files(folder: Path) -> list[str]:
    """What a folder lacks to be loaded, by name."""
    needed = [folder / "config.json", folder / "tokenizer.json", *weight_files(folder)]
    return [path.name for path in needed if not path.is_file()]


# Under which name a model with a head keeps the encoder.
BASE_MODEL_PREFIXES = ("bert.", "model.")


def _without_prefix(name: str) -> str:
    prefix = next((prefix for prefix in BASE_MODEL_PREFIXES if name.startswith(prefix)), "")
    return name.removeprefix(prefix)


def read(folder: Path) -> Checkpoint:
    """Read a folder; nothing in it is ever executed."""
    if missing := missing_files(folder):
        found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise CheckpointError(f"{folder} lacks {', '.join(missing)} (it has: {found})")
    tensors: dict[str, mx.array] = {}
    for path in weight_files(folder):
        try:
            tensors.update(cast("dict[str, mx.array]", mx.load(str(path))))
        except RuntimeError as error:
            raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from None
    prompts_file = folder / "config_sentence_transformers.json"
    prompts = read_json(prompts_file) if prompts_file.is_file() else {}
    return Checkpoint(
        path=folder,
        config=read_json(folder / "config.json"),
        tensors={_without_prefix(name): tensor for name, tensor in tensors.items()},
        tokenizer=Tokenizer.from_file(folder / "tokenizer.json"),
        prompts=prompts.get("prompts") or {},
        default_prompt_name=prompts.get("default_prompt_name"),
    )
