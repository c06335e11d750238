"""jina-reranker-v3: one prompt with a query and all of its documents, and a vector for each of them.

Wang et al. 2025, "jina-reranker-v3: Last but Not Late Interaction for Listwise Document Reranking" (arXiv
2509.25085). Behind every document and behind the query stands a marker; the states of these tokens go through a
projector with two layers, and a document's score is the cosine of its vector with the query's. Attention is
causal: a document sees those before it, and the query, which comes last, sees all.

Axes: T tokens of the prompt, D width, M markers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import mlx.core as mx
import mlx.nn as nn

from mlx_jina.errors import CheckpointError
from mlx_jina.models import qwen3
from mlx_jina.models.config import expect
from mlx_jina.models.qwen3 import Qwen3
from mlx_jina.models.rerankers import RerankerModel
from mlx_jina.nn.ragged import Positions, Ragged

if TYPE_CHECKING:
    from typing_extensions import Self

# The rows of the projector's two layers, which config.json does not say.
PROJECTOR_SIZES = "projector_sizes"


class ListwiseReranker(Qwen3, RerankerModel):
    """Qwen3 with a projector; its `dimension` is the width of what the projector returns."""

    architecture: ClassVar[str] = "qwen3_listwise_reranker"
    pooling: ClassVar[Literal["mean", "last", "first", "none"]] = "none"

    def __init__(self, c: qwen3.Config, hidden: int, width: int) -> None:
        super().__init__(c)
        self.projector = [
            nn.Linear(c.hidden_size, hidden, bias=False),
            nn.ReLU(),
            nn.Linear(hidden, width, bias=False),
        ]
        self.dimension = width

    @classmethod
    def from_config(cls, config: Mapping[str, Any], names: Collection[str]) -> Self:
        """The empty model."""
        expect(config, "attention_bias", (False, None))
        sizes = config.get(PROJECTOR_SIZES)
        if not isinstance(sizes, list) or len(sizes) != 2 or not all(type(size) is int for size in sizes):
            raise CheckpointError(f"config.json: {PROJECTOR_SIZES!r} should be two sizes, found {sizes!r}")
        return cls(qwen3.Config.read(config, qk_norm=True, qkv_bias=False, causal=True), *sizes)

    def marked(self, ids: mx.array, batch: Ragged, rows: Positions) -> mx.array:
        """The vectors of some tokens of one prompt, in float32, not normalised: ids (T,), rows (M,) to (M, D')."""
        x = self.layers[-1].at(rows, *self._before_last_layer(ids, batch))
        x = mx.fast.rms_norm(x, self.norm.weight.astype(mx.float32), self.norm.eps)
        for layer in self.projector:
            x = layer(x)
        return x.astype(mx.float32)
