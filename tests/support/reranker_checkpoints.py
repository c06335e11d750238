"""Rerankers with random weights in the exact file layout of the published repositories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tests.support import checkpoints, v3_checkpoints
from tests.support.checkpoints import Weights

ROBERTA_TINY = {"hidden": 64, "layers": 2, "heads": 2, "intermediate": 96, "vocab": 200}


def roberta_tokenizer() -> Tokenizer:
    """jina-reranker-v1's: byte-level BPE, with RoBERTa's special tokens around a text and around a pair."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=310,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(checkpoints.WORDS)] * 2, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return tokenizer


def v1_config(
    *, hidden: int = 64, layers: int = 2, heads: int = 4, intermediate: int = 96, vocab: int = 320
) -> dict[str, Any]:
    """config.json of jina-reranker-v1-tiny-en, tiny by default."""
    shape = {"hidden": hidden, "layers": layers, "heads": heads, "intermediate": intermediate, "vocab": vocab}
    config = checkpoints.jina_bert_config("original", **shape)
    return {
        **config,
        "architectures": ["JinaBertForSequenceClassification"],
        "_name_or_path": "jinaai/jina-reranker-v1-tiny-en",
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }


def v1_weights(seed: int = 0, config: dict[str, Any] | None = None) -> Weights:
    """Tensors under the names of a model with a head, without the prefix `bert.`."""
    config, rng = config or v1_config(), np.random.default_rng(seed + 100)
    return {
        **checkpoints.jina_bert_weights("original", config, seed),
        "classifier.weight": rng.normal(0, 0.3, (1, config["hidden_size"])).astype(np.float32),
        "classifier.bias": rng.normal(0, 0.3, 1).astype(np.float32),
    }


def v1(
    folder: Path,
    dtype: mx.Dtype = mx.float32,
    config: dict[str, Any] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Path:
    """A jina-reranker-v1 repository."""
    config = config or v1_config()
    weights = {
        name if name.startswith("classifier.") else f"bert.{name}": value
        for name, value in v1_weights(config=config).items()
    }
    return checkpoints.write_folder(folder, config, weights, tokenizer or roberta_tokenizer(), dtype)


def stock_config(positions: int) -> dict[str, Any]:
    """config.json of BAAI/bge-reranker-v2-m3, tiny."""
    shape = ROBERTA_TINY
    return {
        "_name_or_path": "BAAI/bge-m3",
        "architectures": ["XLMRobertaForSequenceClassification"],
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": 0,
        "classifier_dropout": None,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": shape["hidden"],
        "id2label": {"0": "LABEL_0"},
        "initializer_range": 0.02,
        "intermediate_size": shape["intermediate"],
        "label2id": {"LABEL_0": 0},
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": positions,
        "model_type": "xlm-roberta",
        "num_attention_heads": shape["heads"],
        "num_hidden_layers": shape["layers"],
        "output_past": True,
        "pad_token_id": 1,
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
        "transformers_version": "4.38.1",
        "type_vocab_size": 1,
        "use_cache": True,
        "vocab_size": v3_checkpoints.tokenizer().get_vocab_size(),
    }


def v2_config(positions: int) -> dict[str, Any]:
    """config.json of jina-reranker-v2-base-multilingual, tiny."""
    code = "jinaai/jina-reranker-v2-base-multilingual--"
    return {
        **stock_config(positions),
        "_name_or_path": "jinaai/jina-reranker-v2-base-multilingual",
        "auto_map": {
            "AutoConfig": f"{code}configuration_xlm_roberta.XLMRobertaFlashConfig",
            "AutoModel": f"{code}modeling_xlm_roberta.XLMRobertaModel",
        },
        "num_labels": 1,
        "torch_dtype": "bfloat16",
        "use_flash_attn": True,
    }


def stock_weights(config: dict[str, Any], seed: int = 0) -> Weights:
    """Tensors under the names of stock XLM-RoBERTa."""
    rng = np.random.default_rng(seed)
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    weights: Weights = {}

    def matrix(name: str, rows: int, columns: int, scale: float) -> None:
        weights[f"{name}.weight"] = rng.normal(0, scale, (rows, columns)).astype(np.float32)

    def linear(name: str, rows: int, columns: int, gain: float = 1.0) -> None:
        matrix(name, rows, columns, gain * columns**-0.5)
        weights[f"{name}.bias"] = rng.normal(0, 0.1, rows).astype(np.float32)

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = rng.normal(1, 0.1, hidden).astype(np.float32)
        weights[f"{name}.bias"] = rng.normal(0, 0.1, hidden).astype(np.float32)

    matrix("roberta.embeddings.word_embeddings", config["vocab_size"], hidden, 1.0)
    matrix("roberta.embeddings.position_embeddings", config["max_position_embeddings"], hidden, 0.7)
    matrix("roberta.embeddings.token_type_embeddings", 1, hidden, 0.3)
    norm("roberta.embeddings.LayerNorm")
    for i in range(config["num_hidden_layers"]):
        layer = f"roberta.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", hidden, hidden, 1.5)
        linear(f"{layer}.attention.output.dense", hidden, hidden)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", ffn, hidden)
        linear(f"{layer}.output.dense", hidden, ffn)
        norm(f"{layer}.output.LayerNorm")
    linear("classifier.dense", hidden, hidden)
    linear("classifier.out_proj", 1, hidden, 2.0)
    return weights


def _flash(weights: Weights) -> Weights:
    """The same tensors under the names of jina-reranker-v2's repository."""
    renamed: Weights = {}
    for name, value in weights.items():
        for theirs, ours in (
            ("embeddings.LayerNorm", "emb_ln"),
            ("encoder.layer.", "encoder.layers."),
            ("attention.output.dense", "mixer.out_proj"),
            ("attention.output.LayerNorm", "norm1"),
            ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
            ("output.LayerNorm", "norm2"),
        ):
            name = name.replace(theirs, ours)
        if "attention.self.query" in name:
            parts = [weights[_original(name).replace("query", part)] for part in ("query", "key", "value")]
            renamed[name.replace("attention.self.query", "mixer.Wqkv")] = np.concatenate(parts)
        elif "attention.self." not in name:
            renamed[name] = value
    return renamed


def _original(name: str) -> str:
    return name.replace("encoder.layers.", "encoder.layer.")


def bge(folder: Path, positions: int = 130, dtype: mx.Dtype = mx.float32) -> Path:
    """A BAAI/bge-reranker-v2-m3 repository, of texts of `positions` - 2 tokens."""
    config = stock_config(positions)
    return checkpoints.write_folder(folder, config, stock_weights(config), v3_checkpoints.tokenizer(), dtype)


def v2(folder: Path, positions: int = 130, dtype: mx.Dtype = mx.float32) -> Path:
    """A jina-reranker-v2-base-multilingual repository, with the weights of `bge`."""
    config = v2_config(positions)
    weights = _flash(stock_weights(config))
    return checkpoints.write_folder(folder, config, weights, v3_checkpoints.tokenizer(), dtype)


def qwen_tokenizer() -> Tokenizer:
    """Qwen3's: the special tokens of the prompt, and tokens that are added without being special."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(checkpoints.QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    # "?\n" and "\n\n" are one token each, as in Qwen's own vocabulary.
    words = f"yes yes no no {' '.join(checkpoints.WORDS)}?\nyes?\nno?\n\n\n<Query>:\n\n"
    tokenizer.train_from_iterator([words] * 3, trainer)
    tokenizer.add_special_tokens(checkpoints.QWEN_SPECIALS)
    tokenizer.add_tokens([AddedToken(token, special=False) for token in ("<think>", "</think>")])
    return tokenizer


def qwen_config(tied: bool = True) -> dict[str, Any]:
    """config.json of Qwen3-Reranker-0.6B, tiny."""
    config = checkpoints.v5_small_config(**checkpoints.V5_TINY)
    for key in ("auto_map", "task_names"):
        del config[key]
    return {
        **config,
        "architectures": ["Qwen3ForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "max_position_embeddings": 40960,
        "model_type": "qwen3",
        "rope_theta": 1000000,
        "tie_word_embeddings": tied,
    }


def qwen_weights(config: dict[str, Any], seed: int = 0) -> Weights:
    """Tensors of the decoder, and of the language head where it is not tied, with a prefix as published."""
    weights = {f"model.{name}": x for name, x in checkpoints.v5_small_weights(config, seed).items()}
    if not config["tie_word_embeddings"]:
        head = np.random.default_rng(seed + 1).standard_normal((config["vocab_size"], config["hidden_size"]))
        weights["lm_head.weight"] = head.astype(np.float32)
    # Logits of a few units, as the model's own.
    weights["model.norm.weight"] *= np.float32(0.15)
    return weights


def qwen(folder: Path, *, tied: bool = True, dtype: mx.Dtype = mx.float32) -> Path:
    """A Qwen3-Reranker repository: tied as 0.6B and 4B, or not, as 8B."""
    config = qwen_config(tied)
    return checkpoints.write_folder(folder, config, qwen_weights(config), qwen_tokenizer(), dtype)


def qwen_classifier(folder: Path, *, tied: bool = True) -> Path:
    """The same model as sequence classification: one row, that of "yes" less that of "no"."""
    config, tokenizer = qwen_config(tied), qwen_tokenizer()
    weights = qwen_weights(config)
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    no, yes = (tokenizer.encode(answer).ids[0] for answer in ("no", "yes"))
    weights.pop("lm_head.weight", None)
    weights["score.weight"] = head[yes : yes + 1] - head[no : no + 1]
    settings = {"architectures": ["Qwen3ForSequenceClassification"], "num_labels": 1}
    return checkpoints.write_folder(folder, {**config, **settings}, weights, tokenizer)


V3_MARKERS = ("<|embed_token|>", "<|rerank_token|>")


def v3_tokenizer() -> Tokenizer:
    """jina-reranker-v3's: Qwen3's with two markers."""
    tokenizer = qwen_tokenizer()
    tokenizer.add_special_tokens(list(V3_MARKERS))
    return tokenizer


def v3_config() -> dict[str, Any]:
    """config.json of jina-reranker-v3, tiny."""
    return {**qwen_config(), "architectures": ["JinaForRanking"], "max_position_embeddings": 131072}


def v3_weights(seed: int = 0) -> Weights:
    """Tensors of the decoder and of the projector, as published."""
    rng, config = np.random.default_rng(seed + 7), v3_config()
    weights = qwen_weights(config, seed)
    weights["projector.0.weight"] = rng.normal(0, 0.2, (32, config["hidden_size"])).astype(np.float32)
    weights["projector.2.weight"] = rng.normal(0, 0.2, (24, 32)).astype(np.float32)
    return weights


def v3(folder: Path, dtype: mx.Dtype = mx.float32) -> Path:
    """A jina-reranker-v3 repository."""
    return checkpoints.write_folder(folder, v3_config(), v3_weights(), v3_tokenizer(), dtype)


def v3_mlx(folder: Path, dtype: mx.Dtype = mx.float32) -> Path:
    """A jina-reranker-v3-mlx repository: the projector in a file of its own."""
    weights = v3_weights()
    beside = {f"linear{n}.weight": weights.pop(f"projector.{i}.weight") for n, i in ((1, 0), (2, 2))}
    checkpoints.write_folder(folder, v3_config(), weights, v3_tokenizer(), dtype)
    tensors = {name: mx.array(x).astype(dtype) for name, x in beside.items()}
    mx.save_safetensors(str(folder / "projector.safetensors"), tensors)
    return folder
