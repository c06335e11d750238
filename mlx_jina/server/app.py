"""Requests to handlers and replies to bytes: the Starlette application."""

from __future__ import annotations

import logging
import traceback
import uuid
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from mlx_jina.server import openai
from mlx_jina.server.dialect import Body, Endpoint, Reply
from mlx_jina.server.engine import Engine
from mlx_jina.server.refusal import Refusal

logger = logging.getLogger(__name__)

DIALECTS = (openai,)


def create_app(engine: Engine) -> Starlette:
    """The application of all dialects."""
    endpoints = [endpoint for dialect in DIALECTS for endpoint in dialect.ENDPOINTS]
    routes = [Route(e.path, _Caller(engine, e), methods=[e.method]) for e in endpoints]
    return Starlette(routes=routes, exception_handlers={HTTPException: _unrouted})


async def _unrouted(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json(openai.error_body(Refusal(error.status_code, error.detail), ""), error.status_code)


class _Caller:
    """One endpoint as an ASGI application."""

    def __init__(self, engine: Engine, endpoint: Endpoint) -> None:
        self._engine = engine
        self._endpoint = endpoint

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        request_id = uuid.uuid4().hex
        endpoint = self._endpoint
        try:
            body = _parsed(endpoint.body, await request.body()) if endpoint.body else None
            response = _answer(await endpoint.handler(self._engine, body))
        except ClientDisconnect:
            return
        except Refusal as refusal:
            response = _json(endpoint.error_body(refusal, request_id), refusal.status, refusal.headers)
        except Exception as error:
            # The words of an exception might quote a text, so they are not logged.
            where = "".join(traceback.format_tb(error.__traceback__))
            logger.error("%s failed with %s (%s)\n%s", endpoint.path, type(error).__name__, request_id, where)
            refusal = Refusal(500, f"internal error; the server's log says more under {request_id}", "internal")
            response = _json(endpoint.error_body(refusal, request_id), 500)
        await response(scope, receive, send)


def _parsed(schema: type[Body], content: bytes) -> Body:
    try:
        return schema.model_validate_json(content)
    except ValidationError as error:
        details = [
            {
                "field": ".".join(map(str, problem["loc"])) or "body",
                "message": problem["msg"],
                "type": problem["type"],
            }
            for problem in error.errors(include_url=False, include_input=False)
        ]
    first = details[0]
    words = "; ".join(f"{detail['field']}: {detail['message']}" for detail in details)
    status = 400 if first["type"] in ("json_invalid", "token_ids", "too_many_texts") else 422
    raise Refusal(status, words, first["type"], first["field"], details=details)


def _answer(reply: Reply) -> Response:
    headers = dict(reply.headers)
    if (embedded := reply.embedded) is not None:
        headers["X-Embedding-Fingerprint"] = embedded.fingerprint
        headers["X-Embedding-Truncated"] = str(embedded.truncated)
    return _json(reply.content, 200, headers)


def _json(content: Any, status: int, headers: dict[str, str] | None = None) -> Response:
    written = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(written, status, headers, media_type="application/json")
