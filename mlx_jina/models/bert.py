"""BERT's building blocks, under the names of checkpoints; jina_bert.py says which layout has which.

Devlin et al. 2018, "BERT" (arXiv 1810.04805); Shazeer 2020, "GLU Variants Improve Transformer" (arXiv 2002.05202).
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_jina.nn.activations import geglu, gelu
from mlx_jina.nn.norms import add_norm
from mlx_jina.nn.pieces import tokenwise


class Embeddings(nn.Module):
    """Word plus type-0 embedding, plus those of positions if there are any, normalised."""

    def __init__(self, vocab_size: int, types: int, width: int, eps: float, positions: int = 0) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, width)
        self.token_type_embeddings = nn.Embedding(types, width)
        self.LayerNorm = nn.LayerNorm(width, eps)
        if positions:
            self.position_embeddings = nn.Embedding(positions, width)

    def __call__(self, ids: mx.array, positions: mx.array | None = None) -> mx.array:
        rest = self.token_type_embeddings(mx.array(0))
        if positions is not None:
            rest = rest.astype(mx.float32) + self.position_embeddings(positions)
        return add_norm(self.LayerNorm, self.word_embeddings(ids), rest)


class ResidualOutput(nn.Module):
    """BERT's output block: project, add the residual, normalise."""

    def __init__(self, inner: int, width: int, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, width)
        self.LayerNorm = nn.LayerNorm(width, eps)

    def __call__(self, x: mx.array, residual: mx.array) -> mx.array:
        return add_norm(self.LayerNorm, self.dense(x), residual)


class GatedMLP(nn.Module):
    """GEGLU with the gate in the first half, residual and norm inside (original, qk-devlin-norm)."""

    def __init__(self, width: int, inner: int, eps: float) -> None:
        super().__init__()
        self.gated_layers = nn.Linear(width, 2 * inner, bias=False)
        self.wo = nn.Linear(inner, width)
        self.layernorm = nn.LayerNorm(width, eps)

    @tokenwise
    def __call__(self, x: mx.array) -> mx.array:
        gate, up = mx.split(self.gated_layers(x), 2, axis=-1)
        return add_norm(self.layernorm, self.wo(geglu(gate, up)), x)


class UpGatedMLP(nn.Module):
    """GEGLU with the gate in the second half, no residual (qk-post-norm)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up_gated_layer = nn.Linear(width, 2 * inner, bias=False)
        self.down_layer = nn.Linear(inner, width)

    @tokenwise
    def __call__(self, x: mx.array) -> mx.array:
        up, gate = mx.split(self.up_gated_layer(x), 2, axis=-1)
        return self.down_layer(geglu(gate, up))


class Intermediate(nn.Module):
    """The first half of BERT's own feed-forward (plain-ffn)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, inner)

    def __call__(self, x: mx.array) -> mx.array:
        return gelu(self.dense(x))
