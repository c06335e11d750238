"""One architecture, one file. Each offers `build`, which knows its own checkpoints by their tensor names."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import mlx.core as mx

from mlx_jina.errors import CheckpointError
from mlx_jina.models import eurobert, jina_bert, qwen2, qwen3, xlm_roberta
from mlx_jina.models.config import required
from mlx_jina.nn.ragged import Run


class Model(Protocol):
    """What the encoder asks of an `mlx.nn.Module`: its parameters carry the checkpoint's tensor names."""

    dimension: int
    max_length: int
    # Rows of the table that token ids look up.
    vocab_size: int
    pooling: str
    # Whether activations stay within float16's range.
    float16: bool
    # Prefixes of tensor names that belong to other heads and are left unread.
    unused: tuple[str, ...]

    def hidden(self, ids: mx.array, runs: Sequence[Run]) -> mx.array:
        """Contextual states of every token: ids (T,) to (T, D)."""

    def __call__(self, ids: mx.array, runs: Sequence[Run]) -> mx.array:
        """One pooled vector per text in float32: ids (T,) to (B, D). Not normalised."""


_ARCHITECTURES = (jina_bert, qwen3, eurobert, qwen2, xlm_roberta)


def build(config: Mapping[str, Any], names: Collection[str]) -> Model:
    """The empty model for a config.json and the names of the tensors beside it."""
    # Before anything is built after it: layers without tensors would fill the memory first.
    if isinstance(layers := config.get("num_hidden_layers"), int) and layers > len(names):
        raise CheckpointError(
            f"config.json: num_hidden_layers is {layers}, but there are only {len(names)} tensors"
        )
    for architecture in _ARCHITECTURES:
        model = architecture.build(config, names)
        if model is not None:
            model.vocab_size = required(config, "vocab_size", int)
            return model
    raise CheckpointError(
        f"model_type {config.get('model_type')!r} (architectures {config.get('architectures')}) is not one "
        "that mlx-jina runs"
    )
