"""Checkpoints with random weights in the exact file layout of the published repositories."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

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

    By default the values are so large that each of them changes vectors; `std` draws linear layers with that
    deviation, such as the published `initializer_range` (0.02).
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


# What Qwen's tokenizer splits text at.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
V5_TASKS = ("retrieval", "text-matching", "clustering", "classification")
V5_TARGETS = ["o_proj", "q_proj", "down_proj", "v_proj", "up_proj", "k_proj", "gate_proj"]


def qwen_tokenizer() -> Tokenizer:
    """Byte-level BPE like Qwen's: NFC, Qwen's split, no closing token; special tokens follow the vocabulary."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=380, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([f"Query: {' '.join(WORDS)} Document:"] * 2, trainer)
    tokenizer.add_special_tokens(QWEN_SPECIALS)
    return tokenizer


def v5_small_config(
    *, hidden: int, layers: int, heads: int, kv_heads: int, head_dim: int, intermediate: int, vocab: int
) -> dict[str, Any]:
    """config.json as jina-embeddings-v5-text-small has it."""
    return {
        "auto_map": {
            "AutoConfig": "configuration_jina_embeddings_v5.JinaEmbeddingsV5Config",
            "AutoModel": "modeling_jina_embeddings_v5.JinaEmbeddingsV5Model",
        },
        "architectures": ["JinaEmbeddingsV5Model"],
        "task_names": list(V5_TASKS),
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "max_position_embeddings": 32768,
        "max_window_layers": layers,
        "model_type": "jina_embeddings_v5",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 3500000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": vocab,
    }


V5_SMALL = {
    "hidden": 1024,
    "layers": 28,
    "heads": 16,
    "kv_heads": 8,
    "head_dim": 128,
    "intermediate": 3072,
    "vocab": 151936,
}
V5_TINY = {"hidden": 64, "layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 32, "intermediate": 96, "vocab": 512}


def v5_linears(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(out, in) of every linear layer, by module name."""
    hidden, ffn, width = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    shapes = {
        "self_attn.q_proj": (q, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, q),
        "mlp.gate_proj": (ffn, hidden),
        "mlp.up_proj": (ffn, hidden),
        "mlp.down_proj": (hidden, ffn),
    }
    return {
        f"layers.{i}.{name}": shape for i in range(config["num_hidden_layers"]) for name, shape in shapes.items()
    }


def v5_small_weights(config: dict[str, Any], seed: int = 0) -> Weights:
    """Random tensors under the published names, without prefix or head. Sharp attention makes positions matter."""
    rng = np.random.default_rng(seed)
    weights: Weights = {}

    def norm(name: str, size: int, centre: float = 1.0) -> None:
        weights[f"{name}.weight"] = rng.normal(centre, 0.1, size).astype(np.float32)

    weights["embed_tokens.weight"] = rng.standard_normal(
        (config["vocab_size"], config["hidden_size"]), dtype=np.float32
    )
    norm("norm", config["hidden_size"])
    for i in range(config["num_hidden_layers"]):
        norm(f"layers.{i}.input_layernorm", config["hidden_size"])
        norm(f"layers.{i}.post_attention_layernorm", config["hidden_size"])
        norm(f"layers.{i}.self_attn.q_norm", config["head_dim"], 1.5)
        norm(f"layers.{i}.self_attn.k_norm", config["head_dim"], 1.5)
    for name, (rows, columns) in v5_linears(config).items():
        weights[f"{name}.weight"] = rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(
            columns**-0.5
        )
    return weights


def v5_adapter_config(rank: int, **changes: Any) -> dict[str, Any]:
    """adapter_config.json as v5-small's retrieval adapter has it, at another rank."""
    return {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": "jinaai/jina-embeddings-v5-text-small",
        "bias": "none",
        "corda_config": None,
        "eva_config": None,
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": "gaussian",
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": rank,
        "lora_bias": False,
        "lora_dropout": 0.1,
        "megatron_config": None,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "revision": None,
        "target_modules": list(V5_TARGETS),
        "task_type": "FEATURE_EXTRACTION",
        "trainable_token_indices": None,
        "use_dora": False,
        "use_rslora": False,
        **changes,
    }


def v5_adapter_weights(config: dict[str, Any], rank: int, seed: int) -> Weights:
    """A and B of every linear layer under PEFT's names, large enough to turn every vector."""
    rng = np.random.default_rng(seed)
    weights: Weights = {}
    for name, (rows, columns) in v5_linears(config).items():
        prefix = f"base_model.model.{name}"
        weights[f"{prefix}.lora_A.weight"] = rng.normal(0, columns**-0.5, (rank, columns)).astype(np.float32)
        weights[f"{prefix}.lora_B.weight"] = rng.normal(0, 0.5 * rank**-0.5, (rows, rank)).astype(np.float32)
    return weights


def write_adapter(
    folder: Path, adapter_config: dict[str, Any], weights: Weights, dtype: mx.Dtype = mx.float32
) -> None:
    """Write adapter_config.json and adapter_model.safetensors."""
    write_json(folder / "adapter_config.json", adapter_config)
    tensors = {name: mx.array(value).astype(dtype) for name, value in weights.items()}
    mx.save_safetensors(str(folder / "adapter_model.safetensors"), tensors, metadata={"format": "pt"})


def v5_small(
    folder: Path,
    shape: dict[str, int] = V5_TINY,
    *,
    rank: int = 4,
    tasks: Sequence[str] = V5_TASKS,
    dtype: mx.Dtype = mx.float32,
) -> Path:
    """A jina-embeddings-v5-text-small repository, tiny by default: base weights, adapters, prompts."""
    config = v5_small_config(**shape)
    write_folder(folder, config, v5_small_weights(config), qwen_tokenizer(), dtype)
    for seed, task in enumerate(tasks, 1):
        weights = v5_adapter_weights(config, rank, seed)
        write_adapter(folder / "adapters" / task, v5_adapter_config(rank), weights, dtype)
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {"sentence_transformers": "5.1.2", "transformers": "4.57.0", "pytorch": "2.8.0"},
            "prompts": {"query": "Query: ", "document": "Document: "},
            "default_prompt_name": "document",
            "similarity_fn_name": "cosine",
        },
    )
    return folder


def read_json(path: Path) -> Any:
    """One JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
