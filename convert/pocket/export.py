"""The trained student as an MLX folder of 8-bit weights, and the way back for checking."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from convert.pocket import student

BITS, GROUP = 8, 64


def config(vocab: int) -> dict[str, Any]:
    return {
        "architectures": ["JinaBertForMaskedLM"],
        "model_type": "bert",
        "license": "apache-2.0",
        "vocab_size": vocab,
        "hidden_size": student.HIDDEN,
        "num_hidden_layers": student.LAYERS,
        "num_attention_heads": student.HEADS,
        "intermediate_size": student.INNER,
        "hidden_act": "gelu",
        "feed_forward_type": "geglu",
        "emb_pooler": "mean",
        "position_embedding_type": "alibi",
        "max_position_embeddings": 8192,
        "model_max_length": 8192,
        "type_vocab_size": 2,
        "pad_token_id": 0,
        "layer_norm_eps": student.EPS,
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
        "torch_dtype": "float16",
        "matryoshka_dims": [64, 128, 256],
        "quantization": {"group_size": GROUP, "bits": BITS},
    }


TOKENIZER = {
    "tokenizer_class": "BertTokenizer",
    "model_max_length": 8192,
    "do_lower_case": True,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
MODULES = [
    {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
    for i, (path, kind) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")))
]
POOLING = {
    "word_embedding_dimension": student.HIDDEN,
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": True,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False,
}


def quantised(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and "token_type" not in name


def write_weights(weights: Path, out: Path) -> None:
    """Every matrix but the token types becomes (weight, scales, biases); the rest is float16."""
    import mlx.core as mx

    tensors = {}
    loaded: Any = mx.load(str(weights))
    for name, value in loaded.items():
        half = value.astype(mx.float16)
        if quantised(name, value.shape):
            stem = name.removesuffix(".weight")
            tensors[name], tensors[f"{stem}.scales"], tensors[f"{stem}.biases"] = mx.quantize(half, GROUP, BITS)
        else:
            tensors[name] = half
    mx.save_safetensors(str(out), tensors, metadata={"format": "mlx"})


def read_weights(path: Path) -> dict[str, Any]:
    """Name -> float32 numpy array of an exported file, matrices restored from 8 bits."""
    import mlx.core as mx
    import numpy as np

    tensors: Any = mx.load(str(path))
    out = {}
    for name, value in tensors.items():
        stem = name.removesuffix(".weight")
        if f"{stem}.scales" in tensors and name.endswith(".weight"):
            value = mx.dequantize(value, tensors[f"{stem}.scales"], tensors[f"{stem}.biases"], GROUP, BITS)
        if not name.endswith((".scales", ".biases")):
            out[name] = np.array(value.astype(mx.float32))
    return out


def dump(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def export(weights: Path, tokenizer: Path, out: Path) -> None:
    """Write the folder beside `out`, then swap it in, so that no reader ever sees half of it.

    The model card, README.md, is written by hand and carried over.
    """
    new, old = out.with_name(out.name + ".new"), out.with_name(out.name + ".old")
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    new.mkdir(parents=True)
    write_weights(weights, new / "model.safetensors")
    shutil.copyfile(tokenizer, new / "tokenizer.json")
    vocab = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["vocab"]
    dump(new / "config.json", config(len(vocab)))
    dump(new / "tokenizer_config.json", TOKENIZER)
    dump(new / "modules.json", MODULES)
    dump(new / "1_Pooling/config.json", POOLING)
    if (out / "README.md").exists():
        shutil.copyfile(out / "README.md", new / "README.md")
    if out.exists():
        os.rename(out, old)
    os.rename(new, out)
    shutil.rmtree(old, ignore_errors=True)
