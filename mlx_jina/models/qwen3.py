"""Qwen3, the causal decoder that jina-embeddings-v5-text-small turns into an encoder by its last token.

Yang et al. 2025, "Qwen3 Technical Report" (arXiv 2505.09388); Akram et al. 2026 (arXiv 2602.15547) for the
embeddings. Published checkpoints say `model_type: jina_embeddings_v5` (base weights and four adapters) or
`qwen3` (one adapter merged). The former is shared with v5-nano, which is another architecture: `is_decoder`
tells them apart, and so does the norm on queries and keys, which only Qwen3 has.

Axes: B texts, L tokens of one text, T tokens of a batch, D width, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_jina.cpu.layers import Linear
from mlx_jina.errors import CheckpointError
from mlx_jina.models.config import expect, required, rope_theta
from mlx_jina.nn import activations, attention, pieces, pooling
from mlx_jina.nn.norms import RMSNorm
from mlx_jina.nn.ragged import Run


@dataclass(frozen=True)
class Config:
    """The hyper-parameters that shape a vector; keys are those of config.json."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Config:
        """Check a config.json against what is implemented here."""
        expect(config, "hidden_act", ("silu",))
        expect(config, "attention_bias", (False, None))
        expect(config, "use_sliding_window", (False, None))
        expect(config, "rope_scaling", (None,))
        if other := set(config.get("layer_types") or ()) - {"full_attention"}:
            raise CheckpointError(f"config.json: 'layer_types' names {', '.join(sorted(other))}, not implemented")
        return cls(
            hidden_size=required(config, "hidden_size", int),
            num_hidden_layers=required(config, "num_hidden_layers", int),
            num_attention_heads=required(config, "num_attention_heads", int),
            num_key_value_heads=required(config, "num_key_value_heads", int),
            head_dim=required(config, "head_dim", int),
            intermediate_size=required(config, "intermediate_size", int),
            vocab_size=required(config, "vocab_size", int),
            rms_norm_eps=required(config, "rms_norm_eps", float),
            rope_theta=rope_theta(config),
            max_position_embeddings=required(config, "max_position_embeddings", int),
        )


class Norm(RMSNorm):
    """RMSNorm from the residual stream, which stays in float32, to the dtype of the weights.

    Rounding that stream is what half precision loses most by: over 28 layers, cosine 0.9993 instead of 0.9998.
    """

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(x).astype(self.weight.dtype)


class SelfAttention(nn.Module):
    """Queries, keys and values with their norms and rotary positions; fewer keys and values than queries."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.q_proj = Linear(c.hidden_size, c.num_attention_heads * c.head_dim, bias=False)
        self.k_proj = Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.v_proj = Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.o_proj = Linear(c.num_attention_heads * c.head_dim, c.hidden_size, bias=False)
        self.q_norm = RMSNorm(c.head_dim, c.rms_norm_eps)
        self.k_norm = RMSNorm(c.head_dim, c.rms_norm_eps)
        self._heads = c.num_attention_heads
        self._kv_heads = c.num_key_value_heads
        self._theta = c.rope_theta

    def rotated_queries(self, x: mx.array, positions: mx.array) -> mx.array:
        """(T, D) to (T, H*d)."""
        q = self.q_norm(self.q_proj(x).reshape(x.shape[0], self._heads, -1))
        return attention.rotate(q, positions, self._theta)

    def rotated_keys(self, x: mx.array, positions: mx.array) -> mx.array:
        """(T, D) to (T, H*d) of the fewer heads that keys have."""
        k = self.k_norm(self.k_proj(x).reshape(x.shape[0], self._kv_heads, -1))
        return attention.rotate(k, positions, self._theta)

    def attend(
        self, q: mx.array, q_runs: Sequence[Run], k: mx.array, v: mx.array, runs: Sequence[Run]
    ) -> mx.array:
        """Merged heads of every query; a run's queries are the last ones of its texts."""
        return attention.merge_heads(
            [
                attention.causal(
                    attention.split_heads(q, q_run, self._heads),
                    attention.split_heads(k, run, self._kv_heads),
                    attention.split_heads(v, run, self._kv_heads),
                )
                for q_run, run in zip(q_runs, runs, strict=True)
            ]
        )


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.gate_proj = Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = Linear(c.intermediate_size, c.hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(activations.swiglu(self.gate_proj(x), self.up_proj(x)))


class Layer(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.input_layernorm = Norm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = SelfAttention(c)
        self.post_attention_layernorm = Norm(c.hidden_size, c.rms_norm_eps)
        self.mlp = MLP(c)

    def _finish(self, attended: mx.array, x: mx.array) -> mx.array:
        x = x + self.self_attn.o_proj(attended)
        return x + self.mlp(self.post_attention_layernorm(x))

    def __call__(self, x: mx.array, positions: mx.array, runs: Sequence[Run]) -> mx.array:
        """Every token: (T, D) to (T, D)."""
        part = self.self_attn
        normed = pieces.by_rows(self.input_layernorm, x)
        q = pieces.by_rows(part.rotated_queries, normed, positions)
        k = pieces.by_rows(part.rotated_keys, normed, positions)
        v = pieces.by_rows(part.v_proj, normed)
        del normed
        return pieces.by_rows(self._finish, part.attend(q, runs, k, v, runs), x)

    def last(self, x: mx.array, positions: mx.array, runs: Sequence[Run]) -> mx.array:
        """Only the last token of each text, which needs keys and values of all: (T, D) to (B, D)."""
        part = self.self_attn
        rows = pooling.last_rows(runs)
        # Each text's one query stands as a text of one token.
        starts = np.cumsum([0, *(run.texts for run in runs)]).tolist()
        q_runs = [Run(start, run.texts, 1) for start, run in zip(starts, runs, strict=False)]
        normed = pieces.by_rows(self.input_layernorm, x)
        q = part.rotated_queries(normed[rows], positions[rows])
        k = pieces.by_rows(part.rotated_keys, normed, positions)
        v = pieces.by_rows(part.v_proj, normed)
        return self._finish(part.attend(q, q_runs, k, v, runs), x[rows])


class Qwen3(nn.Module):
    """The model; see `models.Model` for what the encoder asks of it."""

    pooling = "last"
    # The language head, where a file has one.
    unused: tuple[str, ...] = ("lm_head.",)
    # Massive activations: Qwen3 leaves float16's range at down_proj (see tests/models/test_qwen3.py).
    float16 = False

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = [Layer(c) for _ in range(c.num_hidden_layers)]
        self.norm = Norm(c.hidden_size, c.rms_norm_eps)
        self.dimension = c.hidden_size
        self.max_length = c.max_position_embeddings

    def _all_but_last(self, ids: mx.array, runs: Sequence[Run]) -> tuple[mx.array, mx.array]:
        """States (T, D) before the last layer, and each token's position in its text (T,)."""
        positions = attention.positions(runs)
        x = self.embed_tokens(ids).astype(mx.float32)
        for layer in self.layers[:-1]:
            x = pieces.settle(layer(x, positions, runs))
        return x, positions

    def hidden(self, ids: mx.array, runs: Sequence[Run]) -> mx.array:
        """Contextual states of every token: ids (T,) to (T, D)."""
        x, positions = self._all_but_last(ids, runs)
        return self.norm(self.layers[-1](x, positions, runs))

    def __call__(self, ids: mx.array, runs: Sequence[Run]) -> mx.array:
        """The state of each text's last token, in float32: ids (T,) to (B, D)."""
        x, positions = self._all_but_last(ids, runs)
        rows = self.layers[-1].last(x, positions, runs)
        return mx.fast.rms_norm(rows, self.norm.weight.astype(mx.float32), self.norm.eps)


def build(config: Mapping[str, Any], names: Collection[str]) -> Qwen3 | None:
    """An empty model if this is a Qwen3 checkpoint."""
    kind = config.get("model_type")
    if kind != "qwen3" and not str(kind).startswith("jina_embeddings_v5"):
        return None
    if kind != "qwen3" and config.get("is_decoder") is False:
        return None
    if not {"layers.0.self_attn.q_norm.weight", "layers.0.self_attn.k_norm.weight"} <= set(names):
        raise CheckpointError(
            f"a {kind!r} checkpoint without layers.0.self_attn.q_norm and k_norm is not Qwen3; v5-nano, which has "
            'none, says so with "is_decoder": false in config.json'
        )
    return Qwen3(Config.read(config))
