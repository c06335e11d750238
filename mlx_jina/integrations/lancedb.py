"""LanceDB: `get_registry().get("mlx-jina").create(name="v5-small")`, once this module is imported."""

from __future__ import annotations

from typing import Any

from lancedb.embeddings import TextEmbeddingFunction, register

from mlx_jina.integrations import open_encoder


@register("mlx-jina")
class MLXJinaEmbeddings(TextEmbeddingFunction):
    """The source column and queries each with the model's own prompt. Fields as of `load` and `encode`."""

    name: str
    task: str | None = None
    truncate_dim: int | None = None
    # Nothing here fails that would succeed a minute later.
    max_retries: int = 0

    def ndims(self) -> int:
        """Width of the vector column."""
        return self.truncate_dim or open_encoder(self.name, self.task).dimension

    def generate_embeddings(self, texts: Any, *_: Any, **__: Any) -> list[Any]:
        """Vectors of the source column."""
        encoder = open_encoder(self.name, self.task)
        return list(encoder.encode_document(texts, truncate_dim=self.truncate_dim))

    def compute_query_embeddings(self, query: str, *_: Any, **__: Any) -> list[Any]:
        """The vector of what is searched for."""
        encoder = open_encoder(self.name, self.task)
        return [encoder.encode_query(query, truncate_dim=self.truncate_dim)]
