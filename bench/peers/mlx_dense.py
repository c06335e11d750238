"""JinaBERT as a plain MLX port writes it: padded batches, the ALiBi bias written out, MLX's own attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.peers.batches import padded

if TYPE_CHECKING:
    from bench.models import Model

NAME, PACKAGE = "MLX, dense port", "mlx"
FAMILIES = ("jina_bert",)
SETTINGS = (
    "what a plain port to MLX does, written for this comparison: padding, 32 texts a batch sorted by length, at "
    "most 8,192 tokens, `mx.fast` attention with the ALiBi bias written out; the same BLAS as ours"
)


def options(model: Model) -> tuple[str, ...]:
    """The precision of ours."""
    return (model.precision(),)


def load(folder: Path, option: str) -> Callable[[Sequence[str], int], Any]:
    """Texts to vectors."""
    import json

    from mlx_jina.cpu import blas

    blas.open_fast()
    import mlx.core as mx
    import mlx.nn as nn
    import numpy as np
    from tokenizers import Tokenizer

    from bench.models import float32_tensors
    from mlx_jina.nn import alibi

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    w = {name: mx.array(x).astype(getattr(mx, option)) for name, x in float32_tensors(folder).items()}
    heads, slopes = config["num_attention_heads"], mx.array(alibi.slopes(config["num_attention_heads"]))

    def linear(x: mx.array, name: str) -> mx.array:
        y = x @ w[f"{name}.weight"].T
        return y + w[f"{name}.bias"] if f"{name}.bias" in w else y

    def norm(x: mx.array, name: str) -> mx.array:
        return mx.fast.layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"], 1e-12)

    def split(x: mx.array) -> mx.array:
        return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)

    def run(ids: Any, mask: Any) -> Any:
        own = mx.array(mask)
        x = w["embeddings.word_embeddings.weight"][mx.array(ids)]
        x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        at = mx.arange(ids.shape[1])
        bias = -slopes[:, None, None] * mx.abs(at[None, :] - at[:, None])
        bias = (bias[None] + (own[:, None, None, :] - 1) * 1e4).astype(x.dtype)
        for i in range(config["num_hidden_layers"]):
            part = f"encoder.layer.{i}.attention"
            q, k, v = (split(linear(x, f"{part}.self.{name}")) for name in ("query", "key", "value"))
            a = mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=bias)
            a = a.transpose(0, 2, 1, 3).reshape(x.shape)
            x = norm(x + linear(a, f"{part}.output.dense"), f"{part}.output.LayerNorm")
            mlp = f"encoder.layer.{i}.mlp"
            gate, up = mx.split(linear(x, f"{mlp}.gated_layers"), 2, axis=-1)
            x = norm(x + linear(nn.gelu(gate) * up, f"{mlp}.wo"), f"{mlp}.layernorm")
        weight = own[:, :, None].astype(x.dtype)
        return np.array(((x * weight).sum(1) / weight.sum(1)).astype(mx.float32))

    return padded(Tokenizer.from_file(str(folder / "tokenizer.json")), run)
