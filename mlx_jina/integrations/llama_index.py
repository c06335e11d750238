"""LlamaIndex: `MLXJinaEmbedding(model_name="v5-small")` is a `BaseEmbedding`, `MLXJinaRerank` a postprocessor."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from mlx_jina.errors import InputError
from mlx_jina.integrations import open_encoder, open_reranker
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

    def get_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs: Any
    ) -> list[list[float]]:
        return super().get_text_embedding_batch(list(many(texts)), show_progress, **kwargs)

    async def aget_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs: Any
    ) -> list[list[float]]:
        return await super().aget_text_embedding_batch(list(many(texts)), show_progress, **kwargs)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        encoder = open_encoder(self.model_name, self.task)
        return list(encoder.encode_document(list(many(texts)), truncate_dim=self.truncate_dim).tolist())

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


class MLXJinaRerank(BaseNodePostprocessor):
    """Keeps the `top_n` nodes that answer a query best, in this order; None keeps all.

    Their scores are the reranker's. Fields as in `load_reranker` and `rank`.
    """

    model_name: str
    top_n: int | None = 3
    instruction: str | None = None

    @classmethod
    def class_name(cls) -> str:
        return "MLXJinaRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InputError("a reranker needs the query: pass query_bundle or query_str")
        texts = [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
        query = query_bundle.query_str
        ranked = open_reranker(self.model_name).rank(query, texts, self.top_n, instruction=self.instruction)
        return [NodeWithScore(node=nodes[hit["corpus_id"]].node, score=hit["score"]) for hit in ranked]
