"""The dialect of Hugging Face's text-embeddings-inference, for the server's default model.

https://huggingface.github.io/text-embeddings-inference; Chroma's HuggingFaceEmbeddingServer posts to /embed.
"""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import AliasChoices, Field, model_validator

from mlx_jina import __version__, vectors
from mlx_jina.encoder import Encoder
from mlx_jina.errors import InputError
from mlx_jina.server.dialects.base import MAX_TEXTS, Body, Cut, Endpoint, FloatsBody, Reply, SomeTexts
from mlx_jina.server.engine import Engine
from mlx_jina.server.errors import ApiError
from mlx_jina.text.tokenizer import MOST

# Tokens that are written to JSON at a time.
TOKENS_WRITTEN = 10_000
_ERROR_TYPES = {503: "Overloaded", 500: "Backend"}


def error_body(refusal: ApiError, request_id: str) -> dict[str, Any]:
    """`error` has the message, `error_type` one of TEI's kinds."""
    kind = _ERROR_TYPES.get(refusal.status, "Validation")
    return {"error": refusal.message, "error_type": kind, "request_id": request_id}


class TEIRequest(FloatsBody):
    """Long texts are cut by default, as in TEI, whose --auto-truncate is on by default."""

    truncate: Cut = Field(True, validation_alias=AliasChoices("truncate", "truncation"))


class TEIEmbedRequest(TEIRequest):
    """One text or many."""

    inputs: SomeTexts


class TEISimilarityTexts(Body):
    """One text, and those to compare it with."""

    source_sentence: str
    sentences: SomeTexts


class TEISimilarityRequest(TEIRequest):
    """The options stand beside the texts, or in `parameters`, where TEI's own stand."""

    inputs: TEISimilarityTexts

    @model_validator(mode="before")
    @classmethod
    def _with_parameters(cls, data: Any) -> Any:
        given = data.get("parameters") if isinstance(data, dict) else None
        return {**given, **data} if isinstance(given, dict) else data


class TEITokenizeRequest(Body):
    """Texts, and whether to add the model's special tokens."""

    inputs: SomeTexts
    add_special_tokens: bool = True


async def embed(engine: Engine, body: TEIEmbedRequest) -> Reply:
    """Embed texts; the answer is the bare list of vectors."""
    done = await engine.embed(body.inputs, body.model, **body.options())
    return Reply(done.vectors, done)


async def similarity(engine: Engine, body: TEISimilarityRequest) -> Reply:
    """The cosine similarity of one text with each of many, as a bare list."""
    texts = [body.inputs.source_sentence, *body.inputs.sentences]
    done = await engine.embed(texts, body.model, **body.options())
    return Reply(vectors.similarity(done.vectors[:1], done.vectors[1:])[0], done)


async def tokenize(engine: Engine, body: TEITokenizeRequest) -> Reply:
    """Tokens of each text with their place in the text, in characters; special tokens have no place."""
    async with engine.store.using(engine.store.default) as loaded:
        try:
            return Reply(await engine.store.in_turn(_tokenized, loaded.encoder, body))
        except InputError as error:
            raise ApiError(400, str(error), "invalid_input", "inputs") from None


def _tokenized(encoder: Encoder, body: TEITokenizeRequest) -> bytes:
    """The answer as JSON, made in parts, because a token takes many times its bytes as a Python object."""
    texts = []
    for position, text in enumerate(body.inputs):
        if len(text) > MOST:
            words = f"has {len(text)} characters; this route takes texts of at most {MOST}"
            raise InputError(words, position=position)
        try:
            (tokens,) = encoder.tokens([text], body.add_special_tokens)
        except InputError as error:
            raise InputError(error.words, position=position) from None
        pieces = (tokens[start : start + TOKENS_WRITTEN] for start in range(0, len(tokens), TOKENS_WRITTEN))
        written = (orjson.dumps([token._asdict() for token in piece])[1:-1] for piece in pieces)
        texts.append(b"[" + b",".join(written) + b"]")
    return b"[" + b",".join(texts) + b"]"


async def info(engine: Engine, body: None) -> Reply:
    """What the default model and the server can do."""
    model = engine.store.default
    async with engine.store.using(model) as loaded:
        encoder = loaded.encoder
    content = {
        "model_id": model.entry.repo if model.entry else model.name,
        "model_sha": None,
        "model_dtype": encoder.dtype,
        "model_type": {"embedding": {"pooling": encoder.pooling}},
        "max_input_length": encoder.max_length,
        "max_batch_tokens": encoder.pipeline.batch_tokens,
        "max_client_batch_size": MAX_TEXTS,
        "auto_truncate": True,
        "version": __version__,
    }
    return Reply(content)


ENDPOINTS = (
    # huggingface_hub's InferenceClient posts here.
    Endpoint("POST", "/", embed, error_body, TEIEmbedRequest),
    Endpoint("POST", "/embed", embed, error_body, TEIEmbedRequest),
    Endpoint("POST", "/similarity", similarity, error_body, TEISimilarityRequest),
    Endpoint("POST", "/tokenize", tokenize, error_body, TEITokenizeRequest),
    Endpoint("GET", "/info", info, error_body),
)
