"""Checkpoints with random weights in the exact file layout of the published repositories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

Weights = dict[str, npt.NDArray[np.float32]]

LAYOUTS = ("original", "qk-devlin-norm", "qk-post-norm", "plain-ffn")

WORDS = (
    "the quick brown fox jumps over lazy dog how do i bake bread what is deep learning a man riding horse "
    "vector search on mac embeddings work offline paris capital of france light travels fast in vacuum"
).split()


def wordpiece_tokenizer(vocab_size: int) -> Tokenizer:
    """A BERT tokenizer: real normaliser, pre-tokeniser and template over a small vocabulary."""
    characters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens += [*characters, *(f"##{c}" for c in characters), *dict.fromkeys(WORDS)]
    tokens = list(dict.fromkeys(tokens))
    tokens += [f"[unused{i}]" for i in range(vocab_size - len(tokens))]
    vocab = {token: i for i, token in enumerate(tokens[:vocab_size])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    return tokenizer


def jina_bert_config(
    layout: str, *, hidden: int, layers: int, heads: int, intermediate: int, vocab: int
) -> dict[str, Any]:
    """config.json as the v2 repositories have it."""
    return {
        "architectures": ["JinaBertForMaskedLM"],
        "attention_probs_dropout_prob": 0.0,
        "classifier_dropout": None,
        "emb_pooler": "mean",
        "feed_forward_type": "original" if layout == "plain-ffn" else "geglu",
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 8192,
        "model_max_length": 8192,
        "model_type": "bert",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "pad_token_id": 0,
        "position_embedding_type": "alibi",
        "torch_dtype": "float32",
        "transformers_version": "4.31.0",
        "type_vocab_size": 2,
        "use_cache": True,
        "vocab_size": vocab,
    }


def jina_bert_weights(layout: str, config: dict[str, Any], seed: int = 0, std: float | None = None) -> Weights:
    """Random tensors under the published names, pooler included.

    By default so large that every one of them matters; `std` draws linear layers as the published
    `initializer_range` (0.02) would.
    """
    rng = np.random.default_rng(seed)
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    weights: Weights = {}

    def matrix(name: str, rows: int, columns: int, scale: float | None = None) -> None:
        spread = scale or std or columns**-0.5
        weights[f"{name}.weight"] = rng.normal(0, spread, (rows, columns)).astype(np.float32)

    def linear(name: str, rows: int, columns: int) -> None:
        matrix(name, rows, columns)
        weights[f"{name}.bias"] = rng.normal(0, 0.1, rows).astype(np.float32)

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = rng.normal(1, 0.1, hidden).astype(np.float32)
        weights[f"{name}.bias"] = rng.normal(0, 0.1, hidden).astype(np.float32)

    matrix("embeddings.word_embeddings", config["vocab_size"], hidden, 1.0)
    matrix("embeddings.token_type_embeddings", config["type_vocab_size"], hidden, 0.3)
    norm("embeddings.LayerNorm")
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", hidden, hidden)
        if layout in ("qk-devlin-norm", "qk-post-norm"):
            norm(f"{layer}.attention.self.layer_norm_q")
            norm(f"{layer}.attention.self.layer_norm_k")
        linear(f"{layer}.attention.output.dense", hidden, hidden)
        norm(f"{layer}.attention.output.LayerNorm")
        if layout == "qk-post-norm":
            norm(f"{layer}.layer_norm_1")
            matrix(f"{layer}.mlp.up_gated_layer", 2 * intermediate, hidden)
            linear(f"{layer}.mlp.down_layer", hidden, intermediate)
            norm(f"{layer}.layer_norm_2")
        elif layout == "plain-ffn":
            linear(f"{layer}.intermediate.dense", intermediate, hidden)
            linear(f"{layer}.output.dense", hidden, intermediate)
            norm(f"{layer}.output.LayerNorm")
        else:
            matrix(f"{layer}.mlp.gated_layers", 2 * intermediate, hidden)
            linear(f"{layer}.mlp.wo", hidden, intermediate)
            norm(f"{layer}.mlp.layernorm")
    linear("pooler.dense", hidden, hidden)
    return weights


def write_json(path: Path, content: Any) -> None:
    """One JSON file, folders made as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's config.json."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def read_tensors(folder: Path) -> dict[str, mx.array]:
    """A folder's model.safetensors."""
    return cast("dict[str, mx.array]", mx.load(str(folder / "model.safetensors")))


def write_folder(
    folder: Path, config: dict[str, Any], weights: Weights, tokenizer: Tokenizer, dtype: mx.Dtype = mx.float32
) -> Path:
    """Write config.json, model.safetensors and tokenizer.json."""
    write_json(folder / "config.json", config)
    tensors = {name: mx.array(value).astype(dtype) for name, value in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def tiny_jina_bert(
    folder: Path,
    layout: str = "original",
    *,
    heads: int = 4,
    layers: int = 2,
    seed: int = 0,
    dtype: mx.Dtype = mx.float32,
) -> Path:
    """A v2 repository of 16 dimensions a head that encodes in milliseconds."""
    config = jina_bert_config(layout, hidden=16 * heads, layers=layers, heads=heads, intermediate=96, vocab=320)
    weights = jina_bert_weights(layout, config, seed)
    return write_folder(folder, config, weights, wordpiece_tokenizer(config["vocab_size"]), dtype)
