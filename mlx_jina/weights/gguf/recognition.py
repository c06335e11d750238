"""Which published model a .gguf is: files that llama.cpp's converter wrote say nothing of prompts and tasks."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from mlx_jina import catalog
from mlx_jina.catalog import Entry
from mlx_jina.weights.checkpoint import Recognised, needs_adapters
from mlx_jina.weights.gguf.architectures import Architecture
from mlx_jina.weights.gguf.file import GGUF

# Where a converter writes what it was given, best first.
_KEYS = (
    "general.source.huggingface.repository",
    "general.source.url",
    "general.source.repo_url",
    "general.repo_url",
    "general.url",
    "general.name",
)
# At the end of a file's name or of a repository's, once its underscores are hyphens.
_ENDING = re.compile(r"[-.](gguf|i?q\d(-\w+)*|tq\d-\d|b?fp?(16|32)|mxfp4|imat(rix)?|ud|\d{5}-of-\d{5})$")
# Folders above a file: its own, or the snapshot's, "snapshots" and the repository's in the Hugging Face cache.
_FOLDERS = 3


def recognise(file: GGUF, architecture: Architecture, has_adapters: bool) -> Recognised | None:
    """The published model that a file names and fits, in that order; None if there is none or more than one.

    A model whose weights are those of one task is found under that task's name alone.
    """
    found: dict[str, Recognised] = {}
    for by, name in _names(file):
        entry = catalog.find(name)
        if entry is not None and fits(entry, file, architecture) and (has_adapters or not needs_adapters(entry)):
            # Copies in another format are one model.
            found.setdefault(entry.repo.removesuffix("-mlx"), Recognised(entry, by))
    return next(iter(found.values())) if len(found) == 1 else None


def fits(entry: Entry, file: GGUF, architecture: Architecture) -> bool:
    """Whether a file has the shape of this model."""
    width = file.metadata.get(f"{architecture.name}.embedding_length")
    return entry.architecture == architecture.model.architecture and entry.dimension == width


def warn(file: GGUF, architecture: Architecture) -> None:
    """Say of a model without prompts which published ones, that have prompts, it may be."""
    fitting = [entry for entry in catalog.ENTRIES if entry.prompts and fits(entry, file, architecture)]
    names = [min(entry.aliases, key=len) for entry in fitting if not needs_adapters(entry)]
    if names := [name for name in names if not name.endswith("-mlx")]:
        warnings.warn(
            f"{file.path} does not say which model it is, so that it has no prompts: queries and documents get "
            f"the same vectors. If it is one of {', '.join(names)}, say so by as_model=; else put "
            "the prompts that it was trained with before the texts (prompt=)",
            stacklevel=2,
        )


def _names(file: GGUF) -> Iterator[tuple[str, str]]:
    """What may be the name of a model, normalised, and where it stands."""
    task = file.metadata.get("general.finetune")
    for key in _KEYS:
        if isinstance(value := file.metadata.get(key), str):
            name = _normalised(value)
            # A converter may take the task off the name.
            if isinstance(task, str) and not name.endswith(task):
                yield f"{key} {value!r} and general.finetune {task!r}", f"{name}-{task}"
            yield f"{key} {value!r}", name
    yield "the file's name", _normalised(file.path.stem)
    for folder in list(Path(file.path).absolute().parents)[:_FOLDERS]:
        yield f"the folder {folder.name!r}", _normalised(folder.name)


def _normalised(name: str) -> str:
    """A title, a URL, a folder of the cache or a file's name as the catalog spells names, without the owner."""
    name = re.sub(r"[\s_]+", "-", name.replace("--", "/").strip().rstrip("/").rpartition("/")[2].lower())
    shorter = _ENDING.sub("", name)
    return name if shorter == name else _normalised(shorter)
