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
import orjson
from pydantic import AliasChoices, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from mlx_jina.server.dialects import cohere, openai
from mlx_jina.server.dialects.base import MAX_TEXTS, Body, Cut, Endpoint, Name, Reply
from mlx_jina.server.engine import Engine

# Integers that orjson writes.
_WRITTEN = range(-(1 << 63), 1 << 64)


def _documents(given: Any) -> Any:
    """Strings, or objects whose keys come back with the answer."""
    if not isinstance(given, list):
        raise PydanticCustomError("not_a_list", "this should be a list of texts")
    if len(given) > MAX_TEXTS:
        raise PydanticCustomError("too_many_texts", f"{len(given)} documents in one request; at most {MAX_TEXTS}")
    for index, item in enumerate(given):
        if not isinstance(item, (str, dict)):
            raise PydanticCustomError("not_text", f"item {index} is neither a string nor an object with a text")
    return given


def _query(given: Any) -> Any:
    """A string, or Jina's object with a `text`."""
    return given["text"] if isinstance(given, dict) and given.keys() == {"text"} else given


Documents = Annotated[list[str | dict[str, Any]], BeforeValidator(_documents)]


class RerankRequest(Body):
    """`documents`, as Jina and Cohere call them, or `texts`, as text-embeddings-inference does."""

    model: Name = ""
    query: Annotated[str, BeforeValidator(_query)]
    documents: Documents | None = None
    texts: Documents | None = None
    rank_fields: list[str] | None = None
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
        for index, item in enumerate(self.given):
            if self.text_of(item) is None:
                wanted = "a text" if self.rank_fields is None else f"texts under {', '.join(self.rank_fields)}"
                words = f"item {index} is neither a string nor an object with {wanted}"
                raise PydanticCustomError("not_text", words)
        return self

    @property
    def given(self) -> list[str | dict[str, Any]]:
        """The documents, under either name."""
        return (self.documents if self.texts is None else self.texts) or []

    def text_of(self, document: str | dict[str, Any]) -> str | None:
        """What of a document is ranked: of an object its `text`, or what it has of `rank_fields`, as in Cohere's
        first version; None for an object without.
        """
        if isinstance(document, str):
            return document
        found = [document[field] for field in self.rank_fields or ("text",) if field in document]
        return "\n".join(found) if found and all(isinstance(part, str) for part in found) else None


async def rerank(engine: Engine, body: RerankRequest, *, returned: bool = True) -> Reply:
    """Rank documents by how well they answer a query."""
    texts = [body.text_of(item) or "" for item in body.given]
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


def _document(given: str | dict[str, Any]) -> Any:
    return {"text": given} if isinstance(given, str) else _writable(given)


def _writable(value: Any) -> Any:
    """A client's value, whose integers of more than 64 bits orjson writes as they came."""
    if isinstance(value, dict):
        return {key: _writable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_writable(part) for part in value]
    if isinstance(value, int) and value not in _WRITTEN:
        return orjson.Fragment(str(value))
    return value


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
