"""The models to measure: `pocket`, and published shapes and layouts with random weights.

Values of weights matter to speed only where a head with ALiBi skips keys in a long text. Models are made once, in
`.cache/bench`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mlx_jina import device
from mlx_jina.choices import Dtype
from mlx_jina.cpu import blas
from mlx_jina.text.tokenizer import Tokenizer
from mlx_jina.weights import hub

blas.open_fast()
import mlx.core as mx  # noqa: E402
from tokenizers import (  # noqa: E402
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers import Tokenizer as FastTokenizer  # noqa: E402

from bench import texts  # noqa: E402
from mlx_jina.weights import checkpoint, quantize, safetensors_file  # noqa: E402
from mlx_jina.weights import folder as reader  # noqa: E402
from mlx_jina.weights.gguf import tokenizer as gguf_tokenizer  # noqa: E402
from tests.support import checkpoints, decoder_checkpoints, reranker_checkpoints  # noqa: E402

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "bench"
QUICK_LAYERS = 2
# Makes v2-small's scores spread about as far as those of `pocket`'s trained heads in their geometric mean.
SHARPER = 5
# Qwen's vocabulary, without special tokens.
QWEN_TOKENS = 151_643


@dataclass(frozen=True)
class Model:
    """A folder to load, and facts about the model."""

    name: str
    family: str
    layers: int
    half: Dtype
    folder: Path

    @property
    def weights(self) -> str:
        """Real or random, in words."""
        return "real" if self.name == "pocket" else "random"

    def precision(self) -> Dtype:
        """The precision that this backend computes in by default: half precision on a GPU, else float32."""
        return self.half if device.on_gpu() else "float32"

    def tokenizer(self) -> Tokenizer:
        """The folder's tokenizer."""
        return reader.read(self.folder).tokenizer

    def config(self) -> dict[str, Any]:
        """The folder's config.json."""
        return checkpoints.read_config(self.folder)


def names() -> tuple[str, ...]:
    """Names of all models."""
    return ("pocket", *_MAKERS)


def find(name: str, *, quick: bool = False) -> Model:
    """A model, made at its first use. `quick` keeps the widths and leaves out layers."""
    if name == "pocket":
        return Model(name, "jina_bert", 4, "float16", hub.embedded(name))
    family, layers, half, make = _MAKERS[name]
    layers = QUICK_LAYERS if quick else layers
    folder = _made(f"{name}-{layers}", lambda unfinished: make(unfinished, layers))
    return Model(f"{name}, {layers} layers" if quick else name, family, layers, half, folder)


def reranker(layers: int) -> Path:
    """The shape of Qwen3-Reranker-0.6B with random weights, as sequence classification, made at its first use."""
    return _made(f"qwen3-reranker-{layers}", partial(qwen3_reranker, layers=layers))


def reranker_v1() -> Path:
    """The shape of jina-reranker-v1-tiny-en with random weights, made at its first use."""
    return _made("jina-reranker-v1-tiny-en", reranker_v1_tiny)


def _made(name: str, make: Callable[[Path], None]) -> Path:
    folder = CACHE / name
    if not folder.is_dir():
        unfinished = CACHE / f"{name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        make(unfinished)
        os.replace(unfinished, folder)
    return folder


def tensors(folder: Path) -> dict[str, mx.array]:
    """A folder's tensors, unpacked and not yet read."""
    files = reader.read(folder)
    model = checkpoint.build(folder, files.config, files.tensors)
    return quantize.dequantize(files.tensors, checkpoint.packings(files, model), mx.float32)


def tokenizer_of(folder: Path) -> Tokenizer:
    """The tokenizer of a folder of any kind."""
    return reader.read(folder, encoder=False).tokenizer


def float32_tensors(folder: Path) -> checkpoints.Weights:
    """`tensors` as NumPy arrays, for implementations that share nothing else with ours."""
    return {name: np.array(x.astype(mx.float32)) for name, x in tensors(folder).items()}


def v2_small(folder: Path, layers: int) -> None:
    """jina-embeddings-v2-small-en's shape, with the tokenizer of `pocket`, which was trained on English."""
    config = checkpoints.jina_bert_config(
        "original", hidden=512, layers=layers, heads=8, intermediate=2048, vocab=30528
    )
    weights = checkpoints.jina_bert_weights("original", config, std=0.02)
    for name in weights:
        if name.endswith((".query.weight", ".key.weight")):
            weights[name] *= SHARPER
    tokenizer = FastTokenizer.from_file(str(hub.embedded("pocket") / "tokenizer.json"))
    checkpoints.write_folder(folder, config, weights, tokenizer, mx.float16)


def v5_nano(folder: Path, layers: int) -> None:
    """jina-embeddings-v5-text-nano's shape with one task merged."""
    config = decoder_checkpoints.nano_config(**{**decoder_checkpoints.NANO, "layers": layers})
    config |= {"model_type": "eurobert", "architectures": ["EuroBertModel"]}
    weights = decoder_checkpoints.nano_weights(config)
    checkpoints.write_folder(folder, config, weights, decoder_checkpoints.llama_tokenizer(), mx.bfloat16)
    _last_token_modules(folder, "<|end_of_text|>")


def v5_small(folder: Path, layers: int) -> None:
    """jina-embeddings-v5-text-small's shape with one task merged."""
    c = checkpoints.v5_small_config(**{**checkpoints.V5_SMALL, "layers": layers})
    _qwen3(folder, c | {"model_type": "qwen3", "architectures": ["Qwen3Model"]}, "")
    qwen_tokenizer().save(str(folder / "tokenizer.json"))
    _last_token_modules(folder, "<|endoftext|>")


def qwen3_reranker(folder: Path, layers: int) -> None:
    """Qwen3-Reranker-0.6B's shape, with one row as its head."""
    c = checkpoints.v5_small_config(**{**checkpoints.V5_SMALL, "layers": layers})
    c |= {"model_type": "qwen3", "architectures": ["Qwen3ForSequenceClassification"], "rope_theta": 1000000}
    c |= {"max_position_embeddings": 40960, "num_labels": 1}
    del c["auto_map"], c["task_names"]
    tokenizer = qwen_tokenizer()
    tokenizer.add_tokens([AddedToken(token, special=False) for token in ("<think>", "</think>")])
    pad = {"pad_token_id": tokenizer.token_to_id("<|endoftext|>")}
    _qwen3(folder, c | pad, "model.", {"score.weight": (1, c["hidden_size"])})
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"pad_token": "<|endoftext|>", "padding_side": "left", "model_max_length": 8192}
    checkpoints.write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **settings}
    )


def reranker_v1_tiny(folder: Path) -> None:
    """jina-reranker-v1-tiny-en's shape, with a tokenizer like RoBERTa's, learned from the manual."""
    config = reranker_checkpoints.v1_config(hidden=384, layers=4, heads=12, intermediate=1536, vocab=61_056)
    tokenizer = FastTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=20_000, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(texts.words())], trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    reranker_checkpoints.v1(folder, mx.bfloat16, config, tokenizer)


def _qwen3(
    folder: Path, c: dict[str, Any], prefix: str, more: Mapping[str, tuple[int, ...]] | None = None
) -> None:
    """config.json, and random weights in bfloat16, written tensor by tensor."""
    hidden, head = c["hidden_size"], c["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (c["vocab_size"], hidden),
        "norm.weight": (hidden,),
    }
    for i in range(c["num_hidden_layers"]):
        own = f"layers.{i}"
        shapes |= {f"{own}.{norm}.weight": (hidden,) for norm in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{own}.self_attn.{norm}.weight": (head,) for norm in ("q_norm", "k_norm")}
    shapes |= {f"{name}.weight": shape for name, shape in checkpoints.v5_linears(c).items()}

    def make(name: str, shape: tuple[int, ...]) -> dict[str, mx.array]:
        if len(shape) == 1:
            return {name: mx.random.normal(shape, mx.bfloat16, loc=1, scale=0.1)}
        return {name: mx.random.normal(shape, mx.bfloat16, scale=shape[-1] ** -0.5)}

    outputs = [
        safetensors_file.Output({name: (shape, mx.bfloat16)}, partial(make, name, shape))
        for name, shape in (
            {f"{prefix}{name}": shape for name, shape in shapes.items()} | dict(more or {})
        ).items()
    ]
    safetensors_file.write(folder / "model.safetensors", outputs)
    checkpoints.write_json(folder / "config.json", c)


_MAKERS: dict[str, tuple[str, int, Dtype, Callable[[Path, int], None]]] = {
    "v2-small": ("jina_bert", 4, "float16", v2_small),
    "v5-nano": ("eurobert", 12, "bfloat16", v5_nano),
    "v5-small": ("qwen3", 28, "bfloat16", v5_small),
}


def _last_token_modules(folder: Path, pad: str) -> None:
    """Write the modules that sentence-transformers reads: transformer, last token, unit length."""
    kinds = ("Transformer", "Pooling", "Normalize")
    rows = [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{kind}" if i else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(kinds)
    ]
    checkpoints.write_json(folder / "modules.json", rows)
    width = checkpoints.read_config(folder)["hidden_size"]
    pooling = {
        "word_embedding_dimension": width,
        "pooling_mode_lasttoken": True,
        "pooling_mode_mean_tokens": False,
    }
    checkpoints.write_json(folder / "1_Pooling" / "config.json", pooling)
    checkpoints.write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": pad, "model_max_length": 8192},
    )


def qwen_tokenizer() -> FastTokenizer:
    """A tokenizer with Qwen's rules and number of tokens: merges learned from the manual, then random ones.

    Texts become about as many tokens as with Qwen's own tokenizer, and files are as large.
    """
    tokenizer = FastTokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(gguf_tokenizer.QWEN_SPLIT), behavior="isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=20_000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([" ".join(texts.words())], trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    tokenizer.model = models.BPE(*_padded(learned["vocab"], [(a, b) for a, b in learned["merges"]]))
    tokenizer.add_special_tokens(checkpoints.QWEN_SPECIALS)
    return tokenizer


def _padded(
    vocab: dict[str, int], merges: Sequence[tuple[str, str]]
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    rng = random.Random(0)
    tokens, pairs, known = sorted(vocab, key=vocab.__getitem__), list(merges), set(vocab)
    while len(tokens) < QWEN_TOKENS:
        left, right = rng.choice(tokens), rng.choice(tokens)
        if len(left + right) <= 14 and left + right not in known:
            known.add(left + right)
            tokens.append(left + right)
            pairs.append((left, right))
    return {token: i for i, token in enumerate(tokens)}, pairs
