"""What a model is for, told before it is loaded: one vector for a text, or one for each token."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mlx_jina import catalog
from mlx_jina.catalog import Kind
from mlx_jina.errors import CheckpointError
from mlx_jina.weights import colbert, folder, hub

# What a model is, and the function of `mlx_jina` that opens it.
_WORDS: Mapping[Kind, tuple[str, str]] = {
    "embedding": ("an embedding model, with one vector for each text", "load"),
    "multi-vector": ("a late-interaction model (ColBERT), with a vector for every token", "load_multi_vector"),
}


def of(path: Path) -> Kind:
    """The kind of the model in a folder or a .gguf. Raises CheckpointError for a folder that cannot be read."""
    if hub.holds_gguf(path):
        return "embedding"
    return "multi-vector" if colbert.is_one(path, folder.read_config(path)) else "embedding"


def check(what: str | Path, kind: Kind, wanted: Kind) -> None:
    """Refuse a model that another function opens. Raises CheckpointError."""
    if kind != wanted:
        words, function = _WORDS[kind]
        raise CheckpointError(f"{what} is {words}: mlx_jina.{function} opens it")


def check_name(name: str, wanted: Kind) -> None:
    """Refuse a model of the catalog that another function opens, before it is downloaded."""
    entry = catalog.find(name)
    # A folder that is called like a known model may have something else in it.
    if entry is not None and not Path(name).expanduser().exists():
        check(entry.repo, entry.kind, wanted)
