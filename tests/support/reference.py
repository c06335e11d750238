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
    """LayerNorm over the last axis, with the biased variance, as in torch."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps) * weight + bias


def slopes(heads: int) -> list[float]:
    """ALiBi slopes for any number of heads, after Press et al.'s recursive definition."""
    if math.log2(heads).is_integer():
        first = 2.0 ** (-(2.0 ** -(math.log2(heads) - 3)))
        return [first * first**i for i in range(heads)]
    below = 2 ** math.floor(math.log2(heads))
    return slopes(below) + slopes(2 * below)[0::2][: heads - below]


def jina_bert(
    weights: dict[str, Any], config: dict[str, Any], layout: str, ids: npt.NDArray[Any], seen: int | None = None
) -> Array:
    """Hidden states (L, D) of one text, whose tokens attend to the first `seen` of them, or to all."""
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
    bias[:, :, length if seen is None else seen :] = -np.inf
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


def unit(x: npt.NDArray[np.floating[Any]]) -> Array:
    """Rows of unit length, in float64."""
    exact = x.astype(np.float64)
    unit: Array = exact / np.linalg.norm(exact, axis=-1, keepdims=True)
    return unit


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """Over the last axis."""
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * weight


def silu(x: Array) -> Array:
    """Swish, x times the logistic function, written with a tanh, which never overflows."""
    return x * 0.5 * (1 + np.tanh(x / 2))


def rotary(x: Array, theta: float) -> Array:
    """(H, L, d) with each head's halves turned by position times theta^(-2i/d), as in GPT-NeoX."""
    length, half = x.shape[1], x.shape[2] // 2
    angles = np.arange(length)[:, None] * theta ** (-np.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    return np.concatenate(
        [first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)],
        axis=-1,
    )


def qwen3(weights: dict[str, Any], config: dict[str, Any], ids: npt.NDArray[Any], causal: bool = True) -> Array:
    """Hidden states (L, D) of one text after the last norm; EuroBERT's or Qwen2's if queries have no norms."""
    w = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    eps, theta, length = config["rms_norm_eps"], config["rope_theta"], len(ids)

    def linear(name: str, x: Array) -> Array:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)

    def norm(name: str, x: Array) -> Array:
        return rms_norm(x, w[f"{name}.weight"], eps)

    def split(x: Array, count: int) -> Array:
        return x.reshape(length, count, -1).transpose(1, 0, 2)

    future = np.triu(np.full((length, length), -np.inf), 1) if causal else 0.0
    x = w["embed_tokens.weight"][ids]
    for i in range(config["num_hidden_layers"]):
        layer = f"layers.{i}"
        h = norm(f"{layer}.input_layernorm", x)
        q, k, v = (
            split(linear(f"{layer}.self_attn.{part}_proj", h), count)
            for part, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))
        )
        if f"{layer}.self_attn.q_norm.weight" in w:
            q, k = norm(f"{layer}.self_attn.q_norm", q), norm(f"{layer}.self_attn.k_norm", k)
        q, k = rotary(q, theta), rotary(k, theta)
        # Query head h reads key head h // (heads / kv_heads).
        k, v = (np.repeat(part, heads // kv_heads, axis=0) for part in (k, v))
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1]) + future
        context = (softmax(scores) @ v).transpose(1, 0, 2).reshape(length, -1)
        x = x + linear(f"{layer}.self_attn.o_proj", context)
        h = norm(f"{layer}.post_attention_layernorm", x)
        gate = linear(f"{layer}.mlp.gate_proj", h)
        x = x + linear(f"{layer}.mlp.down_proj", silu(gate) * linear(f"{layer}.mlp.up_proj", h))
    return norm("norm", x)


def xlm_roberta(
    weights: dict[str, Any], config: dict[str, Any], ids: npt.NDArray[Any], seen: int | None = None
) -> Array:
    """Hidden states (L, D) of one text by jina-embeddings-v3, under the names of its own repository.

    Its tokens attend to the first `seen` of them, or to all.
    """
    w = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
    heads, eps, length = config["num_attention_heads"], config["layer_norm_eps"], len(ids)

    def linear(name: str, x: Array) -> Array:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, x: Array) -> Array:
        return layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"], eps)

    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0]
    x = norm("emb_ln", x)
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layers.{i}"
        qkv = linear(f"{layer}.mixer.Wqkv", x).reshape(length, 3, heads, -1)
        q, k, v = qkv.transpose(1, 2, 0, 3)
        q, k = rotary(q, config["rotary_emb_base"]), rotary(k, config["rotary_emb_base"])
        scores = q @ k[:, :seen].transpose(0, 2, 1) / math.sqrt(q.shape[-1])
        context = (softmax(scores) @ v[:, :seen]).transpose(1, 0, 2).reshape(length, -1)
        x = norm(f"{layer}.norm1", x + linear(f"{layer}.mixer.out_proj", context))
        fed = linear(f"{layer}.mlp.fc2", gelu(linear(f"{layer}.mlp.fc1", x)))
        x = norm(f"{layer}.norm2", x + fed)
    return x


def with_stack(weights: dict[str, Any], stacks: dict[str, Any], task: int, scale: float) -> dict[str, Array]:
    """W + scale B A for one task's slice of every stack, of an embedding W + scale A B."""
    fused = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
    for name in [name for name in stacks if name.endswith(".lora_A")]:
        module = name.removesuffix(".lora_A")
        a, b = (np.asarray(stacks[f"{module}.lora_{half}"][task], dtype=np.float64) for half in "AB")
        if f"{module}.weight" in fused:
            fused[f"{module}.weight"] += scale * (a @ b if module.startswith("embeddings.") else b @ a)
    return fused


def with_adapter(weights: dict[str, Any], adapter: dict[str, Any], scale: float) -> dict[str, Array]:
    """W + scale B A for every pair in PEFT's names."""
    fused = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
    for name, a in adapter.items():
        if name.endswith(".lora_A.weight"):
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            b = np.asarray(adapter[name.replace("lora_A", "lora_B")], dtype=np.float64)
            fused[f"{module}.weight"] = fused[f"{module}.weight"] + scale * (b @ np.asarray(a, dtype=np.float64))
    return fused
