"""Rerankers as they are published, turned into the names and settings of models/rerankers.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import mlx.core as mx

from mlx_jina.errors import CheckpointError, shown
from mlx_jina.models.listwise import PROJECTOR_SIZES, ListwiseReranker
from mlx_jina.models.rerankers import SCORE_ROWS, JinaBertReranker, Qwen3Reranker
from mlx_jina.weights import folder, jina_v3, kinds, modules, projector, quantize, safetensors_file
from mlx_jina.weights.checkpoint import Checkpoint

# Of a layer: stock XLM-RoBERTa's names, as BAAI's rerankers have them, and those of models/xlm_roberta.py.
_LAYER = {
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.o_proj",
    "attention.output.LayerNorm": "post_attention_layernorm",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "output.LayerNorm": "post_mlp_layernorm",
}
_FROM_STOCK = (
    (r"^roberta\.", ""),
    (r"^encoder\.layer\.", "layers."),
    *((rf"^(layers\.\d+)\.{re.escape(stock)}\.", rf"\1.{own}.") for stock, own in _LAYER.items()),
)
# With dots at the end or without, as in the names of layers.
_TO_STOCK = tuple(
    (rf"^layers\.(\d+)\.{re.escape(own)}", rf"encoder.layer.\1.{stock}") for stock, own in _LAYER.items()
)
# What stands in front of a score. So few numbers are no memory to save, and every score passes through them.
HEADS = ("classifier.", "score", "projector.", "pooler.")
# The two answers of Qwen3-Reranker, and its head's rows as labels.
NO, YES = "no", "yes"
_LABELS = {"0": NO, "1": YES}


def translate(files: Checkpoint, name: str) -> Checkpoint:
    """A reranker's checkpoint as models/rerankers.py takes it; `name` is what the user called it.

    Raises CheckpointError for a checkpoint that is no reranker, or none that runs here.
    """
    kinds.check_refused(files.path, name)
    if "colbert" in files.config:
        kinds.check(files.path, "multi-vector", "reranker")
    readers: Mapping[str, Callable[[Checkpoint, str], Checkpoint]] = {
        "bert": _jina_bert,
        "xlm-roberta": _xlm_roberta,
        "qwen3": _qwen3,
    }
    kind = str(files.config.get("model_type"))
    if kind in (Qwen3Reranker.architecture, ListwiseReranker.architecture):
        # A .gguf, whose reader knows where the rows are.
        return files
    if kind not in readers:
        raise CheckpointError(
            f"{files.path}: model_type {kind!r} is no reranker that mlx-jina runs (JinaBERT, XLM-RoBERTa, Qwen3)"
        )
    return readers[kind](files, name)


def published_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a folder with a model of models/rerankers.py or listwise.py, which `translate` takes."""
    kind = config["model_type"]
    kept = {key: x for key, x in config.items() if key not in ("auto_map", SCORE_ROWS, PROJECTOR_SIZES)}
    if kind == Qwen3Reranker.architecture:
        labels = {"num_labels": 1} if config[SCORE_ROWS] == 1 else {"num_labels": 2, "id2label": _LABELS}
        return {**kept, **labels, "model_type": "qwen3", "architectures": ["Qwen3ForSequenceClassification"]}
    if kind == ListwiseReranker.architecture:
        return {**kept, "model_type": "qwen3", "architectures": [projector.ARCHITECTURE]}
    if kind == JinaBertReranker.architecture:
        return {**kept, "model_type": "bert"}
    return kept


def published_name(kind: str, name: str) -> str:
    """The name of a tensor, or of its layer, in such a folder: as transformers has it, where it has the model."""
    if name.startswith(HEADS):
        return name
    if kind in (Qwen3Reranker.architecture, ListwiseReranker.architecture):
        return f"model.{name}"
    if kind == JinaBertReranker.architecture:
        return f"bert.{name}"
    for ours, theirs in _TO_STOCK:
        name = re.sub(ours, theirs, name)
    return f"roberta.{name}"


def _with_kind(files: Checkpoint, kind: str, tensors: dict[str, mx.array], **settings: Any) -> Checkpoint:
    return replace(files, config={**files.config, **settings, "model_type": kind}, tensors=tensors)


def _no_head(files: Checkpoint, head: str) -> CheckpointError:
    return CheckpointError(f"{files.path} has no {head} and is no reranker; mlx_jina.load opens embedding models")


def _jina_bert(files: Checkpoint, name: str) -> Checkpoint:
    for head in ("classifier.weight", "pooler.dense.weight"):
        if head not in files.tensors:
            raise _no_head(files, head)
    return _with_kind(files, JinaBertReranker.architecture, files.tensors)


def _xlm_roberta(files: Checkpoint, name: str) -> Checkpoint:
    if "classifier.out_proj.weight" not in files.tensors:
        raise _no_head(files, "classifier.out_proj.weight")
    if any(".mixer.Wqkv." in tensor for tensor in files.tensors):
        tensors, _ = jina_v3.translate(files.path, {}, files.tensors)
    else:
        tensors = {_renamed(tensor): x for tensor, x in files.tensors.items()}
    return replace(files, tensors=tensors)


def _renamed(name: str) -> str:
    for pattern, replacement in _FROM_STOCK:
        name = re.sub(pattern, replacement, name)
    return name


def _qwen3(files: Checkpoint, name: str) -> Checkpoint:
    architectures = files.config.get("architectures") or []
    tensors = {tensor: x for tensor, x in files.tensors.items() if not tensor.startswith("lm_head.")}
    if any(tensor.startswith("projector.") for tensor in tensors):
        sizes = projector.sizes(files.path, {tensor: x.shape for tensor, x in tensors.items()})
        return _with_kind(files, ListwiseReranker.architecture, tensors, **{PROJECTOR_SIZES: sizes})
    projector.check_absence(files.path, files.tokenizer, files.config)
    if "score.weight" in tensors:
        # "yes" less "no", as sequence classification with one label has it, or both as it has two labels.
        rows, labels = tensors["score.weight"].shape[0], files.config.get("id2label")
        if rows != 1 and (rows != 2 or labels != _LABELS):
            raise CheckpointError(
                f"{files.path}: score.weight has {rows} rows, for the labels {shown(labels)}; a reranker's has "
                "one, or two for no and yes"
            )
        return _with_kind(files, Qwen3Reranker.architecture, tensors, **{SCORE_ROWS: rows})
    # Of a path only its last part is a model's name.
    called = name.rstrip("/").rpartition("/")[2], files.path.name
    if "Qwen3ForCausalLM" not in architectures or any("embed" in each.lower() for each in called):
        raise _no_head(files, "language head (architectures " + ", ".join(map(str, architectures)) + ")")
    if modules.needed_files(files.path):
        # Qwen3-Embedding's tensors and architecture are a reranker's.
        raise _no_head(files, "use for a language head, for modules.json has a pooling,")
    tensors["score.weight"] = _answer_rows(files)
    return _with_kind(files, Qwen3Reranker.architecture, tensors, **{SCORE_ROWS: 2})


def answer_ids(files: Checkpoint) -> tuple[int, int]:
    """The tokens of "no" and "yes". Raises CheckpointError unless each is one token."""
    found = []
    for answer in (NO, YES):
        ids = files.tokenizer.fast.encode(answer, add_special_tokens=False).ids
        if len(ids) != 1:
            raise CheckpointError(f"{files.path}: its tokenizer has no token for {answer!r}, and is not Qwen3's")
        found.append(ids[0])
    return found[0], found[1]


def _rows(files: Checkpoint, name: str, ids: tuple[int, int]) -> mx.array:
    """Rows of a tensor. An untied language head, which is used for nothing else, is not read whole."""
    paths = folder.weight_files(files.path) if name.startswith("lm_head.") else []
    found = safetensors_file.rows(paths, name, ids)
    return files.tensors[name][mx.array(ids)] if found is None else found


def _answer_rows(files: Checkpoint) -> mx.array:
    """The rows of "no" and "yes" in the language head, which may share the embedding's weights: (2, D)."""
    tied = files.config.get("tie_word_embeddings", "lm_head.weight" not in files.tensors)
    head = "embed_tokens" if tied else "lm_head"
    if f"{head}.weight" not in files.tensors:
        raise CheckpointError(
            f"{files.path}: config.json has tie_word_embeddings {files.config.get('tie_word_embeddings')!r}, but "
            f"there is no {head}.weight"
        )
    parts = {
        name: _rows(files, name, answer_ids(files))
        for part in quantize.PARTS
        if (name := f"{head}.{part}") in files.tensors
    }
    packings = quantize.packings(files.config, parts, {head: (2, files.config["hidden_size"])})
    return quantize.dequantize(parts, packings, mx.float32)[f"{head}.weight"]
