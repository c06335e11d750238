"""Checkpoints with random weights in the exact file layout of v5-nano and of the code models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from mlx_jina import catalog
from tests.support import checkpoints
from tests.support.checkpoints import V5_TASKS, Weights

# What Llama 3's tokenizer splits text at.
LLAMA_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
NANO_SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|mask|>", "<|parallel_sep|>", "<|pad|>"]

NANO = {"hidden": 768, "layers": 12, "heads": 12, "intermediate": 3072, "vocab": 128256}
NANO_TINY = {"hidden": 64, "layers": 3, "heads": 2, "intermediate": 96, "vocab": 512}
CODE_05B = {"hidden": 896, "layers": 24, "heads": 14, "kv_heads": 2, "intermediate": 4864, "vocab": 151936}
CODE_TINY = {"hidden": 96, "layers": 3, "heads": 6, "kv_heads": 2, "intermediate": 128, "vocab": 512}


def llama_tokenizer() -> Tokenizer:
    """Byte-level BPE like Llama 3's, with EuroBERT's special tokens: a closing token, and no opening one."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([f"Query: {' '.join(checkpoints.WORDS)} Document:"] * 2, trainer)
    tokenizer.add_special_tokens([AddedToken(name, lstrip="mask" in name) for name in NANO_SPECIALS])
    end = "<|end_of_text|>"
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True, use_regex=True),
            processors.TemplateProcessing(
                single=f"$A {end}",
                pair=f"$A {end} $B:1 {end}:1",
                special_tokens=[(end, tokenizer.token_to_id(end))],
            ),
        ]
    )
    return tokenizer


def nano_config(*, hidden: int, layers: int, heads: int, intermediate: int, vocab: int) -> dict[str, Any]:
    """config.json as jina-embeddings-v5-text-nano has it: no width for heads, every head with its own keys."""
    return {
        "architectures": ["JinaEmbeddingsV5Model"],
        "task_names": list(V5_TASKS),
        "auto_map": {
            "AutoConfig": "configuration_jina_embeddings_v5.JinaEmbeddingsV5Config",
            "AutoModel": "modeling_jina_embeddings_v5.JinaEmbeddingsV5Model",
        },
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token": "<|begin_of_text|>",
        "bos_token_id": 128000,
        "eos_token": "<|end_of_text|>",
        "eos_token_id": 128001,
        "pad_token": "<|end_of_text|>",
        "pad_token_id": min(128001, vocab - 1),
        "mask_token": "<|mask|>",
        "mask_token_id": 128002,
        "hidden_act": "silu",
        "hidden_dropout": 0.0,
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "max_position_embeddings": 8192,
        "model_type": "jina_embeddings_v5",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": heads,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.40.0.dev0",
        "vocab_size": vocab,
        "is_decoder": False,
    }


def code_config(
    *, hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, vocab: int
) -> dict[str, Any]:
    """config.json as Qwen2.5-Coder has it: no width for heads, a sliding window that is not used."""
    return {
        "architectures": ["Qwen2Model"],
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "max_position_embeddings": 32768,
        "max_window_layers": layers,
        "model_type": "qwen2",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.44.0",
        "use_cache": True,
        "use_mrope": False,
        "use_sliding_window": False,
        "vocab_size": vocab,
    }


def _with_head_dim(config: dict[str, Any]) -> dict[str, Any]:
    return config | {"head_dim": config["hidden_size"] // config["num_attention_heads"]}


def _without_norms(config: dict[str, Any], seed: int) -> Weights:
    """Qwen3's tensors without the norms of queries and keys; larger queries and keys keep attention sharp."""
    weights = checkpoints.v5_small_weights(_with_head_dim(config), seed)
    kept = {name: x for name, x in weights.items() if "q_norm" not in name and "k_norm" not in name}
    for name in kept:
        if "q_proj" in name or "k_proj" in name:
            kept[name] *= np.float32(1.5)
    return kept


def nano_weights(config: dict[str, Any], seed: int = 0) -> Weights:
    """Random tensors under the published names: no prefix, no head, no biases."""
    return _without_norms(config, seed)


def code_weights(config: dict[str, Any], seed: int = 0) -> Weights:
    """Random tensors under Qwen2's names, biases on queries, keys and values included."""
    weights = _without_norms(config, seed)
    rng = np.random.default_rng(seed + 1)
    for name in [name for name in weights if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))]:
        bias = rng.normal(0, 0.5, len(weights[name])).astype(np.float32)
        weights[name.replace(".weight", ".bias")] = bias
    return weights


def nano_adapter_weights(config: dict[str, Any], rank: int, seed: int) -> Weights:
    """A and B of every linear layer under PEFT's names."""
    return checkpoints.v5_adapter_weights(_with_head_dim(config), rank, seed)


def v5_nano(
    folder: Path,
    shape: dict[str, int] = NANO_TINY,
    *,
    rank: int = 4,
    tasks: Sequence[str] = V5_TASKS,
    dtype: mx.Dtype = mx.float32,
) -> Path:
    """A jina-embeddings-v5-text-nano repository, tiny by default: base weights, adapters, prompts."""
    config = nano_config(**shape)
    checkpoints.write_folder(
        folder, config | {"task_names": list(tasks)}, nano_weights(config), llama_tokenizer(), dtype
    )
    for seed, task in enumerate(tasks, 1):
        adapter_config = checkpoints.v5_adapter_config(
            rank, base_model_name_or_path="jinaai/jina-embeddings-v5-text-nano"
        )
        weights = nano_adapter_weights(config, rank, seed)
        checkpoints.write_adapter(folder / "adapters" / task, adapter_config, weights, dtype)
    checkpoints.write_json(
        folder / "config_sentence_transformers.json",
        {
            "prompts": {"query": "Query: ", "document": "Document: "},
            "default_prompt_name": "document",
            "similarity_fn_name": "cosine",
        },
    )
    return folder


def code(folder: Path, shape: dict[str, int] = CODE_TINY, *, dtype: mx.Dtype = mx.float32) -> Path:
    """A jina-code-embeddings repository, tiny by default: weights and two prompts a task."""
    config = code_config(**shape)
    checkpoints.write_folder(folder, config, code_weights(config), checkpoints.qwen_tokenizer(), dtype)
    entry = catalog.find("code-0.5b")
    assert entry is not None
    checkpoints.write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": dict(entry.prompts), "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )
    return folder
