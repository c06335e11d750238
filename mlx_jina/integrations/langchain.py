"""LangChain: `MLXJinaEmbeddings("v5-small")` wherever an `Embeddings` is wanted."""

from __future__ import annotations

from langchain_core.embeddings import Embeddings

from mlx_jina.integrations import open_encoder
from mlx_jina.text.tokenizer import many


class MLXJinaEmbeddings(Embeddings):
    """Embeds documents and queries, each with the model's own prompt. Arguments as in `load` and `encode`."""

    def __init__(self, model_name: str, *, task: str | None = None, truncate_dim: int | None = None) -> None:
        self._encoder = open_encoder(model_name, task)
        self._truncate_dim = truncate_dim

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector for each document."""
        return list(self._encoder.encode_document(list(many(texts)), truncate_dim=self._truncate_dim).tolist())

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query."""
        return list(self._encoder.encode_query(text, truncate_dim=self._truncate_dim).tolist())
