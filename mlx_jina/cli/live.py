"""Ask the server that has an index, by its Unix socket: its model is loaded, and its vectors are in memory."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from mlx_jina.errors import InputError
from mlx_jina.search import location

# Seconds until an answer must be there, which a first search with a large model takes.
_PATIENCE = 60.0


def ask(index: Path, route: str, request: dict[str, Any]) -> dict[str, Any] | None:
    """What the server answers; None if there is no server, or an answer that only another version understands.

    Raises InputError for what is wrong with the request.
    """
    path = location.socket_of(index)
    if path is None or not path.exists():
        return None
    body = json.dumps(request).encode()
    head = f"POST {route} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    try:
        # http.client takes longer to import than the server to answer.
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(_PATIENCE)
            client.connect(str(path))
            client.sendall(head.encode() + body)
            with client.makefile("rb") as stream:
                answer = stream.read()
    except OSError:
        return None
    head, _, content = answer.decode("utf-8", "replace").partition("\r\n\r\n")
    status = head[9:12]
    try:
        found: dict[str, Any] = json.loads(content)
    except ValueError:
        return None
    if status == "400":
        raise InputError(found["error"]["message"])
    return found if status == "200" else None
