"""sentence-transformers over transformers and torch: CPU, MPS on a Mac, CUDA where there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.models import Model

NAME, PACKAGE = "sentence-transformers", "sentence_transformers"
# JinaBERT is not in transformers, and code from model repositories is not run here: see torch_dense.py.
FAMILIES = ("qwen3", "eurobert")
SETTINGS = "`encode` with its defaults (32 texts a batch sorted by length, SDPA), on its own choice of device"


def options(model: Model) -> tuple[str, ...]:
    """The precision of ours, and half precision, which some CPUs have units for."""
    return tuple(dict.fromkeys((model.precision(), "bfloat16")))


def load(folder: Path, option: str) -> Callable[[Sequence[str], int], Any]:
    """Texts to vectors."""
    import torch
    from sentence_transformers import SentenceTransformer

    from bench.machine import threads

    torch.set_num_threads(threads())
    model = SentenceTransformer(str(folder), local_files_only=True, model_kwargs={"dtype": getattr(torch, option)})
    model.max_seq_length = 8192
    return lambda texts, longest: model.encode(list(texts), show_progress_bar=False)
