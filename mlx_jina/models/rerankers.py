"""Cross-encoders: a model that reads a query and a document together, and a head that turns a token into a score.

    jina-reranker-v1         JinaBERT; BERT's pooler on the first token
    jina-reranker-v2, bge    XLM-RoBERTa with learned absolute positions; RoBERTa's head on the first token
    Qwen3-Reranker           Qwen3; the difference between the logits of "yes" and "no" after the last token

Devlin et al. 2018, "BERT" (arXiv 1810.04805); Liu et al. 2019, "RoBERTa" (arXiv 1907.11692); Zhang et al. 2025,
"Qwen3 Embedding" (arXiv 2506.05176). Each model returns what its last linear layer reads, and that layer itself
(`head`), which the caller applies in float64: a row of a few hundred numbers whose sum decides an order.

Axes: B texts, T tokens of a batch, D width, P tokens of a shared beginning, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from mlx_jina.catalog import Kind
from mlx_jina.errors import CheckpointError
from mlx_jina.models import jina_bert, qwen3, xlm_roberta
from mlx_jina.models.base import EncoderModel
from mlx_jina.models.config import expect, required
from mlx_jina.models.jina_bert import JinaBert
from mlx_jina.models.qwen3 import KeysAndValues, Qwen3
from mlx_jina.models.xlm_roberta import XLMRoberta
from mlx_jina.nn.alibi import Alibi
from mlx_jina.nn.pieces import evaluate_if_long
from mlx_jina.nn.ragged import Bucket, Ragged
from mlx_jina.nn.rotary import rotations
from mlx_jina.nn.steady import at_least

if TYPE_CHECKING:
    from typing_extensions import Self

# How many rows Qwen3-Reranker's head has: those of "no" and "yes", or their difference.
SCORE_ROWS = "score_rows"


class Head(NamedTuple):
    """The last linear layer: a logit is `features @ weight + bias`."""

    weight: npt.NDArray[np.float64]
    """(D,)"""
    bias: float


class RerankerModel(EncoderModel):
    """A model that scores documents for a query."""

    kind: ClassVar[Kind] = "reranker"


class CrossEncoder(RerankerModel):
    """A reranker of pairs, whose vector of a text is what the head reads, not normalised."""

    def head(self) -> Head:
        """The last linear layer, in float64."""
        raise NotImplementedError


def _row(layer: nn.Linear) -> Head:
    """A linear layer with one output."""
    weight, bias = layer.weight.astype(mx.float32), layer.get("bias")
    return Head(np.array(weight, dtype=np.float64)[0], 0.0 if bias is None else bias.astype(mx.float32).item())


def _projected(dense: nn.Linear, rows: mx.array) -> mx.array:
    """Tanh of a linear layer, as in the poolers of BERT and of RoBERTa: (B, D) to (B, D) in float32."""
    return mx.tanh(dense(at_least(rows)).astype(mx.float32))[: rows.shape[0]]


class JinaBertReranker(JinaBert, CrossEncoder):
    """jina-reranker-v1: JinaBERT with BERT's pooler and a classifier with one output."""

    architecture: ClassVar[str] = "jina_bert_reranker"
    pooling: ClassVar[Literal["mean", "last", "first", "none"]] = "first"
    unused: ClassVar[tuple[str, ...]] = ("cls.", "embeddings.position_ids")

    def __init__(self, c: jina_bert.Config, bias: bool) -> None:
        super().__init__(c)
        self.pooler = nn.Module()
        self.pooler.dense = nn.Linear(c.hidden_size, c.hidden_size)
        self.classifier = nn.Linear(c.hidden_size, 1, bias=bias)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], names: Collection[str]) -> Self:
        """The empty model. Raises CheckpointError for a layout that no published reranker has."""
        layout = jina_bert.detect_layout(names)
        if layout != "original":
            raise CheckpointError(f"a JinaBERT reranker in the layout {layout!r}; only 'original' is implemented")
        return cls(jina_bert.Config.read(config, layout), bias="classifier.bias" in names)

    def __call__(self, ids: mx.array, batch: Ragged) -> mx.array:
        """What the classifier reads, in float32: ids (T,) to (B, D)."""
        x = self.embeddings(ids)
        alibi = Alibi.of(self._heads, x.dtype, batch)
        for layer in self.encoder.layer[:-1]:
            x = evaluate_if_long(layer(x, alibi))
        return _projected(self.pooler.dense, self.encoder.layer[-1].first(x, batch))

    def head(self) -> Head:
        """The classifier."""
        return _row(self.classifier)


class XLMRobertaReranker(XLMRoberta, CrossEncoder):
    """jina-reranker-v2 and bge-reranker-v2: positions count from `pad_token_id` + 1; RoBERTa's two-layer head."""

    architecture: ClassVar[str] = "xlm_roberta_reranker"
    pooling: ClassVar[Literal["mean", "last", "first", "none"]] = "first"
    unused: ClassVar[tuple[str, ...]] = ("pooler.", "lm_head.", "embeddings.position_ids")

    def __init__(self, c: xlm_roberta.Config) -> None:
        super().__init__(c)
        self.classifier = nn.Module()
        self.classifier.dense = nn.Linear(c.hidden_size, c.hidden_size)
        self.classifier.out_proj = nn.Linear(c.hidden_size, 1)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], names: Collection[str]) -> Self:
        """The empty model."""
        if "classifier.out_proj.weight" not in names:
            raise CheckpointError(
                f"model_type 'xlm-roberta' (architectures {config.get('architectures')}) without a reranker's "
                "classifier.out_proj is not one that mlx-jina runs"
            )
        return cls(xlm_roberta.Config.read(config, rotary=False))

    def __call__(self, ids: mx.array, batch: Ragged) -> mx.array:
        """What the head's second layer reads, in float32: ids (T,) to (B, D)."""
        x, turns = self.embedded(ids, batch)
        for layer in self.layers[:-1]:
            x = evaluate_if_long(layer(x, turns, batch))
        return _projected(self.classifier.dense, self.layers[-1].first(x, batch))

    def head(self) -> Head:
        """The head's second layer."""
        return _row(self.classifier.out_proj)


class Qwen3Reranker(Qwen3, CrossEncoder):
    """Qwen3-Reranker: of the language head only the rows of "no" and "yes", or their difference, as `score`."""

    architecture: ClassVar[str] = "qwen3_reranker"

    def __init__(self, c: qwen3.Config, rows: int) -> None:
        super().__init__(c)
        self.score = nn.Linear(c.hidden_size, rows, bias=False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], names: Collection[str]) -> Self:
        """The empty model."""
        expect(config, "attention_bias", (False, None))
        expect(config, SCORE_ROWS, (1, 2))
        return cls(
            qwen3.Config.read(config, qk_norm=True, qkv_bias=False, causal=True),
            required(config, SCORE_ROWS, int),
        )

    def head(self) -> Head:
        """The row of "yes" less that of "no"."""
        rows = np.array(self.score.weight.astype(mx.float32), dtype=np.float64)
        return Head(rows[-1] - rows[0] if len(rows) == 2 else rows[0], 0.0)

    def beginning(self, ids: mx.array) -> list[KeysAndValues]:
        """Of each layer the keys and values of a text that others continue: ids (P,) to (P, H', d) each."""
        batch = Ragged((Bucket(0, 1, ids.shape[0]),))
        x = self.embed_tokens(ids).astype(mx.float32)
        turns = rotations(batch, self.config.head_dim, self.config.rope_theta)
        past = []
        for layer in self.layers[:-1]:
            x, own = layer.with_keys_and_values(x, turns, batch)
            past.append(own)
            x = evaluate_if_long(x)
        return [*past, self.layers[-1].only_keys_and_values(x, turns)]

    def continued(self, past: Sequence[KeysAndValues], ids: mx.array, batch: Ragged) -> mx.array:
        """The states of the last tokens of texts that continue `beginning`'s, in float32: ids (T,) to (B, D)."""
        turns = rotations(batch, self.config.head_dim, self.config.rope_theta, start=past[0][0].shape[0])
        x = self.embed_tokens(ids).astype(mx.float32)
        for own, layer in zip(past[:-1], self.layers[:-1], strict=True):
            x = evaluate_if_long(layer.after(own, x, turns, batch))
        x = self.layers[-1].last_after(past[-1], x, turns, batch)
        return mx.fast.rms_norm(x, self.norm.weight.astype(mx.float32), self.norm.eps)
