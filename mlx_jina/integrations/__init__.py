"""Adapters to other libraries. `pip install 'mlx-jina[NAME]'` installs the library of a module."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import mlx_jina
from mlx_jina import catalog

if TYPE_CHECKING:
    from mlx_jina import Encoder, Reranker


@lru_cache(maxsize=4)
def open_encoder(model_name: str, task: str | None = None) -> Encoder:
    """`mlx_jina.load` with a cache, because databases rebuild their embedding function for every query.

    These libraries search, so a known model with the task retrieval gets this task unless the caller names
    another.
    """
    entry = catalog.find(model_name)
    if task is None and entry is not None and "retrieval" in entry.tasks:
        task = "retrieval"
    return mlx_jina.load(model_name, task=task)


@lru_cache(maxsize=4)
def open_reranker(model_name: str) -> Reranker:
    """`mlx_jina.load_reranker` with a cache."""
    return mlx_jina.load_reranker(model_name)
