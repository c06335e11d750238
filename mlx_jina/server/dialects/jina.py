"""What Jina's API has besides OpenAI's: POST /v1/multi-vector, the token vectors of late interaction.

https://api.jina.ai/redoc; embeddings, with Jina's own fields, are in openai.py.
"""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field

from mlx_jina.server.dialects.base import Cut, Endpoint
from mlx_jina.server.dialects.openai import EmbeddingsRequest, error_body, of_tokens


class MultiVectorRequest(EmbeddingsRequest):
    """Texts of one side, documents by default. Those that are too long are cut by default, as Jina cuts them."""

    truncate: Cut = Field(True, validation_alias=AliasChoices("truncate", "truncation"))
    normalized: Literal[True] = Field(
        True, validation_alias=AliasChoices("normalized", "normalize", "normalize_embeddings")
    )
    late_chunking: Literal[False] = False
    return_multivector: bool = True


ENDPOINTS = (Endpoint("POST", "/v1/multi-vector", of_tokens, error_body, MultiVectorRequest),)
