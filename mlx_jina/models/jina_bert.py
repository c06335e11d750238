"""JinaBERT, the encoder of jina-embeddings-v2: BERT without positions, with symmetric ALiBi, mean-pooled.

Günther et al. 2023, "Jina Embeddings 2" (arXiv 2310.19923). Published checkpoints share
`model_type: bert` and come in four layouts that only their tensor names tell apart:

    original         gated feed-forward (GEGLU), gate in the first half     small-en, base-en, base-de, base-zh
    qk-devlin-norm   the same, LayerNorm on queries and keys                base-es
    qk-post-norm     LayerNorm on queries and keys, layer input added
                     twice, gate in the second half                         base-code
    plain-ffn        BERT's own feed-forward with biases                    third parties

Axes: B texts, T tokens of a batch, D width, H heads, d head width.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import mlx.core as mx
import mlx.nn as nn

from mlx_jina.errors import CheckpointError, some
from mlx_jina.models.base import EncoderModel
from mlx_jina.models.bert import Embeddings, GatedMLP, Intermediate, ResidualOutput, UpGatedMLP
from mlx_jina.models.config import expect, read
from mlx_jina.nn.alibi import Alibi, attend_first
from mlx_jina.nn.attention import projected, split_heads
from mlx_jina.nn.norms import add_norm
from mlx_jina.nn.pieces import evaluate_if_long, tokenwise
from mlx_jina.nn.ragged import Ragged
from mlx_jina.nn.steady import at_least

if TYPE_CHECKING:
    from typing_extensions import Self

Layout = Literal["original", "qk-devlin-norm", "qk-post-norm", "plain-ffn"]


@dataclass(frozen=True)
class Config:
    """The hyper-parameters that shape a vector; keys are those of config.json, but for the layout."""

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
        c = read(cls, config, layout=layout)
        if c.hidden_size % c.num_attention_heads:
            raise CheckpointError(
                f"config.json: hidden_size {c.hidden_size} is not a multiple of "
                f"num_attention_heads {c.num_attention_heads}"
            )
        return c


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


class SelfAttention(nn.Module):
    """Queries, keys, values and ALiBi attention, up to the merged heads."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.query = nn.Linear(c.hidden_size, c.hidden_size)
        self.key = nn.Linear(c.hidden_size, c.hidden_size)
        self.value = nn.Linear(c.hidden_size, c.hidden_size)
        if c.layout in ("qk-devlin-norm", "qk-post-norm"):
            # Over the full width, before the heads split.
            self.layer_norm_q = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)
            self.layer_norm_k = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)
        self.heads = c.num_attention_heads

    def __call__(self, x: mx.array, alibi: Alibi) -> mx.array:
        q, k, v = projected(x, self.query, self.key, self.value)
        if "layer_norm_q" in self:
            q, k = self.layer_norm_q(q), self.layer_norm_k(k)
        return alibi.attend(*(split_heads(part, self.heads) for part in (q, k, v)))


class Attention(nn.Module):
    """Self-attention with its output block."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.self = SelfAttention(c)
        self.output = ResidualOutput(c.hidden_size, c.hidden_size, c.layer_norm_eps)

    def __call__(self, x: mx.array, alibi: Alibi) -> mx.array:
        return self.output(self.self(x, alibi), x)


class GatedLayer(nn.Module):
    """A layer of `original` and `qk-devlin-norm`."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.attention = Attention(c)
        self.mlp = GatedMLP(c.hidden_size, c.intermediate_size, c.layer_norm_eps)

    def __call__(self, x: mx.array, alibi: Alibi) -> mx.array:
        return self.mlp(self.attention(x, alibi))

    def first(self, x: mx.array, batch: Ragged) -> mx.array:
        """Only the first token of each text, which needs keys and values of all: (T, D) to (B, D)."""
        rows, part = x[batch.first_rows], self.attention.self
        count = rows.shape[0]
        queries = split_heads(part.query(at_least(rows)), part.heads)[:count]
        keys, values = (split_heads(layer(x), part.heads) for layer in (part.key, part.value))
        attended = attend_first(queries, keys, values, batch, part.heads)
        return self.mlp(self.attention.output(at_least(attended), at_least(rows)))[:count]


class PostNormLayer(nn.Module):
    """A layer of `qk-post-norm`: the attention block has already added `x`, and it is added once more."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.attention = Attention(c)
        self.layer_norm_1 = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)
        self.mlp = UpGatedMLP(c.hidden_size, c.intermediate_size)
        self.layer_norm_2 = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)

    def __call__(self, x: mx.array, alibi: Alibi) -> mx.array:
        x = add_norm(self.layer_norm_1, self.attention(x, alibi), x)
        return add_norm(self.layer_norm_2, self.mlp(x), x)


class PlainLayer(nn.Module):
    """A layer of `plain-ffn`, as in BERT."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.attention = Attention(c)
        self.intermediate = Intermediate(c.hidden_size, c.intermediate_size)
        self.output = ResidualOutput(c.intermediate_size, c.hidden_size, c.layer_norm_eps)

    def __call__(self, x: mx.array, alibi: Alibi) -> mx.array:
        return self._feed_forward(self.attention(x, alibi))

    @tokenwise
    def _feed_forward(self, x: mx.array) -> mx.array:
        return self.output(self.intermediate(x), x)


class JinaBert(EncoderModel):
    """The model; see `EncoderModel` for what the rest of the package asks of it."""

    architecture: ClassVar[str] = "jina_bert"
    pooling: ClassVar[Literal["mean", "last", "first", "none"]] = "mean"
    float16: ClassVar[bool] = True
    unused: ClassVar[tuple[str, ...]] = ("pooler.", "cls.", "classifier.", "embeddings.position_ids")

    def __init__(self, c: Config) -> None:
        super().__init__(dimension=c.hidden_size, max_length=c.max_position_embeddings, vocab_size=c.vocab_size)
        self.embeddings = Embeddings(c.vocab_size, c.type_vocab_size, c.hidden_size, c.layer_norm_eps)
        self.encoder = nn.Module()
        layer = {"qk-post-norm": PostNormLayer, "plain-ffn": PlainLayer}.get(c.layout, GatedLayer)
        self.encoder.layer = [layer(c) for _ in range(c.num_hidden_layers)]
        self._heads = c.num_attention_heads

    @classmethod
    def from_config(cls, config: Mapping[str, Any], names: Collection[str]) -> Self:
        """The empty model, or an error that says why a `bert` checkpoint is not JinaBERT."""
        if (layout := detect_layout(names)) is not None:
            return cls(Config.read(config, layout))
        tensors = sorted(re.sub(r"\.\d+\.", ".N.", name) for name in names if ".layer.0." in name)
        raise CheckpointError(
            f"a `bert` checkpoint (architectures {config.get('architectures')}) in none of JinaBERT's four "
            f"layouts; its first layer has {some(tensors) or 'no tensors'}"
        )

    def hidden(self, ids: mx.array, batch: Ragged) -> mx.array:
        """Contextual states of every token: ids (T,) to (T, D)."""
        x = evaluate_if_long(self.embeddings(ids))
        alibi = Alibi.of(self._heads, x.dtype, batch)
        for layer in self.encoder.layer:
            x = evaluate_if_long(layer(x, alibi))
        return x
