"""What Jina's API has besides OpenAI's: POST /v1/multi-vector, the token vectors of late interaction.

https://api.jina.ai/redoc; embeddings, with Jina's own fields, are in openai.py.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from mlx_jina.server.dialects.base import Body, Endpoint, Reply, Texts
from mlx_jina.server.dialects.openai import STORED, Encoding, error_body
from mlx_jina.server.engine import Engine
from mlx_jina.text.prompts import SIDE_OF, Side

# The sides as Cohere and Jina's embeddings call them.
_SIDES: dict[str, Side] = {
    **SIDE_OF,
    "search_query": "query",
    "search_document": "document",
    "retrieval.query": "query",
    "retrieval.passage": "document",
}


def _side(given: str) -> Side:
    if given not in _SIDES:
        raise PydanticCustomError("input_type", "should be query or document")
    return _SIDES[given]


def _one_of_a_list(given: Any) -> Any:
    return given[0] if isinstance(given, list) and len(given) == 1 else given


class MultiVectorRequest(Body):
    """Texts of one side. Documents that are too long are cut by default, as Jina cuts them."""

    model: str = ""
    input: Texts
    input_type: Annotated[str, AfterValidator(_side)] = "document"
    embedding_type: Annotated[Encoding, BeforeValidator(_one_of_a_list)] = Field(
        "float", validation_alias=AliasChoices("embedding_type", "encoding_format", "encoding_type")
    )
    dimensions: int | None = None
    truncate: bool = True


async def multi_vector(engine: Engine, body: MultiVectorRequest) -> Reply:
    """Embed every token of texts."""
    done = await engine.embed_tokens(
        body.input,
        body.model,
        side=_SIDES[body.input_type],
        dimensions=body.dimensions,
        precision=STORED[body.embedding_type],
        truncate=body.truncate,
    )
    tokens = sum(done.tokens)
    texts = np.split(done.vectors, np.cumsum(done.rows)[:-1]) if done.rows else []
    data = [
        {"object": "embeddings", "index": index, "embeddings": _encoded(rows, body.embedding_type)}
        for index, rows in enumerate(texts)
    ]
    return Reply(
        {
            "object": "list",
            "model": body.model or done.model.name,
            "data": data,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        },
        done,
    )


def _encoded(rows: np.ndarray[Any, Any], encoding: Encoding) -> Any:
    """Rows as JSON writes them; base64 has each vector by itself."""
    if encoding != "base64":
        return np.ascontiguousarray(rows)
    return [base64.b64encode(row.tobytes()).decode() for row in rows.astype("<f4", copy=False)]


ENDPOINTS = (Endpoint("POST", "/v1/multi-vector", multi_vector, error_body, MultiVectorRequest),)
