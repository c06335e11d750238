"""EuroBERT, the bidirectional encoder of jina-embeddings-v5-text-nano, pooled at its closing token.

Boizard et al. 2025, "EuroBERT" (arXiv 2503.05500); Akram et al. 2026 (arXiv 2602.15547) for the embeddings.
Its layers are Qwen3's without the norms on queries and keys, and every token sees the whole text. Published
checkpoints say `model_type: jina_embeddings_v5` (base weights and four adapters), which they share with v5-small
but for `"is_decoder": false`, or `eurobert` (one adapter merged).

Axes as in qwen3.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_jina.models import qwen3
from mlx_jina.models.config import expect, required
from mlx_jina.models.qwen3 import Config
from mlx_jina.nn import attention
from mlx_jina.nn.ragged import Run


def _unscaled(rope: Any) -> bool:
    """Whether rotary settings leave the angles as they are: EuroBERT's own code calls that linear, factor 1."""
    if not isinstance(rope, Mapping):
        return False
    kind = rope.get("rope_type", rope.get("type"))
    return kind == "default" or (kind == "linear" and rope.get("factor") == 1)


def read_config(config: Mapping[str, Any]) -> Config:
    """Check a config.json against what is implemented here; heads share the width when it names none for them."""
    expect(config, "is_decoder", (False, None))
    width = required(config, "hidden_size", int) // required(config, "num_attention_heads", int)
    known = {**config, "head_dim": config.get("head_dim") or width}
    if _unscaled(config.get("rope_scaling")):
        known["rope_scaling"] = None
    if _unscaled(config.get("rope_parameters")):
        known["rope_parameters"] = {**config["rope_parameters"], "rope_type": "default"}
    return Config.read(known)


class SelfAttention(qwen3.SelfAttention):
    """Without norms on queries and keys; each query sees the whole text."""

    def __init__(self, c: Config) -> None:
        super().__init__(c)
        self.update_modules({"q_norm": nn.Identity(), "k_norm": nn.Identity()})

    def attend(
        self, q: mx.array, q_runs: Sequence[Run], k: mx.array, v: mx.array, runs: Sequence[Run]
    ) -> mx.array:
        """Merged heads of every query."""
        return attention.merge_heads(
            [
                attention.bidirectional(
                    attention.split_heads(q, q_run, self._heads),
                    attention.split_heads(k, run, self._kv_heads),
                    attention.split_heads(v, run, self._kv_heads),
                )
                for q_run, run in zip(q_runs, runs, strict=True)
            ]
        )


class EuroBert(qwen3.Qwen3):
    """The model; see `models.Model` for what the encoder asks of it."""

    # A SwiGLU whose neurons fire strongly leaves its range (see tests/models/test_eurobert.py), and nothing
    # published bounds this one's.
    float16 = False

    def __init__(self, c: Config) -> None:
        super().__init__(c)
        for layer in self.layers:
            layer.self_attn = SelfAttention(c)


def build(config: Mapping[str, Any], names: Collection[str]) -> EuroBert | None:
    """An empty model if this is a EuroBERT checkpoint."""
    kind = str(config.get("model_type"))
    bidirectional = kind.startswith("jina_embeddings_v5") and config.get("is_decoder") is False
    if kind != "eurobert" and not bidirectional:
        return None
    if "layers.0.self_attn.q_norm.weight" in names:
        # Qwen3's tensors under a setting that contradicts them.
        return None
    return EuroBert(read_config(config))
