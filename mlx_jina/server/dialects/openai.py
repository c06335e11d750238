"""The OpenAI dialect with the extras of Jina's API: POST /v1/embeddings and GET /v1/models."""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np
from pydantic import AliasChoices, Field, field_validator
from pydantic_core import PydanticCustomError

from mlx_jina import catalog
from mlx_jina.choices import Precision
from mlx_jina.server.dialects.base import Body, EmbedBody, Endpoint, Inputs, Name, Reply
from mlx_jina.server.engine import Embedded, Engine
from mlx_jina.server.errors import ApiError
from mlx_jina.server.model_store import Model

Encoding = Literal["float", "base64", "binary", "ubinary", "int8", "uint8"]
STORED: dict[Encoding, Precision] = {
    "float": "float32",
    "base64": "float32",
    "binary": "binary",
    "ubinary": "ubinary",
    "int8": "int8",
    "uint8": "uint8",
}


def error_body(refusal: ApiError, request_id: str) -> dict[str, Any]:
    """OpenAI's SDKs read `error.message`, Jina's clients `detail`, and `errors` of a broken schema.

    Jina's own `detail` is an object at some statuses and a string at others. A string is what all of its clients
    can show: Obsidian Copilot prints an object as "[object Object]".
    """
    body: dict[str, Any] = {
        "error": {
            "message": refusal.message,
            "type": "invalid_request_error" if refusal.status < 500 else "server_error",
            "param": refusal.param,
            "code": refusal.code,
        },
        "detail": refusal.message,
        "request_id": request_id,
    }
    return body | ({"errors": refusal.details} if refusal.details else {})


class EmbeddingsRequest(EmbedBody):
    """OpenAI's fields, Jina's with its aliases, and Voyage's names for some of them."""

    input: Inputs
    return_multivector: bool = False
    max_pixels: int | None = Field(None, ge=1, lt=1 << 53)
    encoding_format: Encoding = "float"
    embedding_type: Encoding | None = Field(
        None, validation_alias=AliasChoices("embedding_type", "embedding_types", "encoding_type", "output_dtype")
    )

    @field_validator("embedding_type", mode="before")
    @classmethod
    def _one_of_a_list(cls, given: Any) -> Any:
        if not isinstance(given, list):
            return given
        if len(given) != 1:
            raise PydanticCustomError("one_encoding", f"{len(given)} encodings; this route sends one")
        return given[0]

    @property
    def encoding(self) -> Encoding:
        """The encoding to send. Jina's field wins, because OpenAI's JavaScript client always sends OpenAI's."""
        return self.embedding_type or self.encoding_format


async def embeddings(engine: Engine, body: EmbeddingsRequest) -> Reply:
    """Embed texts and pictures, or with `return_multivector` every token of them."""
    if body.return_multivector:
        return await of_tokens(engine, body)
    done = await engine.embed(
        body.input,
        body.model,
        precision=STORED[body.encoding],
        max_pixels=body.max_pixels,
        **body.options(),
    )
    tokens = sum(done.tokens)
    data = [
        {"object": "embedding", "index": index, "embedding": vector}
        for index, vector in enumerate(_encoded(done, body.encoding))
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


async def of_tokens(engine: Engine, body: EmbeddingsRequest) -> Reply:
    """Embed every token of texts."""
    if not body.normalized or body.late_chunking:
        raise ApiError(
            400, "vectors of tokens are normalised, and have no late chunking", None, "return_multivector"
        )
    done = await engine.embed_tokens(
        body.input,
        body.model,
        task=body.task,
        input_type=body.input_type,
        dimensions=body.dimensions,
        precision=STORED[body.encoding],
        truncate=body.truncate,
        max_pixels=body.max_pixels,
    )
    tokens = sum(done.tokens)
    texts = np.split(done.vectors, np.cumsum(done.rows)[:-1])
    data = [
        {"object": "embeddings", "index": index, "embeddings": _encoded_tokens(rows, body.encoding)}
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


def _encoded_tokens(rows: np.ndarray[Any, Any], encoding: Encoding) -> Any:
    """Rows as JSON writes them; base64 has each vector by itself."""
    if encoding != "base64":
        return np.ascontiguousarray(rows)
    return [base64.b64encode(row.tobytes()).decode() for row in rows.astype("<f4", copy=False)]


def _encoded(done: Embedded, encoding: Encoding) -> list[Any]:
    if encoding != "base64":
        return list(done.vectors)
    return [base64.b64encode(row.tobytes()).decode() for row in done.vectors.astype("<f4", copy=False)]


async def models(engine: Engine, body: None) -> Reply:
    """All models that a request may name, with their facts; some facts need the model in memory."""
    found = await engine.store.available(catalog.KINDS)
    return Reply({"object": "list", "data": [_described(model) for model in found]})


class ModelPath(Body):
    """A model's name, in the path."""

    id: Name


async def model(engine: Engine, body: ModelPath) -> Reply:
    """One model, with its facts; without a name, all of them."""
    if not body.id:
        return await models(engine, None)
    found, _ = await engine.store.find(body.id)
    return Reply(_described(found))


def _described(model: Model) -> dict[str, Any]:
    encoder = model.loaded.model if model.loaded else None
    known = encoder or model.entry
    return {
        "id": model.name,
        "name": model.entry.title if model.entry else model.name,
        "object": "model",
        "created": 0,
        "owned_by": model.entry.repo.partition("/")[0] if model.entry and "/" in model.entry.repo else "mlx-jina",
        "type": "rerank" if model.kind == "reranker" else model.kind,
        "state": "loaded" if encoder else "not-loaded",
        "dimension": known.dimension if known else None,
        "dimensions": list(known.truncate_dims) if known else None,
        "max_tokens": known.max_length if known else None,
        "tasks": list(known.tasks) if known else None,
        "pooling": encoder.pooling if encoder else None,
        "license": model.entry.license if model.entry else None,
        "fingerprints": model.loaded.fingerprints() if model.loaded else None,
    }


ENDPOINTS = (
    Endpoint("POST", "/v1/embeddings", embeddings, error_body, EmbeddingsRequest),
    Endpoint("POST", "/embeddings", embeddings, error_body, EmbeddingsRequest),
    Endpoint("GET", "/v1/models", models, error_body),
    Endpoint("GET", "/models", models, error_body),
    Endpoint("GET", "/v1/models/{id:path}", model, error_body, ModelPath),
    Endpoint("GET", "/models/{id:path}", model, error_body, ModelPath),
)
