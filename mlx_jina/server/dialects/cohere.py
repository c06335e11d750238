"""Cohere's dialect, for texts: POST /v2/embed, and /v1/embed, which older clients use.

https://docs.cohere.com/reference/embed
"""

from __future__ import annotations

import base64
import uuid
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field

from mlx_jina import vectors
from mlx_jina.choices import Precision
from mlx_jina.server.dialects.base import Cut, EmbedBody, Endpoint, Name, Reply, SomeTexts, limited
from mlx_jina.server.engine import Embedded, Engine
from mlx_jina.server.errors import ApiError

Kind = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]
STORED: dict[Kind, Precision] = {
    "float": "float32",
    "int8": "int8",
    "uint8": "uint8",
    "binary": "binary",
    "ubinary": "ubinary",
    "base64": "float32",
}
# Each kind is sent once, however often it is asked for.
Kinds = Annotated[
    list[Kind],
    Field(min_length=1),
    AfterValidator(lambda kinds: [*dict.fromkeys(kinds)]),
    BeforeValidator(lambda given: [given] if isinstance(given, str) else given),
    limited(2 * len(STORED)),
]


def error_body(refusal: ApiError, request_id: str) -> dict[str, Any]:
    """Cohere's clients read `message`."""
    return {"id": request_id, "message": refusal.message}


class CohereV1Request(EmbedBody):
    """Without `embedding_types` the answer is a bare list of vectors."""

    texts: SomeTexts
    embedding_types: Kinds | None = Field(
        None,
        validation_alias=AliasChoices(
            "embedding_types", "embedding_type", "encoding_format", "encoding_type", "output_dtype"
        ),
    )
    truncate: Cut = Field(True, validation_alias=AliasChoices("truncate", "truncation"))


class CohereEmbedRequest(CohereV1Request):
    """`input_type` is required, as Cohere requires it."""

    input_type: Name = Field(validation_alias=AliasChoices("input_type", "prompt_name"))


async def embed(engine: Engine, body: CohereEmbedRequest) -> Reply:
    """Embed texts, at one or more precisions."""
    done = await engine.embed(body.texts, body.model, **body.options())
    return _by_type(done, body, "2")


async def embed_v1(engine: Engine, body: CohereV1Request) -> Reply:
    """Embed texts, as bare vectors or at one or more precisions."""
    done = await engine.embed(body.texts, body.model, **body.options())
    if body.embedding_types is not None:
        return _by_type(done, body, "1")
    return Reply(
        _answer(done, body, "1") | {"embeddings": done.vectors, "response_type": "embeddings_floats"}, done
    )


def _by_type(done: Embedded, body: CohereV1Request, version: str) -> Reply:
    kinds: list[Kind] = body.embedding_types or ["float"]
    embeddings = {kind: _encoded(done, kind) for kind in kinds}
    answer = _answer(done, body, version)
    return Reply(answer | {"embeddings": embeddings, "response_type": "embeddings_by_type"}, done)


def _answer(done: Embedded, body: CohereV1Request, version: str) -> dict[str, Any]:
    return {
        "id": str(uuid.uuid4()),
        "texts": body.texts,
        "meta": {"api_version": {"version": version}, "billed_units": {"input_tokens": sum(done.tokens)}},
    }


def _encoded(done: Embedded, kind: Kind) -> Any:
    stored = vectors.quantize(done.vectors, STORED[kind])
    if kind != "base64":
        return stored
    return [base64.b64encode(row.tobytes()).decode() for row in stored.astype("<f4", copy=False)]


ENDPOINTS = (
    Endpoint("POST", "/v2/embed", embed, error_body, CohereEmbedRequest),
    Endpoint("POST", "/v1/embed", embed_v1, error_body, CohereV1Request),
)
