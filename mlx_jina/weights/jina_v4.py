"""jina-embeddings-v4 as its repositories have it: settings, names of tensors, one file with all adapters.

The main repository has base weights under `model.` and `visual.`, a projector, and in adapters/ one file whose
tensors end in `lora_A.TASK.weight`, under names with `language_model` in them. transformers since 4.52 writes
`model.language_model.` and `model.visual.`; the repositories for vLLM have one task merged, and no projector.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_jina import catalog
from mlx_jina.errors import CheckpointError
from mlx_jina.models import qwen2_5_vl

ARCHITECTURE, MODEL_TYPE = "JinaEmbeddingsV4Model", "qwen2_5_vl"
TOWER = qwen2_5_vl.TOWER
PREPROCESSOR = "preprocessor_config.json"
ADAPTERS = "adapters"
"""The folder whose one file has the adapters of all tasks."""
_PREFIX = re.compile(r"(model\.|language_model\.)+")


def is_one(config: Mapping[str, Any]) -> bool:
    """Whether a config.json belongs to this model, with its adapters or merged."""
    return has_adapters(config) or str(config.get("model_type")).startswith(MODEL_TYPE)


def has_adapters(config: Mapping[str, Any]) -> bool:
    """Whether a config.json belongs to base weights, which answer for no task without its adapter."""
    return ARCHITECTURE in (config.get("architectures") or ())


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json with the language model's settings on top, which `text_config` has in newer files."""
    text = config.get("text_config") or {}
    settings = {**config, **text, "model_type": MODEL_TYPE, "architectures": config.get("architectures")}
    settings.pop("text_config", None)
    return settings


def adapter_folder(folder: Path, task: str) -> str:
    """Where the adapter of a task is: in the file of all, or in a folder of its own, as conversion writes it."""
    own = f"{ADAPTERS}/{task}"
    return own if (folder / own).is_dir() else ADAPTERS


def renamed(name: str) -> str:
    """A tensor's or a module's name as models/qwen2_5_vl.py has it, from any of the spellings."""
    prefix = _PREFIX.match(name)
    return name[prefix.end() :] if prefix else name


def translate(tensors: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """The tensors under our names. Raises CheckpointError for two of one name."""
    found: dict[str, mx.array] = {}
    for name, tensor in tensors.items():
        if (own := renamed(name)) in found:
            raise CheckpointError(f"{own} is there under two names")
        found[own] = tensor
    return found


def settings() -> dict[str, Any]:
    """What a config_sentence_transformers.json would say: the prompts, and which is the default one."""
    return {"prompts": dict(catalog.V4_PROMPTS), "default_prompt_name": catalog.V4_DEFAULT_PROMPT}
