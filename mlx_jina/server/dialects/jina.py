"""What Jina's API has besides OpenAI's: POST /v1/multi-vector, the token vectors of late interaction.

https://api.jina.ai/redoc; embeddings, with Jina's own fields, are in openai.py.
"""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np
from pydantic import AliasChoices, Field

from mlx_jina.server.dialects.base import Cut, Endpoint, Reply
from mlx_jina.server.dialects.openai import STORED, EmbeddingsRequest, Encoding, error_body
from mlx_jina.server.engine import Engine


class MultiVectorRequest(EmbeddingsRequest):
    """Texts of one side, documents by default. Those that are too long are cut by default, as Jina cuts them."""

    truncate: Cut = Field(True, validation_alias=AliasChoices("truncate", "truncation"))
    normalized: Literal[True] = Field(
        True, validation_alias=AliasChoices("normalized", "normalize", "normalize_embeddings")
    )
    late_chunking: Literal[False] = False


async def multi_vector(engine: Engine, body: MultiVectorRequest) -> Reply:
    """Embed every token of texts."""
    done = await engine.embed_tokens(
        body.input,
        body.model,
        task=body.task,
        input_type=body.input_type,
        dimensions=body.dimensions,
        precision=STORED[body.encoding],
        truncate=body.truncate,
    )
    tokens = sum(done.tokens)
    texts = np.split(done.vectors, np.cumsum(done.rows)[:-1])
    data = [
        {"object": "embeddings", "index": index, "embeddings": _encoded(rows, body.encoding)}
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
