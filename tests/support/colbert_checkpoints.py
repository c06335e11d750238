"""jina-colbert-v2 and jina-colbert-v1-en with random weights, in the layout of their repositories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from tokenizers import Tokenizer

from mlx_jina.models.base import EncoderModel
from mlx_jina.weights import colbert
from tests.support import bare, checkpoints, v3_checkpoints
from tests.support.checkpoints import Weights

MARKERS = ("[QueryMarker]", "[DocumentMarker]")
SHAPE = {"hidden": 64, "layers": 2, "heads": 2, "intermediate": 96}
PUBLISHED = {
    "v1": {"hidden": 768, "layers": 12, "heads": 12, "intermediate": 3072},
    "v2": {"hidden": 1024, "layers": 24, "heads": 16, "intermediate": 4096},
}
"""Of the encoders, but for their vocabularies."""
DIM = 128
V2_BASE = 10_000.0


def metadata(name: str, **changes: Any) -> dict[str, Any]:
    """artifact.metadata, of which ColBERT's code saves many more keys."""
    own: dict[str, Any] = {
        "v1": {
            "query_token_id": "[unused0]",
            "doc_token_id": "[unused1]",
            "doc_maxlen": 512,
            "attend_to_mask_tokens": False,
        },
        "v2": {
            "query_token_id": MARKERS[0],
            "doc_token_id": MARKERS[1],
            "doc_maxlen": 8192,
            "attend_to_mask_tokens": True,
        },
    }[name]
    shared = {"query_maxlen": 32, "dim": DIM, "similarity": "cosine", "mask_punctuation": True, "nbits": 2}
    return {**shared, **own, **changes}


def tokenizer(name: str) -> Tokenizer:
    """v2's is XLM-RoBERTa's with two markers behind `<mask>`."""
    if name == "v1":
        return checkpoints.wordpiece_tokenizer(320)
    fast = v3_checkpoints.tokenizer()
    fast.add_special_tokens(list(MARKERS))
    return fast


def config(name: str, shape: dict[str, int] = SHAPE) -> dict[str, Any]:
    """config.json."""
    shape = {"vocab": tokenizer(name).get_vocab_size(), **shape}
    if name == "v1":
        made = checkpoints.jina_bert_config("original", **shape)
    else:
        made = v3_checkpoints.original_config(4, **shape)
        # The base of the rotary angles is the default of the repository's code.
        for key in [*(key for key in made if "lora" in key), *("task_instructions", "rotary_emb_base")]:
            del made[key]
        del made["matryoshka_dimensions"], made["load_trained_adapters"]
    return {**made, "architectures": ["HF_ColBERT"]}


def weights(name: str, shape: dict[str, int] = SHAPE, seed: int = 0) -> tuple[Weights, Weights]:
    """The encoder's tensors under the repository's names without their prefix, and the projection."""
    settings, rng = config(name, shape), np.random.default_rng(seed + 100)
    if name == "v1":
        encoder = checkpoints.jina_bert_weights("original", settings, seed)
    else:
        encoder = v3_checkpoints.weights(settings, seed)
    width = shape["hidden"]
    projection = rng.normal(0, width**-0.5, (DIM, width)).astype(np.float32)
    return encoder, {"linear.weight": projection}


def write(
    folder: Path, name: str, shape: dict[str, int] = SHAPE, *, dtype: mx.Dtype = mx.float32, **changes: Any
) -> Path:
    """The repository of "v1" or "v2", tiny by default, with these changes to artifact.metadata."""
    encoder, projection = weights(name, shape)
    prefix = "bert." if name == "v1" else "roberta."
    tensors = {f"{prefix}{key}": value for key, value in encoder.items()} | projection
    checkpoints.write_folder(folder, config(name, shape), tensors, tokenizer(name), dtype)
    checkpoints.write_json(folder / "artifact.metadata", metadata(name, **changes))
    return folder


def v1(folder: Path) -> Path:
    """The repository jinaai/jina-colbert-v1-en."""
    return write(folder, "v1")


def v2(folder: Path) -> Path:
    """The repository jinaai/jina-colbert-v2."""
    return write(folder, "v2")


def native_v2(folder: Path) -> Path:
    """v2 as transformers and sentence-transformers read it without code of a repository, punctuation kept."""
    encoder, projection = weights("v2")
    made: Weights = {}
    for key, tensor in encoder.items():
        made |= v3_checkpoints._native(key, tensor)
    settings = v3_checkpoints.native_config(**SHAPE, vocab=tokenizer("v2").get_vocab_size())
    settings |= {"architectures": ["HF_ColBERT"]}
    settings["rope_parameters"] = {"rope_theta": V2_BASE, "rope_type": "default"}
    checkpoints.write_folder(folder, settings, {**made, **projection}, tokenizer("v2"))
    checkpoints.write_json(folder / "artifact.metadata", metadata("v2", mask_punctuation=False))
    names = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>"}
    special = {f"{key}_token": token for key, token in names.items()} | {"mask_token": "<mask>"}
    checkpoints.write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    )
    return folder


def built(name: str, shape: dict[str, int], dtype: mx.Dtype = mx.float32) -> EncoderModel:
    """The model of "v1" or "v2" without its encoder."""
    encoder, projection = weights(name, shape)
    tensors = {key: mx.array(x) for key, x in (encoder | projection).items() if not key.startswith("pooler.")}
    return bare.build(*colbert.translate(Path(), config(name, shape), tensors, metadata(name)), dtype)
