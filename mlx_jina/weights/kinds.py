"""What a model is for, told before it is loaded: one vector for a text, one for each token, or scores of pairs.

Some rerankers have an encoder's architecture and the same tensors, and would give vectors of no worth.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mlx_jina import catalog
from mlx_jina.catalog import Kind
from mlx_jina.errors import CheckpointError
from mlx_jina.weights import colbert, folder, hub, json_file, projector

# What a model is, and the function of `mlx_jina` that opens it.
_WORDS: Mapping[Kind, tuple[str, str]] = {
    "embedding": ("an embedding model, with one vector for each text", "load"),
    "multi-vector": ("a late-interaction model (ColBERT), with a vector for every token", "load_multi_vector"),
    "reranker": ("a reranker", "load_reranker"),
}
_RERANKER = re.compile("rerank", re.IGNORECASE)
# A model card says so in its first heading or in its header.
_CARD = re.compile(r"^(# .*rerank.*|pipeline_tag: *text-ranking *)$", re.IGNORECASE | re.MULTILINE)
_HEADS = ("classifier.", "score.weight", "projector.")
# Files of sentence-transformers, with what its rerankers have in them.
_MARKS = (("config_sentence_transformers.json", '"CrossEncoder"'), ("modules.json", "LogitScore"))


class RerankerError(CheckpointError):
    """The files are a reranker's, and were opened as another model's."""


def of(path: Path, name: str = "") -> Kind:
    """The kind of the model in a folder or a .gguf. Raises CheckpointError for a folder that cannot be read.

    Of a .gguf, only reading it tells whether it is a reranker.
    """
    if hub.holds_gguf(path):
        return "embedding"
    config = folder.read_config(path)
    if colbert.is_one(path, config):
        return "multi-vector"
    return "reranker" if _of_folder(path, name, config) is not None else "embedding"


def check(what: str | Path, kind: Kind, wanted: Kind, also: Collection[Kind] = ()) -> None:
    """Refuse a model that another function opens; `also` is what else the model gives. Raises CheckpointError."""
    if kind != wanted and wanted not in also:
        words, function = _WORDS[kind]
        error = RerankerError if kind == "reranker" else CheckpointError
        raise error(f"{what} is {words}: mlx_jina.{function} opens it")


def check_name(name: str, wanted: Kind) -> None:
    """Refuse a model of the catalog that another function opens, or none, before it is downloaded."""
    # A folder that is called like a known model may have something else in it.
    if hub.exists(Path(os.path.expanduser(name))):
        return
    if (reason := catalog.refusal(name)) is not None:
        raise CheckpointError(reason)
    entry = catalog.find(name)
    if entry is not None:
        check(entry.repo, entry.kind, wanted, entry.also)


def check_folder(path: Path, name: str) -> None:
    """`check_embedding` for what a folder's settings show, before its other files are read."""
    check_refused(path, name)
    if (path / "config.json").is_file() and (reason := _of_folder(path, name, folder.read_config(path))):
        raise reranker_error(path, reason)


def check_embedding(path: Path, name: str, config: Mapping[str, Any], names: Collection[str]) -> None:
    """Refuse a reranker, which would be loaded as if it was an encoder; `names` are those of the tensors.

    Raises CheckpointError.
    """
    check_refused(path, name)
    if (reason := _reranker(path, name, config, names)) is not None:
        raise reranker_error(path, reason)


def check_refused(path: Path, name: str) -> None:
    """Refuse a reranker that does not run here. Raises CheckpointError."""
    # The .gguf files of a repository that is not fetched from may have been fetched by hand.
    if not hub.holds_gguf(path) and (reason := catalog.refusal(name, path.name)) is not None:
        raise CheckpointError(f"{path}: {reason}")


def reranker_error(path: Path, reason: str) -> RerankerError:
    """What tells a reranker from an encoder, and which function opens it."""
    return RerankerError(f"{path} is a reranker ({reason}): mlx_jina.load_reranker opens it")


def _of_folder(path: Path, name: str, config: Mapping[str, Any]) -> str | None:
    """What of a folder's settings shows that it is a reranker, or None."""
    for file, mark in _MARKS:
        if (path / file).is_file() and mark in json_file.text(path / file):
            return f"{file} has {mark}"
    if projector.is_beside(path):
        return f"{projector.FILE} is beside its weights"
    return _reranker(path, name, config, ())


def _reranker(path: Path, name: str, config: Mapping[str, Any], names: Collection[str]) -> str | None:
    """What shows that a checkpoint is a reranker, or None."""
    if heads := sorted(tensor for tensor in names if tensor.startswith(_HEADS)):
        return f"it has the head {heads[0]}"
    for architecture in config.get("architectures") or ():
        if re.search("ForSequenceClassification|ForRanking", str(architecture)):
            return f"config.json has the architecture {architecture}"
    for called in (name, str(path), str(config.get("_name_or_path", ""))):
        if _RERANKER.search(called := called.rstrip("/").rpartition("/")[2]):
            return f"it is called {called}"
    card = path / "README.md"
    if card.is_file() and (found := _CARD.search(card.read_text(encoding="utf-8", errors="replace"))):
        return f"README.md says {found[0].strip()!r}"
    return None
