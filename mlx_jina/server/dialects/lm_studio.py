"""LM Studio's REST dialect, version 0, as Smart Connections speaks it; embeddings are as in OpenAI's.

https://lmstudio.ai/docs/developer/rest/endpoints
"""

from __future__ import annotations

from typing import Any

from mlx_jina.server.dialects import openai
from mlx_jina.server.dialects.base import Endpoint, Reply
from mlx_jina.server.engine import Engine
from mlx_jina.server.model_store import Model


async def models(engine: Engine, body: None) -> Reply:
    """The models that can be asked for, loaded or not."""
    return Reply({"object": "list", "data": [_described(model) for model in await engine.store.available()]})


async def model(engine: Engine, body: openai.ModelPath) -> Reply:
    """One model."""
    found, _ = await engine.store.find(body.id)
    return Reply(_described(found))


def _described(model: Model) -> dict[str, Any]:
    entry, encoder = model.entry, model.loaded.model if model.loaded else None
    described: dict[str, Any] = {
        "id": model.name,
        "object": "model",
        "type": "embeddings" if model.kind == "embedding" else "rerank",
        "publisher": entry.repo.rpartition("/")[0] or "mlx-jina" if entry else "local",
        "arch": encoder.architecture if encoder else "jina",
        "compatibility_type": "mlx",
        "quantization": encoder.dtype if encoder else "",
        "state": "loaded" if encoder else "not-loaded",
    }
    limit = encoder.max_length if encoder else entry.max_length if entry else None
    if limit is not None:
        described["max_context_length"] = limit
    if encoder:
        described["loaded_context_length"] = limit
    return described


ENDPOINTS = (
    Endpoint("GET", "/api/v0/models", models, openai.error_body),
    Endpoint("GET", "/api/v0/models/{id:path}", model, openai.error_body, openai.ModelPath),
    Endpoint("POST", "/api/v0/embeddings", openai.embeddings, openai.error_body, openai.EmbeddingsRequest),
)
