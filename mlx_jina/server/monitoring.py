"""Routes to watch the server: /health, /metrics and /openapi.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST

from mlx_jina import __version__, device
from mlx_jina.cpu import blas
from mlx_jina.server.dialects.base import Endpoint, Reply
from mlx_jina.server.dialects.openai import error_body
from mlx_jina.server.engine import Engine
from mlx_jina.server.metrics import Metrics


def endpoints(metrics: Metrics, document: Mapping[str, Any]) -> tuple[Endpoint, ...]:
    """The routes, of which only /health and /healthz need no API key."""

    async def health(engine: Engine, body: None) -> Reply:
        """Whether the server is alive, and which models are in memory."""
        store = engine.store
        return Reply(
            {
                "status": "ok",
                "version": __version__,
                "backend": device.backend(),
                "blas": None if device.on_gpu() else blas.name(),
                "models": [model.name for model in store.in_memory()],
                "bytes_in_memory": store.bytes_in_memory(),
                "waiting_tokens": store.waiting_tokens(),
            }
        )

    async def page(engine: Engine, body: None) -> Reply:
        """Metrics for Prometheus."""
        return Reply(metrics.page(), media_type=CONTENT_TYPE_LATEST)

    async def openapi(engine: Engine, body: None) -> Reply:
        """The routes and their schemas."""
        return Reply(document)

    return (
        Endpoint("GET", "/health", health, error_body, public=True),
        Endpoint("GET", "/healthz", health, error_body, public=True),
        Endpoint("GET", "/metrics", page, error_body),
        Endpoint("GET", "/openapi.json", openapi, error_body),
    )
