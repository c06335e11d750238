"""`mlx-jina serve`: the process around the application."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import uvicorn

from mlx_jina.server.app import create_app
from mlx_jina.server.engine import Engine
from mlx_jina.server.library import Library


def run(names: Sequence[str], host: str, port: int, *, allow_download: bool, loading: Mapping[str, Any]) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    app = create_app(Engine(Library(names, allow_download, **loading)))
    uvicorn.run(app, host=host, port=port, access_log=False, log_level="warning")
