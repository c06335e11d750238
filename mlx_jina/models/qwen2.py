"""Qwen2, the causal decoder of jina-code-embeddings (Qwen2.5-Coder), pooled at the last token.

Yang et al. 2024, "Qwen2 Technical Report" (arXiv 2407.10671); Kryvosheieva et al. 2025 (arXiv 2508.21290) for the
embeddings. Its layers are Qwen3's with biases on queries, keys and values in place of norms on the first two.

Axes as in qwen3.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import mlx.nn as nn

from mlx_jina.cpu.layers import Linear
from mlx_jina.models import qwen3
from mlx_jina.models.config import expect, required
from mlx_jina.models.qwen3 import Config


def read_config(config: Mapping[str, Any]) -> Config:
    """Check a config.json against what is implemented here; heads share the width when it names none for them."""
    expect(config, "attention_bias", (True, None))
    width = required(config, "hidden_size", int) // required(config, "num_attention_heads", int)
    # Where Qwen3's biases are an option, Qwen2's are not.
    return Config.read({**config, "attention_bias": False, "head_dim": config.get("head_dim") or width})


class SelfAttention(qwen3.SelfAttention):
    """With biases on queries, keys and values, without norms."""

    def __init__(self, c: Config) -> None:
        super().__init__(c)
        self.q_proj = Linear(c.hidden_size, c.num_attention_heads * c.head_dim)
        self.k_proj = Linear(c.hidden_size, c.num_key_value_heads * c.head_dim)
        self.v_proj = Linear(c.hidden_size, c.num_key_value_heads * c.head_dim)
        self.update_modules({"q_norm": nn.Identity(), "k_norm": nn.Identity()})


class Qwen2(qwen3.Qwen3):
    """The model; see `models.Model` for what the encoder asks of it."""

    # Activations leave its range: Qwen2-1.5B has NaN after its second layer (github.com/QwenLM/Qwen3/issues/826).
    float16 = False

    def __init__(self, c: Config) -> None:
        super().__init__(c)
        for layer in self.layers:
            layer.self_attn = SelfAttention(c)


def build(config: Mapping[str, Any], names: Collection[str]) -> Qwen2 | None:
    """An empty model if this is a Qwen2 checkpoint."""
    return Qwen2(read_config(config)) if config.get("model_type") == "qwen2" else None
