"""Ollama's dialect, as its Python and JavaScript clients, LangChain, Open WebUI and Obsidian plugins speak it.

https://github.com/ollama/ollama/blob/main/docs/api.md; pulling, creating and generating are not there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from pydantic import AliasChoices, Field, model_validator
from pydantic_core import PydanticCustomError

from mlx_jina import __version__
from mlx_jina.catalog import Entry
from mlx_jina.engine.loaded_model import LoadedModel
from mlx_jina.server.dialects.base import Body, Cut, Endpoint, FloatsBody, Name, Reply, Texts
from mlx_jina.server.engine import Engine
from mlx_jina.server.errors import ApiError
from mlx_jina.server.model_store import Model, ModelStore

# The version of Ollama to report, for clients that ask for a minimum.
COMPATIBLE = "0.12.0"


def error_body(refusal: ApiError, request_id: str) -> dict[str, Any]:
    """Ollama's clients read `error` as a string."""
    return {"error": refusal.message, "request_id": request_id}


class OllamaRequest(FloatsBody):
    """`options` and `keep_alive` are ignored, because the server decides how long a model stays."""

    truncate: Cut = Field(True, validation_alias=AliasChoices("truncate", "truncation"))


class OllamaEmbedRequest(OllamaRequest):
    """Any number of texts; none only loads the model."""

    input: Texts = Field(default_factory=list)


class OllamaEmbeddingsRequest(OllamaRequest):
    """The older form: one text."""

    prompt: str = ""
    # Of /api/embed; without a prompt, the answer would be a vector of no numbers.
    input: Any = None

    @model_validator(mode="after")
    def _has_its_own_field(self) -> OllamaEmbeddingsRequest:
        if self.input and not self.prompt:
            raise PydanticCustomError("other_route", "/api/embeddings takes `prompt`; `input` is for /api/embed")
        return self


class OllamaShowRequest(Body):
    """Older clients send `name` instead of `model`."""

    model: Name = Field("", validation_alias=AliasChoices("model", "name"))


async def embed(engine: Engine, body: OllamaEmbedRequest) -> Reply:
    """Embed texts; those that are too long are cut unless `truncate` is false."""
    done = await engine.embed(body.input, body.model, **body.options())
    content = {
        "model": body.model or done.model.name,
        "embeddings": done.vectors,
        "total_duration": int(done.seconds * 1e9),
        "load_duration": int(done.load_seconds * 1e9),
        "prompt_eval_count": sum(done.tokens),
    }
    return Reply(content, done)


async def embeddings(engine: Engine, body: OllamaEmbeddingsRequest) -> Reply:
    """Embed one text. An empty text only loads the model."""
    done = await engine.embed([body.prompt] if body.prompt else [], body.model, **body.options())
    return Reply({"embedding": done.vectors[0] if body.prompt else []}, done)


async def tags(engine: Engine, body: None) -> Reply:
    """The models that can be asked for."""
    return await _list(engine.store, await engine.store.available())


async def running(engine: Engine, body: None) -> Reply:
    """The models that are in memory."""
    return await _list(engine.store, engine.store.in_memory())


async def show(engine: Engine, body: OllamaShowRequest) -> Reply:
    """A model's abilities. Smart Connections reads them for every model, and sizes its chunks accordingly."""
    model, _ = await engine.store.find(body.model)
    known: LoadedModel | Entry
    if model.loaded is None and model.entry is not None:
        known, family = model.entry, "jina"
    else:
        async with engine.store.using(model) as loaded:
            known, family = loaded.model, loaded.model.architecture
    listed = await asyncio.to_thread(_listed, engine.store, model)
    content = {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "license": model.entry.license if model.entry else "",
        "details": listed["details"],
        "modified_at": listed["modified_at"],
        "model_info": {
            "general.architecture": family,
            f"{family}.context_length": known.max_length,
            f"{family}.embedding_length": known.dimension,
        },
        "capabilities": ["embedding" if model.kind == "embedding" else "rerank"],
    }
    return Reply(content)


async def root(engine: Engine, body: None) -> Reply:
    """What Ollama says of itself, for clients that look for it here."""
    return Reply(b"Ollama is running", media_type="text/plain")


async def version(engine: Engine, body: None) -> Reply:
    """The version of Ollama's interface, and our own."""
    return Reply({"version": COMPATIBLE, "mlx_jina": __version__})


async def _list(store: ModelStore, models: Sequence[Model]) -> Reply:
    return Reply({"models": await asyncio.to_thread(lambda: [_listed(store, model) for model in models])})


def _listed(store: ModelStore, model: Model) -> dict[str, Any]:
    encoder = model.loaded.model if model.loaded else None
    path = store.path_of(model.source)
    stats = [file.stat() for file in (path.iterdir() if path.is_dir() else (path,))] if path else []
    name = _name(model)
    family = encoder.architecture if encoder else "jina"
    return {
        "name": name,
        "model": name,
        "modified_at": datetime.fromtimestamp(
            max((s.st_mtime for s in stats), default=0), timezone.utc
        ).isoformat(),
        "size": sum(s.st_size for s in stats),
        "size_vram": encoder.nbytes if encoder else 0,
        "digest": "",
        "details": {
            "parent_model": "",
            "format": "mlx",
            "family": family,
            "families": [family],
            "parameter_size": "",
            "quantization_level": encoder.dtype if encoder else "",
        },
    }


def _name(model: Model) -> str:
    """A name with "embed" in it if there is one, since Smart Connections offers no other names."""
    names = (model.name, *(model.entry.aliases if model.entry else ()))
    return next((name for name in names if "embed" in name), model.name)


ENDPOINTS = (
    Endpoint("POST", "/api/embed", embed, error_body, OllamaEmbedRequest),
    Endpoint("POST", "/api/embeddings", embeddings, error_body, OllamaEmbeddingsRequest),
    Endpoint("GET", "/api/tags", tags, error_body),
    Endpoint("GET", "/api/ps", running, error_body),
    Endpoint("POST", "/api/show", show, error_body, OllamaShowRequest),
    Endpoint("GET", "/api/version", version, error_body),
    Endpoint("GET", "/", root, error_body, public=True, media_type="text/plain"),
)
