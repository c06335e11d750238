"""Chroma: `MLXJinaEmbeddingFunction("v5-small")`.

Import this module before you open a collection that was made with it: Chroma has no entry points, so a new process
knows no functions but Chroma's own.
"""

from __future__ import annotations

from typing import Any

from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space
from chromadb.utils.embedding_functions import register_embedding_function

from mlx_jina.integrations import open_encoder
from mlx_jina.text.tokenizer import many


@register_embedding_function
class MLXJinaEmbeddingFunction(EmbeddingFunction[Documents]):
    """Embeds documents and queries, each with the model's own prompt. Arguments as in `load` and `encode`."""

    def __init__(self, model_name: str, *, task: str | None = None, truncate_dim: int | None = None) -> None:
        self._config = {"model_name": model_name, "task": task, "truncate_dim": truncate_dim}
        self._truncate_dim = truncate_dim
        self._encoder = open_encoder(model_name, task)

    def __call__(self, input: Documents) -> Embeddings:
        return list(self._encoder.encode_document(list(many(input)), truncate_dim=self._truncate_dim))

    def embed_query(self, input: Documents) -> Embeddings:
        return list(self._encoder.encode_query(list(many(input)), truncate_dim=self._truncate_dim))

    @staticmethod
    def name() -> str:
        """What collections keep, and Chroma's error names where nobody has imported this module."""
        return __name__

    def default_space(self) -> Space:
        return "cosine"

    def get_config(self) -> dict[str, Any]:
        return dict(self._config)

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> MLXJinaEmbeddingFunction:
        return MLXJinaEmbeddingFunction(**config)
