"""Rerankers in .gguf files: which files are some, and where their heads are.

jina-reranker-v3's projector lies beside its .gguf files, which are plain decoders. Of Qwen3-Reranker, llama.cpp's
converter writes the rows of "yes" and "no" as `cls.output` if the folder's name or its README says that it is a
reranker. Other files have the rows in the language head, or in the embedding, which is tied to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from gguf import PoolingType

from mlx_jina.errors import CheckpointError
from mlx_jina.models.listwise import PROJECTOR_SIZES, ListwiseReranker
from mlx_jina.models.rerankers import SCORE_ROWS, Qwen3Reranker
from mlx_jina.text import pairs
from mlx_jina.text.tokenizer import Tokenizer
from mlx_jina.weights import kinds, projector
from mlx_jina.weights.gguf import blocks as gguf_blocks
from mlx_jina.weights.gguf.file import GGUF
from mlx_jina.weights.source import Source, Weight

QWEN3, JINA_BERT = "qwen3", "jina-bert-v2"
# A key of every file that mlx-jina writes.
OURS = "mlx-jina.config"
_TEMPLATE = "tokenizer.chat_template.rerank"
_HEAD, _LABELS = "cls.output.weight", f"{QWEN3}.classifier.output_labels"


def refuse(file: GGUF) -> None:
    """Refuse a reranker, which would be read as an encoder. Raises CheckpointError."""
    if (reason := _reason(file)) is not None:
        check(file)
        raise kinds.reranker_error(file.path, reason)


def check(file: GGUF) -> None:
    """Refuse the rerankers that are read from folders only. Raises CheckpointError."""
    architecture = file.metadata.get("general.architecture")
    if architecture == JINA_BERT and _reason(file) is not None:
        raise CheckpointError(
            f"{file.path} is a reranker without its pooler, which llama.cpp's converter leaves out: nothing can "
            "compute its scores. Load the safetensors of the repository that it was made from"
        )
    if architecture != QWEN3:
        raise CheckpointError(
            f"{file.path}: of rerankers in .gguf only Qwen3's are read, and this is {architecture!r}; load the "
            "safetensors of the repository that it was made from"
        )


def _reason(file: GGUF) -> str | None:
    """What shows that a file is a reranker, or None."""
    architecture = file.metadata.get("general.architecture")
    if head := next((name for name in file.entries if name.startswith("cls.")), None):
        return f"it has the tensor {head}"
    if file.metadata.get(f"{architecture}.pooling_type") == int(PoolingType.RANK):
        return f"{architecture}.pooling_type is {int(PoolingType.RANK)}"
    for key in (f"{architecture}.classifier.output_labels", _TEMPLATE):
        if key in file.metadata:
            return f"it has {key}"
    name = str(file.metadata.get("general.name", ""))
    return f"general.name is {name!r}" if re.search("rerank", name, re.IGNORECASE) else None


def with_head(
    file: GGUF, tokenizer: Tokenizer, config: Mapping[str, Any], weights: Mapping[str, Weight]
) -> tuple[dict[str, Any], dict[str, Weight]]:
    """The settings and the tensors of a reranker, for those of Qwen3. Raises CheckpointError."""
    if projector.is_beside(file.path.parent) and _HEAD not in file.entries:
        return _with_projector(file.path.parent, config, weights)
    projector.check_absence(file.path, tokenizer, config)
    return _with_answers(file, tokenizer, config, weights)


def _with_projector(
    folder: Path, config: Mapping[str, Any], weights: Mapping[str, Weight]
) -> tuple[dict[str, Any], dict[str, Weight]]:
    tensors = projector.read(folder)
    sizes = projector.sizes(folder, {name: x.shape for name, x in tensors.items()})
    settings = {**config, "model_type": ListwiseReranker.architecture, PROJECTOR_SIZES: sizes}
    found = {name: Weight(x.shape, x.dtype, partial(tensors.__getitem__, name)) for name, x in tensors.items()}
    return settings, {**weights, **found}


def _with_answers(
    file: GGUF, tokenizer: Tokenizer, config: Mapping[str, Any], weights: Mapping[str, Weight]
) -> tuple[dict[str, Any], dict[str, Weight]]:
    if _HEAD in file.entries:
        labels = [str(label) for label in file.get(_LABELS, list, ["yes", "no"])]
        if sorted(labels) != ["no", "yes"] or file.entries[_HEAD].shape[0] != len(labels):
            raise CheckpointError(f"{file.path}: {_HEAD} should have rows for 'yes' and 'no', found {labels}")
        name, rows = _HEAD, [labels.index("no"), labels.index("yes")]
    else:
        name = "output.weight" if "output.weight" in file.entries else "token_embd.weight"
        if name == "token_embd.weight" and OURS in file.metadata:
            raise CheckpointError(
                f"{file.path} was written by mlx-jina as an embedding model, without a language head"
            )
        pooling = file.metadata.get(f"{QWEN3}.pooling_type", int(PoolingType.NONE))
        if pooling not in (int(PoolingType.NONE), int(PoolingType.RANK)):
            # Of a Qwen3-Embedding or a v5, every tensor is as in a reranker that lost its head.
            raise CheckpointError(
                f"{file.path} is an embedding model, and no reranker: its {QWEN3}.pooling_type is {pooling}, and "
                "it has no cls.output.weight; mlx_jina.load opens it"
            )
        rows = [_token(file, tokenizer, answer) for answer in ("no", "yes")]
    width = file.entries[name].shape[1]

    def make() -> mx.array:
        raw = file.raw(name)
        raw = raw.reshape(file.entries[name].shape[0], -1)[rows]
        return gguf_blocks.decode(file, name, np.ascontiguousarray(raw), (2, width)).astype(mx.float32)

    settings = {**config, "model_type": Qwen3Reranker.architecture, SCORE_ROWS: 2}
    return settings, {**weights, "score.weight": Weight((2, width), mx.float32, make)}


def for_llama(source: Source) -> tuple[dict[str, Any], Source]:
    """What a .gguf of Qwen3-Reranker has besides a decoder's keys, and the source with llama.cpp's head.

    Its rows are those of "yes" and "no". Where only their difference is known, a row of zeros stands for "no":
    the softmax of both is the same.
    """
    score = source.weights["score.weight"]
    width = score.shape[1]

    def make() -> mx.array:
        rows = score.make().astype(mx.float32)
        return rows[::-1] if score.shape[0] == 2 else mx.concatenate([rows, mx.zeros((1, width))])

    template = f"{pairs.QWEN_PREFIX}{pairs.QWEN_HEAD} {{}}{pairs.QWEN_SUFFIX}"
    filled = template.format(pairs.QWEN_INSTRUCTION, "{query}", "{document}")
    keys = {"tokenizer.chat_templates": ["rerank"], _TEMPLATE: filled}
    weights = {**source.weights, "score.weight": Weight((2, width), mx.float32, make)}
    return keys, replace(source, weights=weights)


def _token(file: GGUF, tokenizer: Tokenizer, answer: str) -> int:
    ids = tokenizer.fast.encode(answer, add_special_tokens=False).ids
    if len(ids) != 1:
        raise CheckpointError(f"{file.path}: its tokenizer has no token for {answer!r}, and is not Qwen3's")
    return int(ids[0])
