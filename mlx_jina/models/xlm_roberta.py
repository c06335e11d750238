"""XLM-RoBERTa with rotary positions, the encoder of jina-embeddings-v3: post-norm, bidirectional, mean-pooled.

Conneau et al. 2020, "Unsupervised Cross-lingual Representation Learning at Scale" (arXiv 1911.02116); Sturua et
al. 2024, "jina-embeddings-v3" (arXiv 2409.10173). Names are those of transformers' `jina_embeddings_v3`; how the
repository itself names them, weights/jina_v3.py knows.

Axes: B texts, T tokens of a batch, D width, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import mlx.core as mx
import mlx.nn as nn

from mlx_jina.errors import CheckpointError
from mlx_jina.models.base import EncoderModel
from mlx_jina.models.bert import Embeddings
from mlx_jina.models.config import expect, read, rope_theta
from mlx_jina.nn import attention
from mlx_jina.nn.activations import gelu
from mlx_jina.nn.attention import split_heads
from mlx_jina.nn.norms import add_norm
from mlx_jina.nn.pieces import evaluate_if_long, tokenwise
from mlx_jina.nn.ragged import Ragged
from mlx_jina.nn.rotary import rotate, rotations
from mlx_jina.nn.steady import at_least

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Config:
    """The hyper-parameters that shape a vector; keys are those of config.json."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    type_vocab_size: int
    layer_norm_eps: float
    rope_theta: float | None
    """The base of rotary positions; None for learned positions, which are absolute."""
    max_position_embeddings: int
    pad_token_id: int

    @classmethod
    def read(cls, config: Mapping[str, Any], *, rotary: bool = True) -> Config:
        """Check a config.json against what is implemented here."""
        expect(config, "hidden_act", ("gelu",))
        expect(config, "position_embedding_type", ("rotary" if rotary else "absolute", None))
        expect(config, "rope_scaling", (None,))
        c = read(cls, config, rope_theta=rope_theta(config) if rotary else None)
        if c.hidden_size % (2 * c.num_attention_heads):
            raise CheckpointError(
                f"config.json: hidden_size {c.hidden_size} does not split into {c.num_attention_heads} heads of "
                "even width"
            )
        return c


class Attention(nn.Module):
    """Queries, keys and values, with rotary positions if any are given, and the output projection."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.q_proj = nn.Linear(c.hidden_size, c.hidden_size)
        self.k_proj = nn.Linear(c.hidden_size, c.hidden_size)
        self.v_proj = nn.Linear(c.hidden_size, c.hidden_size)
        self.o_proj = nn.Linear(c.hidden_size, c.hidden_size)
        self.config = c

    @tokenwise
    def project(self, x: mx.array, *rotations: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """(T, D) to (T, H, d) each."""
        heads = self.config.num_attention_heads
        q, k, v = (split_heads(part(x), heads) for part in (self.q_proj, self.k_proj, self.v_proj))
        return (rotate(q, *rotations), rotate(k, *rotations), v) if rotations else (q, k, v)

    def queries(self, x: mx.array) -> mx.array:
        """(T, D) to (T, H, d), without rotary positions."""
        return split_heads(self.q_proj(x), self.config.num_attention_heads)

    @tokenwise
    def keys_and_values(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """(T, D) to (T, H, d) each, without rotary positions."""
        heads = self.config.num_attention_heads
        return split_heads(self.k_proj(x), heads), split_heads(self.v_proj(x), heads)


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.fc1 = nn.Linear(c.hidden_size, c.intermediate_size)
        self.fc2 = nn.Linear(c.intermediate_size, c.hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc2(gelu(self.fc1(x)))


class Layer(nn.Module):
    """Attention and feed-forward, each with its norm after the residual."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.self_attn = Attention(c)
        self.post_attention_layernorm = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)
        self.mlp = MLP(c)
        self.post_mlp_layernorm = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)

    def __call__(self, x: mx.array, rotations: tuple[mx.array, ...], batch: Ragged) -> mx.array:
        q, k, v = self.self_attn.project(x, *rotations)
        return self._finish(x, attention.ragged(attention.bidirectional, q, k, v, batch))

    def first(self, x: mx.array, batch: Ragged) -> mx.array:
        """Only the first token of each text, which needs keys and values of all: (T, D) to (B, D)."""
        rows = x[batch.first_rows]
        count = rows.shape[0]
        q = self.self_attn.queries(at_least(rows))[:count]
        k, v = self.self_attn.keys_and_values(x)
        attended = attention.ragged(attention.bidirectional, q, k, v, batch, single=True)
        return self._finish(at_least(rows), at_least(attended))[:count]

    @tokenwise
    def _finish(self, x: mx.array, attended: mx.array) -> mx.array:
        x = add_norm(self.post_attention_layernorm, self.self_attn.o_proj(attended), x)
        return add_norm(self.post_mlp_layernorm, self.mlp(x), x)


class XLMRoberta(EncoderModel):
    """The model; see `EncoderModel` for what the rest of the package asks of it."""

    architecture: ClassVar[str] = "xlm_roberta"
    pooling: ClassVar[Literal["mean", "last", "first", "none"]] = "mean"
    # Every layer's output is normalised; transformers' own example runs it in float16.
    float16: ClassVar[bool] = True
    unused: ClassVar[tuple[str, ...]] = ("pooler.", "lm_head.", "classifier.")

    def __init__(self, c: Config) -> None:
        # XLM-RoBERTa counts positions from the one after the padding token's id.
        max_length = c.max_position_embeddings - c.pad_token_id - 1
        super().__init__(dimension=c.hidden_size, max_length=max_length, vocab_size=c.vocab_size)
        positions = c.max_position_embeddings if c.rope_theta is None else 0
        self.embeddings = Embeddings(c.vocab_size, c.type_vocab_size, c.hidden_size, c.layer_norm_eps, positions)
        self.layers = [Layer(c) for _ in range(c.num_hidden_layers)]
        self.config = c

    @classmethod
    def from_config(cls, config: Mapping[str, Any], names: Collection[str]) -> Self:
        """The empty model."""
        return cls(Config.read(config))

    def hidden(self, ids: mx.array, batch: Ragged) -> mx.array:
        """Contextual states of every token: ids (T,) to (T, D)."""
        x, turns = self.embedded(ids, batch)
        for layer in self.layers:
            x = evaluate_if_long(layer(x, turns, batch))
        return x

    def embedded(self, ids: mx.array, batch: Ragged) -> tuple[mx.array, tuple[mx.array, ...]]:
        """The first layer's states (T, D), and how each token is turned, for rotary positions."""
        c = self.config
        if c.rope_theta is None:
            return self.embeddings(ids, batch.positions + (c.pad_token_id + 1)), ()
        return self.embeddings(ids), rotations(batch, c.hidden_size // c.num_attention_heads, c.rope_theta)
