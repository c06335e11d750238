"""LlamaIndex: `MLXJinaEmbedding(model_name="v5-small")` wherever a `BaseEmbedding` is wanted."""

from __future__ import annotations

import asyncio

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field

from mlx_jina.integrations import open_encoder
from mlx_jina.text.tokenizer import many


class MLXJinaEmbedding(BaseEmbedding):
    """Embeds documents and queries, each with the model's own prompt. Fields as in `load` and `encode`."""

    model_name: str
    task: str | None = None
    truncate_dim: int | None = None
    embed_batch_size: int = Field(default=2048, gt=0, le=2048)

    @classmethod
    def class_name(cls) -> str:
        return "MLXJinaEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        encoder = open_encoder(self.model_name, self.task)
        return list(encoder.encode_query(query, truncate_dim=self.truncate_dim).tolist())

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        encoder = open_encoder(self.model_name, self.task)
        return list(encoder.encode_document(list(many(texts)), truncate_dim=self.truncate_dim).tolist())

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)
