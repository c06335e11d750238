"""A checkpoint that is open for conversion: its settings, and tensors that are made one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_jina.catalog import Kind
from mlx_jina.text.tokenizer import Tokenizer
from mlx_jina.weights.checkpoint import Recognised
from mlx_jina.weights.gguf.blocks import Packed
from mlx_jina.weights.lora import Adapter


@dataclass(frozen=True)
class Weight:
    """One tensor. `make` makes it when its turn comes; nobody keeps it."""

    shape: tuple[int, ...]
    dtype: mx.Dtype
    make: Callable[[], mx.array]
    # Makes the blocks of a .gguf's matrix in MLX's packed form, where MLX can hold them exactly.
    pack: Callable[[], Packed] | None = None


@dataclass(frozen=True)
class Source:
    """A checkpoint opened for conversion."""

    path: Path
    config: dict[str, Any]
    weights: dict[str, Weight]
    tokenizer: Tokenizer
    tokenizer_json: str
    prompts: Mapping[str, str]
    default_prompt_name: str | None
    # The metadata of a .gguf under `general.`, without the prefix.
    general: dict[str, Any]
    # Names of the model, best first, from which the name of its tokenizer in GGUF follows.
    names: tuple[str, ...] = ()
    # By task.
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    # Of a .gguf: the published model that it is.
    recognised: Recognised | None = None
    kind: Kind = "embedding"

    @property
    def sentence_transformers_config(self) -> dict[str, Any]:
        """The content of config_sentence_transformers.json."""
        return {"prompts": dict(self.prompts), "default_prompt_name": self.default_prompt_name}
