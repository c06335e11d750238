"""The endpoints as an OpenAPI 3.1 document."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

from mlx_jina import __version__
from mlx_jina.server.dialects.base import Body, Endpoint

_ERRORS = {
    "400": "texts or options that cannot be used",
    "401": "the API key is missing or wrong",
    "403": "a foreign Host or Origin",
    "404": "no such model",
    "408": "the body took too long",
    "413": "the body is too large",
    "415": "the body is compressed, or no JSON in UTF-8",
    "422": "the body does not fit the schema",
    "431": "the address and the headers are too large",
    "500": "the computation failed",
    "503": "no room, or the model cannot be loaded",
}

_JSON: dict[str, Any] = {"application/json": {}}


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The document that GET /openapi.json returns."""
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {}
    for endpoint in endpoints:
        operation: dict[str, Any] = {
            "summary": (inspect.getdoc(endpoint.handler) or "").partition("\n")[0],
            "operationId": re.sub(r"\W+", "_", f"{endpoint.handler.__name__}{endpoint.path}"),
            "responses": {"200": {"description": "OK", "content": {endpoint.media_type: {}}}}
            | {status: {"description": words, "content": _JSON} for status, words in _ERRORS.items()},
        }
        if endpoint.body is not None and endpoint.method == "GET":
            schema = endpoint.body.model_json_schema()
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": field}
                if f"{{{name}" in endpoint.path
                else {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": field}
                for name, field in schema["properties"].items()
            ]
        elif endpoint.body is not None:
            name = endpoint.body.__name__
            schemas[name] = _schema(endpoint.body, schemas)
            reference = {"schema": {"$ref": f"#/components/schemas/{name}"}}
            operation["requestBody"] = {"required": True, "content": {"application/json": reference}}
        paths.setdefault(endpoint.path.replace(":path}", "}"), {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "mlx-jina", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _schema(body: type[Body], schemas: dict[str, Any]) -> dict[str, Any]:
    """A body's schema, in which every optional field may be null."""
    schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    for name, field in schema["properties"].items():
        if name not in schema.get("required", ()):
            schema["properties"][name] = {"anyOf": [field, {"type": "null"}]}
    return schema
