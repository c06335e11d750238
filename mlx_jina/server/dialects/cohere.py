"""Cohere's dialect: POST /v2/embed, for texts.

https://docs.cohere.com/reference/embed
"""

from __future__ import annotations

import uuid
from typing import Any, Literal

from pydantic import Field

from mlx_jina import vectors
from mlx_jina.choices import Precision
from mlx_jina.server.dialects.base import Body, Endpoint, Reply, Texts
from mlx_jina.server.engine import Engine
from mlx_jina.server.errors import ApiError

Kind = Literal["float", "int8", "uint8", "binary", "ubinary"]
STORED: dict[Kind, Precision] = {
    "float": "float32",
    "int8": "int8",
    "uint8": "uint8",
    "binary": "binary",
    "ubinary": "ubinary",
}


def error_body(refusal: ApiError, request_id: str) -> dict[str, Any]:
    """Cohere's clients read `message`."""
    return {"id": request_id, "message": refusal.message}


class CohereEmbedRequest(Body):
    """`input_type` is required, as Cohere requires it."""

    model: str = ""
    texts: Texts
    input_type: str
    embedding_types: list[Kind] = Field(["float"], min_length=1)
    output_dimension: int | None = None
    truncate: Literal["NONE", "END"] = "END"


async def embed(engine: Engine, body: CohereEmbedRequest) -> Reply:
    """Embed texts, at one or more precisions."""
    done = await engine.embed(
        body.texts,
        body.model,
        input_type=body.input_type,
        dimensions=body.output_dimension,
        truncate=body.truncate == "END",
    )
    stored = {kind: vectors.quantize(done.vectors, STORED[kind]) for kind in body.embedding_types}
    content = {
        "id": str(uuid.uuid4()),
        "embeddings": stored,
        "texts": body.texts,
        "response_type": "embeddings_by_type",
        "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": sum(done.tokens)}},
    }
    return Reply(content, done)


ENDPOINTS = (Endpoint("POST", "/v2/embed", embed, error_body, CohereEmbedRequest),)
