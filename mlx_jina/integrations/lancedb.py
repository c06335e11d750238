"""LanceDB: `get_registry().get("mlx-jina").create(name="v5-small")`, once this module is imported.

Import the module also before you open a table that was made with it: LanceDB has no entry points, so a new process
knows no functions but LanceDB's own.
"""

from __future__ import annotations

from typing import Any

from lancedb.embeddings import TextEmbeddingFunction, register

from mlx_jina.integrations import open_encoder


# Tables keep the last name, and LanceDB's error names it where nobody has imported this module.
@register(__name__)
@register("mlx-jina")
class MLXJinaEmbeddings(TextEmbeddingFunction):
    """Embeds the source column and queries, each with the model's own prompt. Fields as in `load` and `encode`."""

    name: str
    task: str | None = None
    truncate_dim: int | None = None
    # None, because an embedding that failed here would fail again.
    max_retries: int = 0

    def ndims(self) -> int:
        """Width of the vector column."""
        return self.truncate_dim or open_encoder(self.name, self.task).dimension

    def generate_embeddings(self, texts: Any, *_: Any, **__: Any) -> list[Any]:
        """Vectors of the source column."""
        encoder = open_encoder(self.name, self.task)
        return list(encoder.encode_document(texts, truncate_dim=self.truncate_dim))

    def compute_query_embeddings(self, query: str, *_: Any, **__: Any) -> list[Any]:
        """The vector of a query."""
        encoder = open_encoder(self.name, self.task)
        return [encoder.encode_query(query, truncate_dim=self.truncate_dim)]
