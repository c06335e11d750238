"""Forward passes in float64 NumPy, one text at a time, written from the papers and not from mlx_jina."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu(x: Array) -> Array:
    """Exact GELU."""
    return x * 0.5 * (1 + _erf(x / math.sqrt(2)))


def softmax(x: Array) -> Array:
    """Over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """Biased variance, as in torch."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps) * weight + bias


def slopes(heads: int) -> list[float]:
    """ALiBi slopes for any number of heads, after Press et al.'s recursive definition."""
    if math.log2(heads).is_integer():
        first = 2.0 ** (-(2.0 ** -(math.log2(heads) - 3)))
        return [first * first**i for i in range(heads)]
    below = 2 ** math.floor(math.log2(heads))
    return slopes(below) + slopes(2 * below)[0::2][: heads - below]


def jina_bert(weights: dict[str, Any], config: dict[str, Any], layout: str, ids: npt.NDArray[Any]) -> Array:
    """Hidden states (L, D) of one text."""
    w = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
    heads, eps, ffn = config["num_attention_heads"], config["layer_norm_eps"], config["intermediate_size"]

    def linear(name: str, x: Array) -> Array:
        y = x @ w[f"{name}.weight"].T
        return y + w[f"{name}.bias"] if f"{name}.bias" in w else y

    def norm(name: str, x: Array) -> Array:
        return layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"], eps)

    length = len(ids)
    positions = np.arange(length)
    bias = -np.array(slopes(heads))[:, None, None] * np.abs(positions[:, None] - positions[None, :])
    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0]
    x = norm("embeddings.LayerNorm", x)
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        q, k, v = (linear(f"{layer}.attention.self.{part}", x) for part in ("query", "key", "value"))
        if layout in ("qk-devlin-norm", "qk-post-norm"):
            q = norm(f"{layer}.attention.self.layer_norm_q", q)
            k = norm(f"{layer}.attention.self.layer_norm_k", k)
        q, k, v = (part.reshape(length, heads, -1).transpose(1, 0, 2) for part in (q, k, v))
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1]) + bias
        context = (softmax(scores) @ v).transpose(1, 0, 2).reshape(length, -1)
        attended = norm(
            f"{layer}.attention.output.LayerNorm", linear(f"{layer}.attention.output.dense", context) + x
        )
        if layout == "qk-post-norm":
            residual = norm(f"{layer}.layer_norm_1", x + attended)
            u = linear(f"{layer}.mlp.up_gated_layer", residual)
            fed = linear(f"{layer}.mlp.down_layer", u[:, :ffn] * gelu(u[:, ffn:]))
            x = norm(f"{layer}.layer_norm_2", residual + fed)
        elif layout == "plain-ffn":
            fed = linear(f"{layer}.output.dense", gelu(linear(f"{layer}.intermediate.dense", attended)))
            x = norm(f"{layer}.output.LayerNorm", fed + attended)
        else:
            u = linear(f"{layer}.mlp.gated_layers", attended)
            fed = linear(f"{layer}.mlp.wo", gelu(u[:, :ffn]) * u[:, ffn:])
            x = norm(f"{layer}.mlp.layernorm", fed + attended)
    return x


def unit(x: Array) -> Array:
    """Rows of unit length."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
