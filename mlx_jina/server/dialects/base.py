"""Parts of every dialect: request bodies, endpoints and replies."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from mlx_jina.server.engine import Embedded, Engine
from mlx_jina.server.errors import ApiError

# Texts in one request, at most; OpenAI allows 2048.
MAX_TEXTS = 10_000

TOKEN_IDS = (
    "arrays of token ids are not accepted, because they are another model's vocabulary; send strings "
    "(LangChain: set check_embedding_ctx_length=False)"
)


class Body(BaseModel):
    """A request's JSON object. Null counts as absent, unknown fields are ignored: real clients send both."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


def _texts(given: Any) -> list[str]:
    """A string, or a list of strings or of objects with a `text`, as a list of strings."""
    items = given if isinstance(given, list) else [given]
    if len(items) > MAX_TEXTS:
        raise PydanticCustomError("too_many_texts", f"{len(items)} texts in one request; at most {MAX_TEXTS}")
    texts: list[Any] = [item.get("text") if isinstance(item, dict) else item for item in items]
    for index, text in enumerate(texts):
        if isinstance(text, int) or (isinstance(text, list) and text and isinstance(text[0], int)):
            raise PydanticCustomError("token_ids", TOKEN_IDS)
        if not isinstance(text, str):
            raise PydanticCustomError("not_text", f"item {index} is neither a string nor an object with a text")
    return texts


Texts = Annotated[
    list[str],
    BeforeValidator(_texts),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "maxItems": MAX_TEXTS,
                    "items": {
                        "anyOf": [
                            {"type": "string"},
                            {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
                        ]
                    },
                },
            ]
        }
    ),
]


@dataclass(frozen=True)
class Reply:
    """An answer: `content` becomes JSON (NumPy arrays included), `embedded` the X-Embedding-* headers.

    Content that is bytes is sent as it is, as `media_type`.
    """

    content: Any
    embedded: Embedded | None = None
    media_type: str = "application/json"


Handler = Callable[[Engine, Any], Coroutine[Any, Any, Reply]]
ErrorBody = Callable[[ApiError, str], Mapping[str, Any]]


@dataclass(frozen=True)
class Endpoint:
    """One route. `body` is the schema of the request, None for a request without a body.

    `error_body` makes the body of an error from the refusal and the request's id. `public`: needs no API key.
    """

    method: str
    path: str
    handler: Handler
    error_body: ErrorBody
    body: type[Body] | None = None
    public: bool = False
