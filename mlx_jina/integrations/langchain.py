"""LangChain: `MLXJinaEmbeddings("v5-small")` is an `Embeddings`, `MLXJinaRerank` a `BaseDocumentCompressor`."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import Embeddings

from mlx_jina.integrations import open_encoder, open_reranker
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


class MLXJinaRerank(BaseDocumentCompressor):
    """Keeps the `top_n` documents that answer a query best, in this order; None keeps all.

    Each is a copy, and has its score as `metadata["relevance_score"]`. Fields as in `load_reranker` and `rank`.
    """

    model_name: str
    top_n: int | None = 3
    instruction: str | None = None

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The best documents, best first."""
        texts = [document.page_content for document in documents]
        ranked = open_reranker(self.model_name).rank(query, texts, self.top_n, instruction=self.instruction)
        kept = []
        for hit in ranked:
            document = documents[hit["corpus_id"]]
            metadata = {**document.metadata, "relevance_score": hit["score"]}
            kept.append(document.model_copy(update={"metadata": metadata}))
        return kept
