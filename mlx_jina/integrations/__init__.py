"""Adapters to other libraries, which `pip install 'mlx-jina[langchain]'` brings along, by each module's name."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import mlx_jina
from mlx_jina import catalog

if TYPE_CHECKING:
    from mlx_jina import Encoder


@lru_cache(maxsize=4)
def open_encoder(model_name: str, task: str | None = None) -> Encoder:
    """`mlx_jina.load`, kept: databases rebuild their embedding function for every query.

    These libraries search, so a known model that has the task retrieval gets it unless another is named.
    """
    entry = catalog.find(model_name)
    if task is None and entry is not None and "retrieval" in entry.tasks:
        task = "retrieval"
    return mlx_jina.load(model_name, task=task)
