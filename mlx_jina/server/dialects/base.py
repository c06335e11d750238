"""Parts of every dialect: request bodies, endpoints and replies."""

from __future__ import annotations

import base64
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from mlx_jina.server.engine import Embedded, EmbedOptions, Engine
from mlx_jina.server.errors import ApiError
from mlx_jina.vision.images import Image

# Texts in one request, at most; OpenAI allows 2048.
MAX_TEXTS = 10_000

TOKEN_IDS = (
    "arrays of token ids are not accepted, because they are another model's vocabulary; send strings "
    "(LangChain: set check_embedding_ctx_length=False)"
)


# What names something; errors repeat it.
Name = Annotated[str, StringConstraints(max_length=256)]


class Body(BaseModel):
    """A request's JSON object. Null counts as absent, unknown fields are ignored: real clients send both.

    A field that has several names may be given under one of them only, unless they say the same.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = {key: value for key, value in data.items() if value is not None}
        for field in cls.model_fields.values():
            if isinstance(field.validation_alias, AliasChoices):
                names = [name for name in field.validation_alias.choices if name in given]
                if any(given[name] != given[names[0]] for name in names[1:]):
                    raise PydanticCustomError("contradiction", f"{' and '.join(map(str, names))} contradict")
                given = {key: value for key, value in given.items() if key not in names[1:]}
        return given


def limited(most: int) -> BeforeValidator:
    """A list's limit, which is checked before anything in the list is."""

    def check(given: Any) -> Any:
        if isinstance(given, list) and len(given) > most:
            raise PydanticCustomError("too_long", f"{len(given)} items; at most {most}")
        return given

    return BeforeValidator(check, json_schema_input_type=Any)


def _texts(given: Any) -> list[str]:
    """A string, or a list of strings or of objects with a `text`, as a list of strings."""
    items = given if isinstance(given, list) else [given]
    if len(items) > MAX_TEXTS:
        raise PydanticCustomError("too_many_texts", f"{len(items)} texts in one request; at most {MAX_TEXTS}")
    texts: list[Any] = [item.get("text") if isinstance(item, dict) else item for item in items]
    for index, text in enumerate(texts):
        ids = text if isinstance(text, list) and text else [items[index]]
        if isinstance(ids[0], int) and not isinstance(ids[0], bool):
            raise PydanticCustomError("token_ids", TOKEN_IDS)
        if not isinstance(text, str):
            raise PydanticCustomError("not_text", f"item {index} is neither a string nor an object with a text")
    return texts


def _schema(*fields: str) -> WithJsonSchema:
    """A string, or a list of strings and of objects with one of these fields."""
    objects = [
        {"type": "object", "properties": {field: {"type": "string"}}, "required": [field]} for field in fields
    ]
    items = {"anyOf": [{"type": "string"}, *objects]}
    return WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "array", "maxItems": MAX_TEXTS, "items": items}]}
    )


Texts = Annotated[list[str], BeforeValidator(_texts), _schema("text")]


def _inputs(given: Any) -> list[str | Image]:
    """`_texts`, where objects may also have an `image` in base64."""
    items = given if isinstance(given, list) else [given]
    seen = {i: item for i, item in enumerate(items) if isinstance(item, dict) and "image" in item}
    texts = _texts(["" if i in seen else item for i, item in enumerate(items)])
    return [_image(seen[i], i) if i in seen else text for i, text in enumerate(texts)]


def _image(item: Mapping[str, Any], index: int) -> Image:
    """The picture of `{"image": BASE64}`, also as a data URI. No request fetches a URL or opens a path."""
    if "text" in item:
        raise PydanticCustomError("image", f"item {index} has a text and an image; send two items")
    content = item["image"]
    if isinstance(content, str) and content[:5].lower() == "data:":
        content = content.partition(",")[2]
    try:
        if not isinstance(content, str) or not content:
            raise ValueError
        # As MIME and the program base64 write it, in lines.
        return Image(base64.b64decode("".join(content.split()), validate=True))
    except ValueError:
        raise PydanticCustomError(
            "image", f"the image of item {index} is no base64 of a file; URLs and paths are not read here"
        ) from None


Inputs = Annotated[
    list[Any], BeforeValidator(_inputs), AfterValidator(lambda inputs: _some(inputs)), _schema("text", "image")
]
"""Texts, and pictures as `Image`."""


def _some(texts: list[str]) -> list[str]:
    if not texts:
        raise PydanticCustomError("no_texts", "the list is empty; send at least one text")
    return texts


# For dialects whose clients cannot read an answer without vectors.
SomeTexts = Annotated[Texts, AfterValidator(_some)]


def _cut(given: Any) -> Any:
    """Cohere's words for whether a text that is too long is cut."""
    if given == "START":
        raise PydanticCustomError("truncate", "texts are cut at their end only: END, or NONE")
    return {"NONE": False, "END": True}.get(given, given) if isinstance(given, str) else given


Cut = Annotated[bool, BeforeValidator(_cut)]


def _one_vector(given: bool) -> bool:
    if given:
        raise PydanticCustomError("multivector", "POST /v1/embeddings and /v1/multi-vector have vectors of tokens")
    return given


class EmbedBody(Body):
    """What every request for vectors may say, under each of its names: no dialect ignores what changes vectors.

    A dialect has its own defaults and its own field for the texts. Names are those of Jina, OpenAI, Voyage, Cohere
    and text-embeddings-inference.
    """

    model: Name = ""
    task: Name | None = Field(None, validation_alias=AliasChoices("task", "task_type"))
    input_type: Name | None = Field(None, validation_alias=AliasChoices("input_type", "prompt_name"))
    dimensions: int | None = Field(
        None, validation_alias=AliasChoices("dimensions", "output_dimension", "output_dimensionality")
    )
    truncate: Cut = Field(False, validation_alias=AliasChoices("truncate", "truncation"))
    truncation_direction: Literal["right", "Right"] = "right"
    normalized: bool = Field(
        True, validation_alias=AliasChoices("normalized", "normalize", "normalize_embeddings")
    )
    late_chunking: bool = False
    return_multivector: Annotated[bool, AfterValidator(_one_vector)] = False

    def options(self) -> EmbedOptions:
        """What `Engine.embed` should do."""
        return {
            "task": self.task,
            "input_type": self.input_type,
            "dimensions": self.dimensions,
            "normalize": self.normalized,
            "truncate": self.truncate,
            "late_chunking": self.late_chunking,
        }


def _numbers(given: Any) -> Any:
    if given not in ("float", "float32", ["float"]):
        raise PydanticCustomError(
            "encoding", "this route answers with floats; POST /v1/embeddings has other encodings"
        )
    return "float"


class FloatsBody(EmbedBody):
    """A request to a route whose answers have no form for encodings other than floats."""

    encoding: Annotated[Literal["float"], BeforeValidator(_numbers)] = Field(
        "float",
        validation_alias=AliasChoices(
            "encoding_format", "embedding_type", "embedding_types", "encoding_type", "output_dtype"
        ),
    )


@dataclass(frozen=True)
class Reply:
    """An answer: `content` becomes JSON (NumPy arrays included), `embedded` the X-Embedding-* headers.

    Content that is bytes is sent as it is, as `media_type`. `headers` come on top.
    """

    content: Any
    embedded: Embedded | None = None
    media_type: str = "application/json"
    headers: Mapping[str, str] | None = None


Handler = Callable[[Engine, Any], Coroutine[Any, Any, Reply]]
ErrorBody = Callable[[ApiError, str], Mapping[str, Any]]


@dataclass(frozen=True)
class Endpoint:
    """One route. `body` is the schema of the request, None for a request without a body.

    A GET request has no body; its schema is that of the parameters in its path and behind its question mark.

    `error_body` makes the body of an error from the refusal and the request's id. `public`: needs no API key.
    `media_type` is that of an answer which is no error.
    """

    method: str
    path: str
    handler: Handler
    error_body: ErrorBody
    body: type[Body] | None = None
    public: bool = False
    media_type: str = "application/json"
