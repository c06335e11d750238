"""XLM-RoBERTa with rotary positions, the encoder of jina-embeddings-v3: post-norm, bidirectional, mean-pooled.

Conneau et al. 2020, "Unsupervised Cross-lingual Representation Learning at Scale" (arXiv 1911.02116); Sturua et
al. 2024, "jina-embeddings-v3" (arXiv 2409.10173). Names are those of transformers' `jina_embeddings_v3`; how the
repository itself names them, weights/jina_v3.py knows.

Axes: B texts, L tokens of one text, T tokens of a batch, D width, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_jina.cpu.layers import Linear
from mlx_jina.errors import CheckpointError
from mlx_jina.models.config import expect, required, rope_theta
from mlx_jina.nn import activations, attention, pieces, pooling
from mlx_jina.nn.norms import LayerNorm, add_norm
from mlx_jina.nn.ragged import Run


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
    rope_theta: float
    max_position_embeddings: int
    pad_token_id: int

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Config:
        """Check a config.json against what is implemented here."""
        expect(config, "hidden_act", ("gelu",))
        expect(config, "position_embedding_type", ("rotary", None))
        expect(config, "rope_scaling", (None,))
        c = cls(
            hidden_size=required(config, "hidden_size", int),
            num_hidden_layers=required(config, "num_hidden_layers", int),
            num_attention_heads=required(config, "num_attention_heads", int),
            intermediate_size=required(config, "intermediate_size", int),
            vocab_size=required(config, "vocab_size", int),
            type_vocab_size=required(config, "type_vocab_size", int),
            layer_norm_eps=required(config, "layer_norm_eps", float),
            rope_theta=rope_theta(config),
            max_position_embeddings=required(config, "max_position_embeddings", int),
            pad_token_id=required(config, "pad_token_id", int),
        )
        if c.hidden_size % (2 * c.num_attention_heads):
            raise CheckpointError(
                f"config.json: hidden_size {c.hidden_size} does not split into {c.num_attention_heads} heads of "
                "even width"
            )
        return c


class Embeddings(nn.Module):
    """Word plus type-0 embedding, normalised."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(c.vocab_size, c.hidden_size)
        self.token_type_embeddings = nn.Embedding(c.type_vocab_size, c.hidden_size)
        self.LayerNorm = LayerNorm(c.hidden_size, c.layer_norm_eps)

    def __call__(self, ids: mx.array) -> mx.array:
        return add_norm(self.LayerNorm, self.word_embeddings(ids), self.token_type_embeddings(mx.array(0)))


class SelfAttention(nn.Module):
    """Queries, keys and values with rotary positions, attention to the whole text, and the output projection."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.q_proj = Linear(c.hidden_size, c.hidden_size)
        self.k_proj = Linear(c.hidden_size, c.hidden_size)
        self.v_proj = Linear(c.hidden_size, c.hidden_size)
        self.o_proj = Linear(c.hidden_size, c.hidden_size)
        self._heads = c.num_attention_heads
        self._theta = c.rope_theta

    def _rotate(self, x: mx.array, positions: mx.array) -> mx.array:
        return attention.rotate(x.reshape(x.shape[0], self._heads, -1), positions, self._theta)

    def __call__(self, x: mx.array, positions: mx.array, runs: Sequence[Run]) -> mx.array:
        """Merged heads, not yet projected: (T, D) to (T, D)."""
        q = pieces.by_rows(lambda x, at: self._rotate(self.q_proj(x), at), x, positions)
        k = pieces.by_rows(lambda x, at: self._rotate(self.k_proj(x), at), x, positions)
        v = pieces.by_rows(self.v_proj, x)
        return attention.merge_heads(
            [
                attention.bidirectional(*(attention.split_heads(part, run, self._heads) for part in (q, k, v)))
                for run in runs
            ]
        )


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.fc1 = Linear(c.hidden_size, c.intermediate_size)
        self.fc2 = Linear(c.intermediate_size, c.hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc2(activations.gelu(self.fc1(x)))


class Layer(nn.Module):
    """Attention and feed-forward, each with its norm after the residual."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.self_attn = SelfAttention(c)
        self.post_attention_layernorm = LayerNorm(c.hidden_size, c.layer_norm_eps)
        self.mlp = MLP(c)
        self.post_mlp_layernorm = LayerNorm(c.hidden_size, c.layer_norm_eps)

    def _finish(self, attended: mx.array, x: mx.array) -> mx.array:
        x = add_norm(self.post_attention_layernorm, self.self_attn.o_proj(attended), x)
        return add_norm(self.post_mlp_layernorm, self.mlp(x), x)

    def __call__(self, x: mx.array, positions: mx.array, runs: Sequence[Run]) -> mx.array:
        return pieces.by_rows(self._finish, self.self_attn(x, positions, runs), x)


class XLMRoberta(nn.Module):
    """The model; see `models.Model` for what the encoder asks of it."""

    pooling = "mean"
    # Every layer's output is normalised; transformers' own example runs it in float16.
    float16 = True
    unused = ("pooler.", "lm_head.", "classifier.")

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.embeddings = Embeddings(c)
        self.layers = [Layer(c) for _ in range(c.num_hidden_layers)]
        self.dimension = c.hidden_size
        # XLM-RoBERTa counts positions from the one after the padding token's id.
        self.max_length = c.max_position_embeddings - c.pad_token_id - 1

    def hidden(self, ids: mx.array, runs: Sequence[Run]) -> mx.array:
        """Contextual states of every token: ids (T,) to (T, D)."""
        x = self.embeddings(ids)
        positions = attention.positions(runs)
        for layer in self.layers:
            x = pieces.settle(layer(x, positions, runs))
        return x

    def __call__(self, ids: mx.array, runs: Sequence[Run]) -> mx.array:
        """One vector per text, averaged over its tokens in float32: ids (T,) to (B, D)."""
        return pooling.mean(self.hidden(ids, runs), runs)


def build(config: Mapping[str, Any], names: Collection[str]) -> XLMRoberta | None:
    """An empty model if this is a jina-embeddings-v3 checkpoint."""
    return XLMRoberta(Config.read(config)) if config.get("model_type") == "jina_embeddings_v3" else None
