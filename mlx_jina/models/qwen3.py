"""Qwen3, the causal decoder that jina-embeddings-v5-text-small turns into an encoder by its last token.

Yang et al. 2025, "Qwen3 Technical Report" (arXiv 2505.09388); Akram et al. 2026 (arXiv 2602.15547) for the
embeddings. Published checkpoints say `model_type: jina_embeddings_v5` (base weights and four adapters) or `qwen3`
(one adapter merged). Qwen2 and EuroBERT are the same decoder with other settings.

Axes: B texts, T tokens of a batch, D width, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import mlx.core as mx
import mlx.nn as nn

from mlx_jina.errors import CheckpointError, some
from mlx_jina.models.base import EncoderModel
from mlx_jina.models.config import expect, read, rope_theta
from mlx_jina.nn import attention
from mlx_jina.nn.activations import swiglu
from mlx_jina.nn.attention import split_heads
from mlx_jina.nn.norms import rounded_norm
from mlx_jina.nn.pieces import evaluate_if_long, tokenwise
from mlx_jina.nn.ragged import Positions, Ragged
from mlx_jina.nn.rotary import Rotations, rotate, rotations
from mlx_jina.nn.steady import at_least

if TYPE_CHECKING:
    from typing_extensions import Self

KeysAndValues = tuple[mx.array, mx.array]
"""Of one layer, for each token of a text: (T, H', d) each."""


@dataclass(frozen=True)
class Config:
    """The hyper-parameters that shape a vector; keys are those of config.json, and the three flags at the end."""

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
    qk_norm: bool
    """Whether each head's queries and keys are normalised."""
    qkv_bias: bool
    """Whether queries, keys and values have biases."""
    causal: bool
    """Whether a token sees only itself and the tokens before."""

    @classmethod
    def read(cls, config: Mapping[str, Any], *, qk_norm: bool, qkv_bias: bool, causal: bool) -> Config:
        """Check a config.json against what is implemented here."""
        expect(config, "hidden_act", ("silu",))
        expect(config, "use_sliding_window", (False, None))
        expect(config, "rope_scaling", (None,))
        if other := set(config.get("layer_types") or ()) - {"full_attention"}:
            raise CheckpointError(f"config.json: 'layer_types' names {some(sorted(other))}, not implemented")
        theta = rope_theta(config)
        return read(cls, config, rope_theta=theta, qk_norm=qk_norm, qkv_bias=qkv_bias, causal=causal)


class Attention(nn.Module):
    """Queries, keys and values with rotary positions; `num_key_value_heads` may divide `num_attention_heads`."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        width, kv_width = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        self.q_proj = nn.Linear(c.hidden_size, width, bias=c.qkv_bias)
        self.k_proj = nn.Linear(c.hidden_size, kv_width, bias=c.qkv_bias)
        self.v_proj = nn.Linear(c.hidden_size, kv_width, bias=c.qkv_bias)
        self.o_proj = nn.Linear(width, c.hidden_size, bias=False)
        if c.qk_norm:
            self.q_norm = nn.RMSNorm(c.head_dim, c.rms_norm_eps)
            self.k_norm = nn.RMSNorm(c.head_dim, c.rms_norm_eps)
        self.config = c

    def queries(self, x: mx.array, *rotations: mx.array) -> mx.array:
        """(T, D) to (T, H, d)."""
        q = split_heads(self.q_proj(x), self.config.num_attention_heads)
        return rotate(self.q_norm(q) if self.config.qk_norm else q, *rotations)

    def keys_and_values(self, x: mx.array, *rotations: mx.array) -> tuple[mx.array, mx.array]:
        """(T, D) to (T, H', d) each."""
        k, v = (split_heads(part(x), self.config.num_key_value_heads) for part in (self.k_proj, self.v_proj))
        return rotate(self.k_norm(k) if self.config.qk_norm else k, *rotations), v


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


class Layer(nn.Module):
    """Pre-norm attention and feed-forward. The residual stream stays in float32.

    Rounding that stream is what half precision loses most by: over 28 layers, cosine 0.9993 instead of 0.9998.
    """

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = nn.RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = MLP(c)
        self._attend = attention.causal if c.causal else attention.bidirectional

    def __call__(self, x: mx.array, rotations: Rotations, batch: Ragged) -> mx.array:
        """Every token: (T, D) to (T, D)."""
        q, k, v = self._project(x, *rotations)
        return self._finish(x, attention.ragged(self._attend, q, k, v, batch))

    def last(self, x: mx.array, rotations: Rotations, batch: Ragged) -> mx.array:
        """Only the last token of each text, which needs keys and values of all: (T, D) to (B, D)."""
        rows = batch.last_rows
        normed = self._norm(x)
        q = self.self_attn.queries(normed[rows], *(part[rows] for part in rotations))
        k, v = self._keys_and_values(normed, *rotations)
        return self._finish(x[rows], attention.ragged(self._attend, q, k, v, batch, single=True))

    def at(self, rows: Positions, x: mx.array, rotations: Rotations) -> mx.array:
        """Only some tokens of one text, in its order, which need keys and values of all: (T, D) to (n, D)."""
        chosen = mx.array(rows)
        normed = self._norm(x)
        q = self.self_attn.queries(normed[chosen], *(part[chosen] for part in rotations))
        k, v = self._keys_and_values(normed, *rotations)
        return self._finish(x[chosen], attention.causal_at(q, k, v, rows))

    def with_keys_and_values(
        self, x: mx.array, rotations: Rotations, batch: Ragged
    ) -> tuple[mx.array, KeysAndValues]:
        """`__call__` of one text, and what the texts that continue this text need of this layer."""
        q, k, v = self._project(x, *rotations)
        return self._finish(x, attention.ragged(self._attend, q, k, v, batch)), (k, v)

    def only_keys_and_values(self, x: mx.array, rotations: Rotations) -> KeysAndValues:
        """Keys and values of every token: (T, D) to (T, H', d) each."""
        return self._keys_and_values(self._norm(x), *rotations)

    def after(self, past: KeysAndValues, x: mx.array, rotations: Rotations, batch: Ragged) -> mx.array:
        """`__call__` of texts that all continue one text, whose keys and values are `past`."""
        q, k, v = self._project(x, *rotations)
        return self._finish(x, attention.ragged(partial(_attend_after, past), q, k, v, batch))

    def last_after(self, past: KeysAndValues, x: mx.array, rotations: Rotations, batch: Ragged) -> mx.array:
        """`last` of texts that all continue one text, whose keys and values are `past`."""
        rows, count = at_least(batch.last_rows), batch.last_rows.shape[0]
        normed = self._norm(x)
        q = self.self_attn.queries(normed[rows], *(part[rows] for part in rotations))[:count]
        k, v = self._keys_and_values(normed, *rotations)
        attended = attention.ragged(partial(_attend_after, past), q, k, v, batch, single=True)
        return self._finish(x[rows], at_least(attended))[:count]

    @tokenwise
    def _project(self, x: mx.array, *rotations: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        normed = rounded_norm(self.input_layernorm, x)
        part = self.self_attn
        return part.queries(normed, *rotations), *part.keys_and_values(normed, *rotations)

    @tokenwise
    def _finish(self, x: mx.array, attended: mx.array) -> mx.array:
        x = x + self.self_attn.o_proj(attended)
        return x + self.mlp(rounded_norm(self.post_attention_layernorm, x))

    @tokenwise
    def _norm(self, x: mx.array) -> mx.array:
        return rounded_norm(self.input_layernorm, x)

    @tokenwise
    def _keys_and_values(self, x: mx.array, *rotations: mx.array) -> tuple[mx.array, mx.array]:
        return self.self_attn.keys_and_values(x, *rotations)


def _attend_after(
    past: KeysAndValues, queries: mx.array, keys: mx.array, values: mx.array, hidden: mx.array | None
) -> mx.array:
    """Causal attention of texts (b, H, n, d) that continue a text with keys and values (P, H', d)."""
    texts, seen = keys.shape[0], past[0].shape[0]

    def joined(before: mx.array, own: mx.array) -> mx.array:
        before = before.transpose(1, 0, 2)[None]
        return mx.concatenate([mx.broadcast_to(before, (texts, *before.shape[1:])), own], axis=2)

    if hidden is not None:
        hidden = mx.concatenate([mx.zeros((*hidden.shape[:3], seen), hidden.dtype), hidden], axis=3)
    return attention.causal(queries, joined(past[0], keys), joined(past[1], values), hidden)


class Qwen3(EncoderModel):
    """The model; see `EncoderModel` for what the rest of the package asks of it."""

    architecture: ClassVar[str] = "qwen3"
    pooling: ClassVar[Literal["mean", "last", "first", "none"]] = "last"
    # Massive activations: Qwen3 leaves float16's range at down_proj (see tests/models/test_qwen3.py).
    float16: ClassVar[bool] = False
    # The language head, where a file has one.
    unused: ClassVar[tuple[str, ...]] = ("lm_head.",)

    def __init__(self, c: Config) -> None:
        super().__init__(dimension=c.hidden_size, max_length=c.max_position_embeddings, vocab_size=c.vocab_size)
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = [Layer(c) for _ in range(c.num_hidden_layers)]
        self.norm = nn.RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.config = c

    @classmethod
    def from_config(cls, config: Mapping[str, Any], names: Collection[str]) -> Self:
        """Also checks that the tensors are Qwen3's: v5-nano's config.json differs by `is_decoder` alone."""
        if not {"layers.0.self_attn.q_norm.weight", "layers.0.self_attn.k_norm.weight"} <= set(names):
            raise CheckpointError(
                f"a {config.get('model_type')!r} checkpoint without layers.0.self_attn.q_norm and k_norm is not "
                'Qwen3; v5-nano, which has none, says so with "is_decoder": false in config.json'
            )
        expect(config, "attention_bias", (False, None))
        return cls(Config.read(config, qk_norm=True, qkv_bias=False, causal=True))

    def _before_last_layer(self, ids: mx.array, batch: Ragged) -> tuple[mx.array, Rotations]:
        """States (T, D), and how each token is turned."""
        x = self.embed_tokens(ids).astype(mx.float32)
        turns = rotations(batch, self.config.head_dim, self.config.rope_theta)
        for layer in self.layers[:-1]:
            x = evaluate_if_long(layer(x, turns, batch))
        return x, turns

    def hidden(self, ids: mx.array, batch: Ragged) -> mx.array:
        """Contextual states of every token: ids (T,) to (T, D)."""
        x = self.layers[-1](*self._before_last_layer(ids, batch), batch)
        return rounded_norm(self.norm, x)

    def seeing(
        self, ids: mx.array, sources: mx.array, features: mx.array, turns: Rotations, batch: Ragged
    ) -> mx.array:
        """Contextual states of tokens of which some are features of pictures: ids (T,) to (T, D).

        `sources` says of each token the row of the T embeddings with the features (N, D) behind them.
        """
        x = mx.concatenate([self.embed_tokens(ids).astype(mx.float32), features])[sources]
        for layer in self.layers:
            x = evaluate_if_long(layer(x, turns, batch))
        return rounded_norm(self.norm, x)

    def __call__(self, ids: mx.array, batch: Ragged) -> mx.array:
        """The state of each text's last token, in float32: ids (T,) to (B, D)."""
        x = self.layers[-1].last(*self._before_last_layer(ids, batch), batch)
        return mx.fast.rms_norm(x, self.norm.weight.astype(mx.float32), self.norm.eps)
