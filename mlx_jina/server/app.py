"""The Starlette application: parses requests for handlers, and writes their replies."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import traceback
import uuid
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.applications import Starlette
from starlette.datastructures import Headers, QueryParams
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mlx_jina.server import access, monitoring
from mlx_jina.server.capacity import Capacity, Slot
from mlx_jina.server.dialects import cohere, jina, lm_studio, notes, ollama, openai, rerank, tei
from mlx_jina.server.dialects.base import Body, Endpoint, Reply
from mlx_jina.server.engine import Engine
from mlx_jina.server.errors import ApiError
from mlx_jina.server.metrics import Metrics
from mlx_jina.server.notes import Notes
from mlx_jina.server.openapi import document
from mlx_jina.server.page import Page

logger = logging.getLogger(__name__)

DIALECTS = (openai, jina, ollama, lm_studio, tei, cohere, rerank)

# Bodies and vectors of at least so many bytes are parsed and written in a thread, not on the event loop.
LARGE = 1 << 17
# Bytes of all bodies under way, as a multiple of the largest body.
BODIES = 8

# JSON's escapes; the group is a lone surrogate, half of a character that needs two escapes.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# A string without escapes; the last one of a body that was cut has no end.
_STRING = re.compile(rb'"[^"]*"?')
_SEPARATORS = (b",", b"[", b"{")
# Values of one body; OpenAI takes 300,000 tokens, which some clients send as numbers.
MAX_VALUES = 1_000_000
# Faults that an error names.
MAX_PROBLEMS = 10
# Characters of a path that an error repeats.
MAX_PATH = 200
# First bytes of bodies that are no JSON in UTF-8.
_SIGNATURES = {
    b"\xef\xbb\xbf": "JSON behind a UTF-8 byte order mark (BOM)",
    b"\xff\xfe": "in UTF-16",
    b"\xfe\xff": "in UTF-16",
    b"\x1f\x8b": "compressed (gzip)",
    b"\x28\xb5\x2f\xfd": "compressed (zstd)",
    b"\x78\x01": "compressed (deflate)",
    b"\x78\x9c": "compressed (deflate)",
    b"\x78\xda": "compressed (deflate)",
    b"BZh": "compressed (bzip2)",
    b"PK\x03\x04": "a ZIP archive",
    b"--": "a form (multipart)",
}

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """What a server allows.

    `max_waiting` are tokens of all requests under way, `max_body` bytes of one. `hosts` and `origins` come on top
    of this machine's own; `anywhere` is for a server that listens beyond the machine.
    """

    api_key: str | None = None
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    anywhere: bool = False
    max_waiting: int = 8_000_000
    max_body: int = 32 << 20


def create_app(engine: Engine, metrics: Metrics, settings: Settings, index: Notes | None = None) -> Starlette:
    """The application of all dialects, and of an index of notes if there is one."""
    capacity = Capacity(settings.max_waiting, BODIES * settings.max_body, engine.store.seconds_ahead)
    metrics.gauge("requests_under_way", "Requests that have no answer yet", lambda: capacity.requests)
    endpoints = [endpoint for dialect in DIALECTS for endpoint in dialect.ENDPOINTS]
    if index is not None:
        endpoints += notes.endpoints(index)
    endpoints += monitoring.endpoints(metrics, document(endpoints))
    routes = [
        Route(each.path, _Caller(engine, each, capacity, metrics, settings), methods=[each.method])
        for each in endpoints
    ]
    if index is not None:
        (root,) = (route for route, each in zip(routes, endpoints, strict=True) if _is_root(each))
        routes.insert(0, Route("/", Page(root.endpoint), methods=["GET"]))
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(
                access.Guard,
                refuse=_refusal,
                hosts=settings.hosts,
                origins=settings.origins,
                anywhere=settings.anywhere,
            ),
            Middleware(
                CORSMiddleware,
                allow_origin_regex=access.origin_pattern(settings.origins),
                allow_methods=("GET", "POST"),
                allow_headers=("*",),
                allow_private_network=True,
                expose_headers=(
                    "X-Embedding-Fingerprint",
                    "X-Embedding-Truncated",
                    "X-Rerank-Truncated",
                    "Retry-After",
                ),
            ),
        ],
        exception_handlers={HTTPException: _unrouted},
    )


def _is_root(endpoint: Endpoint) -> bool:
    return (endpoint.method, endpoint.path) == ("GET", "/")


def _refusal(refusal: ApiError, path: str) -> Response:
    """The answer to a request that reaches no endpoint."""
    dialect = ollama if path.startswith("/api/") and not path.startswith("/api/v0/") else openai
    return _json(dialect.error_body(refusal, uuid.uuid4().hex), refusal.status, refusal.headers)


async def _unrouted(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    path = path if len(path) <= MAX_PATH else f"{path[:MAX_PATH]}..."
    if error.status_code == 404:
        words = f"this server has no {path}; /openapi.json lists what it has"
    else:
        words = f"{path} does not take {request.method}"
    return _refusal(ApiError(error.status_code, words, headers=error.headers), path)


class _Caller:
    """One endpoint as an ASGI application."""

    def __init__(
        self, engine: Engine, endpoint: Endpoint, capacity: Capacity, metrics: Metrics, settings: Settings
    ) -> None:
        self._engine = engine
        self._endpoint = endpoint
        self._capacity = capacity
        self._metrics = metrics
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        try:
            response = await self._respond(scope, receive)
        except ClientDisconnect:
            self._metrics.hung_up()
            return
        self._metrics.answered(self._endpoint.path, response.status_code, time.perf_counter() - started)
        await response(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        endpoint = self._endpoint
        try:
            return await self._answer(scope, receive)
        except ClientDisconnect:
            raise
        except ApiError as error:
            refusal, request_id = error, uuid.uuid4().hex
        except Exception as error:
            request_id = uuid.uuid4().hex
            # The words of an exception might quote a text, so they are not logged.
            where = "".join(traceback.format_tb(error.__traceback__))
            logger.error("%s %s failed with %s\n%s", request_id, endpoint.path, type(error).__name__, where)
            words = f"internal error; the server's log has more under {request_id}"
            refusal = ApiError(500, words, "internal_error")
        return _json(endpoint.error_body(refusal, request_id), refusal.status, refusal.headers)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        endpoint = self._endpoint
        headers = Headers(scope=scope)
        if not (endpoint.public or access.is_own_socket(scope)):
            access.check_key(headers, self._settings.api_key)
        if endpoint.body is None:
            return _written(await endpoint.handler(self._engine, None))
        if endpoint.method == "GET":
            given = {**QueryParams(scope["query_string"]), **scope.get("path_params", {})}
            return _written(await endpoint.handler(self._engine, _checked(endpoint.body, given)))
        coding = headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise _unsupported(f"compressed ({coding[:20]})")
        with self._capacity.one() as slot:
            content = await _read(headers, receive, self._settings.max_body, slot)
            slot.enter()
            large = len(content) >= LARGE
            if large:
                parsed = await asyncio.to_thread(_parsed, endpoint.body, content)
            else:
                parsed = _parsed(endpoint.body, content)
            reply = await _while_connected(endpoint.handler(self._engine, parsed), receive)
            if reply.embedded is not None:
                self._metrics.truncated(reply.embedded.model.name, reply.embedded.truncated)
                large = reply.embedded.vectors.nbytes >= LARGE
            return await asyncio.to_thread(_written, reply) if large else _written(reply)


async def _read(headers: Headers, receive: Receive, limit: int, slot: Slot) -> bytes:
    """Read the body. Raises ApiError 413 if it is too large, ClientDisconnect if the client hangs up."""
    too_large = ApiError(
        413, f"the body is larger than {limit} bytes; send fewer texts at a time", "body_too_large"
    )
    said = headers.get("content-length", "")
    if said.isdecimal() and int(said) > limit:
        raise too_large
    pieces = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise too_large
        slot.grow(len(piece))
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces)


async def _while_connected(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """The work's result; cancels it and raises ClientDisconnect if the client hangs up first."""
    working = asyncio.create_task(work)
    leaving = asyncio.ensure_future(receive())
    leaving.add_done_callback(lambda _: working.cancel())
    try:
        return await working
    except asyncio.CancelledError:
        if leaving.done():
            raise ClientDisconnect from None
        raise
    finally:
        leaving.cancel()


def _parsed(schema: type[Body], content: bytes) -> Body:
    if (what := _not_json(content)) is not None:
        raise _unsupported(what)
    if _values(content) > MAX_VALUES:
        raise ApiError(413, f"the body holds more than {MAX_VALUES} values", "body_too_large")
    return _checked(schema, content)


def _checked(schema: type[Body], given: bytes | Mapping[str, Any]) -> Body:
    """The schema's object, from JSON or from a path's parameters. Raises ApiError 400 and 422."""
    try:
        return schema.model_validate_json(given) if isinstance(given, bytes) else schema.model_validate(given)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
    if isinstance(given, bytes) and problems[0]["type"] == "json_invalid" and _SURROGATE.search(given):
        whole = _ESCAPE.sub(_whole, given)
        if whole != given:
            return _checked(schema, whole)
    details = [
        {"field": ".".join(map(str, each["loc"])) or "body", "message": _message(each), "type": each["type"]}
        for each in problems[:MAX_PROBLEMS]
    ]
    first = details[0]
    words = "; ".join(f"{detail['field']}: {detail['message']}" for detail in details)
    if len(problems) > len(details):
        words += f"; and {len(problems) - len(details)} more"
    status = 400 if first["type"] in ("json_invalid", "token_ids", "too_many_texts", "no_texts") else 422
    raise ApiError(status, words, first["type"], first["field"], details=details)


def _message(problem: ErrorDetails) -> str:
    return "there is no such field" if problem["type"] == "extra_forbidden" else problem["msg"]


def _unsupported(what: str) -> ApiError:
    return ApiError(415, f"the body is {what}; send plain JSON in UTF-8", "unsupported_body")


def _not_json(content: bytes) -> str | None:
    """What a body is that is not JSON in UTF-8, by its first bytes."""
    for start, what in _SIGNATURES.items():
        if content.startswith(start):
            return what
    # Every second byte, or three of four, is zero where JSON begins in a wider encoding.
    begin = content[:4].replace(b"\0", b"")
    return "in UTF-16 or UTF-32" if 0 in content[:4] and begin[:1] in (b"{", b"[", b'"', b" ", b"\n") else None


def _values(content: bytes) -> int:
    """How many values a body holds at most: as many as separators, of which only those outside strings count."""
    if (counted := sum(map(content.count, _SEPARATORS))) <= MAX_VALUES:
        return counted
    outside = _STRING.sub(b"", content.replace(b"\\\\", b"").replace(b'\\"', b""))
    return sum(map(outside.count, _SEPARATORS))


def _whole(escape: re.Match[bytes]) -> bytes:
    """Replace half a character by U+FFFD: JavaScript clients cut texts within an emoji, which JSON allows."""
    return rb"\ufffd" if escape[1] else escape[0]


def _written(reply: Reply) -> Response:
    headers = dict(reply.headers or {})
    if (embedded := reply.embedded) is not None:
        headers["X-Embedding-Fingerprint"] = embedded.fingerprint
        headers["X-Embedding-Truncated"] = str(embedded.truncated)
    if isinstance(reply.content, bytes):
        return Response(reply.content, 200, headers, reply.media_type)
    return _json(reply.content, 200, headers)


def _json(content: Any, status: int, headers: Mapping[str, str]) -> Response:
    written = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(written, status, headers, "application/json")
