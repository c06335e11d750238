"""A random model of the shape of jina-embeddings-v5-text-small, with a vocabulary as large as Qwen's."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path

import mlx.core as mx
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from mlx_jina.weights import gguf_tokenizer, safetensors_file

LAYERS, HIDDEN, FFN, Q, KV, HEAD, ROWS = 28, 1024, 3072, 2048, 1024, 128, 151_936
TOKENS = 151_643


def vocabulary(tokens: int = TOKENS) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Tokens and merges as many and about as long as Qwen's, of random pairs."""
    rng = random.Random(0)
    names = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {name: i for i, name in enumerate(names)}
    merges: list[tuple[str, str]] = []
    while len(names) < tokens:
        left, right = rng.choice(names), rng.choice(names)
        name = left + right
        if len(name) <= 14 and name not in vocab:
            vocab[name] = len(names)
            names.append(name)
            merges.append((left, right))
    return vocab, merges


def tokenizer() -> Tokenizer:
    """Qwen's, but for what the tokens are."""
    fast = Tokenizer(models.BPE(*vocabulary()))
    fast.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(gguf_tokenizer.QWEN_SPLIT), behavior="isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return fast


def _config() -> dict[str, object]:
    return {
        "model_type": "qwen3",
        "architectures": ["Qwen3Model"],
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": Q // HEAD,
        "num_key_value_heads": KV // HEAD,
        "head_dim": HEAD,
        "intermediate_size": FFN,
        "vocab_size": ROWS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 3.5e6,
        "rope_scaling": None,
        "attention_bias": False,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    }


def random_model(folder: Path) -> Path:
    """Write the model in bfloat16, tensor by tensor."""
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (ROWS, HIDDEN), "norm.weight": (HIDDEN,)}
    for i in range(LAYERS):
        own = f"layers.{i}"
        shapes |= {f"{own}.{norm}.weight": (HIDDEN,) for norm in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{own}.self_attn.{norm}.weight": (HEAD,) for norm in ("q_norm", "k_norm")}
        for name, shape in {
            "self_attn.q_proj": (Q, HIDDEN),
            "self_attn.k_proj": (KV, HIDDEN),
            "self_attn.v_proj": (KV, HIDDEN),
            "self_attn.o_proj": (HIDDEN, Q),
            "mlp.gate_proj": (FFN, HIDDEN),
            "mlp.up_proj": (FFN, HIDDEN),
            "mlp.down_proj": (HIDDEN, FFN),
        }.items():
            shapes[f"{own}.{name}.weight"] = shape

    def make(name: str, shape: tuple[int, ...]) -> dict[str, mx.array]:
        if len(shape) == 1:
            return {name: mx.random.normal(shape, mx.bfloat16, loc=1, scale=0.1)}
        return {name: mx.random.normal(shape, mx.bfloat16, scale=shape[-1] ** -0.5)}

    outputs = [
        safetensors_file.Output({name: (shape, mx.bfloat16)}, partial(make, name, shape))
        for name, shape in shapes.items()
    ]
    folder.mkdir()
    safetensors_file.write(folder / "model.safetensors", outputs)
    (folder / "config.json").write_text(json.dumps(_config()), encoding="utf-8")
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder
