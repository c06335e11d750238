"""JinaBERT, the encoder of jina-embeddings-v2: BERT without positions, with symmetric ALiBi, mean-pooled.

Günther et al. 2023, "Jina Embeddings 2" (arXiv 2310.19923). Published checkpoints share
`model_type: bert` and come in four layouts that only their tensor names tell apart:

    original         gated feed-forward (GEGLU), gate in the first half     small-en, base-en, base-de, base-zh
    qk-devlin-norm   the same, LayerNorm on queries and keys                base-es
    qk-post-norm     LayerNorm on queries and keys, layer input added
                     twice, gate in the second half                         base-code
    plain-ffn        BERT's own feed-forward with biases                    third parties

Axes: B texts, L tokens of one text, T tokens of a batch, D width, H heads, d head width.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn

from mlx_jina.cpu.layers import Linear
from mlx_jina.errors import CheckpointError
from mlx_jina.models.config import expect, required
from mlx_jina.nn import activations, attention, pieces, pooling
from mlx_jina.nn.attention import AlibiSpan
from mlx_jina.nn.norms import LayerNorm, add_norm
from mlx_jina.nn.ragged import Run

Layout = Literal["original", "qk-devlin-norm", "qk-post-norm", "plain-ffn"]


@dataclass(frozen=True)
class Config:
    """The hyper-parameters that shape a vector; keys are those of config.json."""

    layout: Layout
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    type_vocab_size: int
    layer_norm_eps: float
    max_position_embeddings: int

    @classmethod
    def read(cls, config: Mapping[str, Any], layout: Layout) -> Config:
        """Check a config.json against what is implemented here."""
        expect(config, "position_embedding_type", ("alibi",))
        expect(config, "hidden_act", ("gelu",))
        expect(config, "feed_forward_type", ("original",) if layout == "plain-ffn" else ("geglu",))
        c = cls(
            layout=layout,
            hidden_size=required(config, "hidden_size", int),
            num_hidden_layers=required(config, "num_hidden_layers", int),
            num_attention_heads=required(config, "num_attention_heads", int),
            intermediate_size=required(config, "intermediate_size", int),
            vocab_size=required(config, "vocab_size", int),
            type_vocab_size=required(config, "type_vocab_size", int),
            layer_norm_eps=required(config, "layer_norm_eps", float),
            max_position_embeddings=required(config, "max_position_embeddings", int),
        )
        if c.hidden_size % c.num_attention_heads:
            raise CheckpointError(
                f"config.json: hidden_size {c.hidden_size} is not a multiple of "
                f"num_attention_heads {c.num_attention_heads}"
            )
        return c

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalised over the full width before the heads split."""
        return self.layout in ("qk-devlin-norm", "qk-post-norm")


def detect_layout(names: Collection[str]) -> Layout | None:
    """The layout whose tell-tale tensors are all there, for layer 0 of an unprefixed checkpoint."""

    def has(name: str) -> bool:
        return f"encoder.layer.0.{name}.weight" in names

    qk_norm = has("attention.self.layer_norm_q") and has("attention.self.layer_norm_k")
    if has("mlp.gated_layers"):
        return "qk-devlin-norm" if qk_norm else "original"
    if has("mlp.up_gated_layer"):
        return "qk-post-norm" if qk_norm and has("layer_norm_1") and has("layer_norm_2") else None
    if has("intermediate.dense") and "embeddings.position_embeddings.weight" not in names:
        return "plain-ffn"
    return None


class Embeddings(nn.Module):
    """Word plus type-0 embedding, normalised. There are no position embeddings."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(c.vocab_size, c.hidden_size)
        self.token_type_embeddings = nn.Embedding(c.type_vocab_size, c.hidden_size)
        self.LayerNorm = LayerNorm(c.hidden_size, c.layer_norm_eps)

    def __call__(self, ids: mx.array) -> mx.array:
        return self.LayerNorm(self.word_embeddings(ids) + self.token_type_embeddings(mx.array(0)))


class SelfAttention(nn.Module):
    """Queries, keys, values and ALiBi attention, up to the merged heads."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.query = Linear(c.hidden_size, c.hidden_size)
        self.key = Linear(c.hidden_size, c.hidden_size)
        self.value = Linear(c.hidden_size, c.hidden_size)
        if c.qk_norm:
            self.layer_norm_q = LayerNorm(c.hidden_size, c.layer_norm_eps)
            self.layer_norm_k = LayerNorm(c.hidden_size, c.layer_norm_eps)
        self._heads = c.num_attention_heads

    def __call__(self, x: mx.array, spans: Sequence[AlibiSpan]) -> mx.array:
        q, k, v = self.query(x), self.key(x), self.value(x)
        if "layer_norm_q" in self:
            q, k = self.layer_norm_q(q), self.layer_norm_k(k)
        pieces = []
        for span in spans:
            queries, keys, values = (attention.split_heads(part, span.run, self._heads) for part in (q, k, v))
            pieces.append(attention.alibi(queries, keys, values, span.bias))
        return attention.merge_heads(pieces)


class ResidualOutput(nn.Module):
    """BERT's output block: project, add the residual, normalise."""

    def __init__(self, width_in: int, c: Config) -> None:
        super().__init__()
        self.dense = Linear(width_in, c.hidden_size)
        self.LayerNorm = LayerNorm(c.hidden_size, c.layer_norm_eps)

    def __call__(self, x: mx.array, residual: mx.array) -> mx.array:
        return add_norm(self.LayerNorm, self.dense(x), residual)


class Attention(nn.Module):
    """Self-attention with its output block."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.self = SelfAttention(c)
        self.output = ResidualOutput(c.hidden_size, c)

    def __call__(self, x: mx.array, spans: Sequence[AlibiSpan]) -> mx.array:
        return self.output(self.self(x, spans), x)


class GatedMLP(nn.Module):
    """GEGLU with the gate in the first half, residual and norm inside (original, qk-devlin-norm)."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.gated_layers = Linear(c.hidden_size, 2 * c.intermediate_size, bias=False)
        self.wo = Linear(c.intermediate_size, c.hidden_size)
        self.layernorm = LayerNorm(c.hidden_size, c.layer_norm_eps)

    def __call__(self, x: mx.array) -> mx.array:
        gate, up = mx.split(self.gated_layers(x), 2, axis=-1)
        return add_norm(self.layernorm, self.wo(activations.geglu(gate, up)), x)


class UpGatedMLP(nn.Module):
    """GEGLU with the gate in the second half, no residual (qk-post-norm)."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.up_gated_layer = Linear(c.hidden_size, 2 * c.intermediate_size, bias=False)
        self.down_layer = Linear(c.intermediate_size, c.hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        up, gate = mx.split(self.up_gated_layer(x), 2, axis=-1)
        return self.down_layer(activations.geglu(gate, up))


class Intermediate(nn.Module):
    """The first half of BERT's own feed-forward (plain-ffn)."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.dense = Linear(c.hidden_size, c.intermediate_size)

    def __call__(self, x: mx.array) -> mx.array:
        return activations.gelu(self.dense(x))


class GatedLayer(nn.Module):
    """A layer of `original` and `qk-devlin-norm`."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.attention = Attention(c)
        self.mlp = GatedMLP(c)

    def __call__(self, x: mx.array, spans: Sequence[AlibiSpan]) -> mx.array:
        return pieces.by_rows(self.mlp, self.attention(x, spans))


class PostNormLayer(nn.Module):
    """A layer of `qk-post-norm`: the attention block has already added `x`, and it is added once more."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.attention = Attention(c)
        self.layer_norm_1 = LayerNorm(c.hidden_size, c.layer_norm_eps)
        self.mlp = UpGatedMLP(c)
        self.layer_norm_2 = LayerNorm(c.hidden_size, c.layer_norm_eps)

    def __call__(self, x: mx.array, spans: Sequence[AlibiSpan]) -> mx.array:
        residual = add_norm(self.layer_norm_1, self.attention(x, spans), x)
        return add_norm(self.layer_norm_2, pieces.by_rows(self.mlp, residual), residual)


class PlainLayer(nn.Module):
    """A layer of `plain-ffn`, as in BERT."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.attention = Attention(c)
        self.intermediate = Intermediate(c)
        self.output = ResidualOutput(c.intermediate_size, c)

    def __call__(self, x: mx.array, spans: Sequence[AlibiSpan]) -> mx.array:
        return pieces.by_rows(lambda rows: self.output(self.intermediate(rows), rows), self.attention(x, spans))


_LAYERS = {
    "original": GatedLayer,
    "qk-devlin-norm": GatedLayer,
    "qk-post-norm": PostNormLayer,
    "plain-ffn": PlainLayer,
}


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.layer = [_LAYERS[c.layout](c) for _ in range(c.num_hidden_layers)]


class JinaBert(nn.Module):
    """The model; see `models.Model` for what the encoder asks of it."""

    pooling = "mean"
    float16 = True
    unused = ("pooler.", "cls.", "classifier.", "embeddings.position_ids")

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.embeddings = Embeddings(c)
        self.encoder = Encoder(c)
        self.dimension = c.hidden_size
        self.max_length = c.max_position_embeddings
        self._heads = c.num_attention_heads

    def hidden(self, ids: mx.array, runs: Sequence[Run]) -> mx.array:
        """Contextual states of every token: ids (T,) to (T, D)."""
        x = self.embeddings(ids)
        spans = attention.alibi_spans(self._heads, x.dtype, runs)
        for layer in self.encoder.layer:
            x = pieces.settle(layer(x, spans))
        return x

    def __call__(self, ids: mx.array, runs: Sequence[Run]) -> mx.array:
        """One vector per text, averaged over its tokens in float32: ids (T,) to (B, D)."""
        return pooling.mean(self.hidden(ids, runs), runs)


def build(config: Mapping[str, Any], names: Collection[str]) -> JinaBert | None:
    """An empty model if this is a `bert` checkpoint, or an error that says why it is not JinaBERT."""
    if config.get("model_type") != "bert":
        return None
    layout = detect_layout(names)
    if layout is None:
        tensors = sorted(re.sub(r"\.\d+\.", ".N.", name) for name in names if ".layer.0." in name)
        raise CheckpointError(
            f"a `bert` checkpoint (architectures {config.get('architectures')}) in none of JinaBERT's four "
            f"layouts; its first layer has {', '.join(tensors) or 'no tensors'}"
        )
    return JinaBert(Config.read(config, layout))
