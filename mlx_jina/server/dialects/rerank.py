"""Reranking as Jina, Cohere and text-embeddings-inference offer it: one handler for all routes.

https://jina.ai/reranker, https://docs.cohere.com/reference/rerank. A request with `documents` gets Jina's answer,
which has Cohere's fields as well; one with `texts` gets the bare list of text-embeddings-inference. llama.cpp has
the same routes.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AliasChoices, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from mlx_jina.server.dialects import cohere, openai
from mlx_jina.server.dialects.base import MAX_TEXTS, Body, Cut, Endpoint, Name, Reply
from mlx_jina.server.engine import Engine


def _documents(given: Any) -> Any:
    """Strings, or objects with a `text` whose other keys come back with the answer."""
    if not isinstance(given, list):
        raise PydanticCustomError("not_a_list", "this should be a list of texts")
    if len(given) > MAX_TEXTS:
        raise PydanticCustomError("too_many_texts", f"{len(given)} documents in one request; at most {MAX_TEXTS}")
    for index, item in enumerate(given):
        if not isinstance(item.get("text") if isinstance(item, dict) else item, str):
            raise PydanticCustomError("not_text", f"item {index} is neither a string nor an object with a text")
    return given


Documents = Annotated[list[str | dict[str, Any]], BeforeValidator(_documents)]


class RerankRequest(Body):
    """`documents`, as Jina and Cohere call them, or `texts`, as text-embeddings-inference does."""

    model: Name = ""
    query: str
    documents: Documents | None = None
    texts: Documents | None = None
    top_n: int | None = Field(None, ge=1, validation_alias=AliasChoices("top_n", "top_k"))
    return_documents: bool | None = Field(None, validation_alias=AliasChoices("return_documents", "return_text"))
    instruction: str | None = Field(None, validation_alias=AliasChoices("instruction", "instruct"))
    max_document_length: int | None = Field(
        None, ge=1, validation_alias=AliasChoices("max_tokens_per_doc", "max_doc_length")
    )
    raw_scores: bool = False
    truncate: Cut = Field(True, validation_alias=AliasChoices("truncate", "truncation"))
    truncation_direction: Literal["right", "Right"] = "right"

    @model_validator(mode="after")
    def _one_list(self) -> RerankRequest:
        if (self.documents is None) == (self.texts is None):
            raise PydanticCustomError("documents", "send documents, or texts")
        return self

    @property
    def given(self) -> list[str | dict[str, Any]]:
        """The documents, under either name."""
        return (self.documents if self.texts is None else self.texts) or []


async def rerank(engine: Engine, body: RerankRequest, *, returned: bool = True) -> Reply:
    """Rank documents by how well they answer a query."""
    texts = [item if isinstance(item, str) else str(item["text"]) for item in body.given]
    model, scored = await engine.rerank(
        body.query,
        texts,
        body.model,
        instruction=body.instruction,
        max_document_length=body.max_document_length,
        truncate=body.truncate,
    )
    scores = scored.scores("none" if body.raw_scores else "default")
    order: Sequence[int] = np.argsort(-scores, kind="stable")[: body.top_n].tolist()
    headers = {"X-Rerank-Truncated": str(scored.texts_cut)}
    if body.texts is not None:
        with_text = body.return_documents is True
        rows = [{"index": i, "score": float(scores[i])} | ({"text": texts[i]} if with_text else {}) for i in order]
        return Reply(rows, headers=headers)
    if body.return_documents is not None:
        returned = body.return_documents
    results = [
        {"index": i, "relevance_score": float(scores[i])}
        | ({"document": _document(body.given[i])} if returned else {})
        for i in order
    ]
    tokens = scored.total_tokens
    content = {
        "id": str(uuid.uuid4()),
        "object": "list",
        "model": body.model or model.name,
        "results": results,
        "usage": {"total_tokens": tokens, "prompt_tokens": tokens},
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    }
    return Reply(content, headers=headers)


def _document(given: str | dict[str, Any]) -> dict[str, Any]:
    return {"text": given} if isinstance(given, str) else given


async def cohere_rerank(engine: Engine, body: RerankRequest) -> Reply:
    """Rank documents by how well they answer a query, without the documents in the answer."""
    return await rerank(engine, body, returned=False)


ENDPOINTS = (
    *(
        Endpoint("POST", path, rerank, openai.error_body, RerankRequest)
        for path in ("/v1/rerank", "/rerank", "/v1/reranking", "/reranking", "/api/rerank")
    ),
    Endpoint("POST", "/v2/rerank", cohere_rerank, cohere.error_body, RerankRequest),
)
