"""The page to search notes, one file without anything from elsewhere, and its Content Security Policy."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

FILE = Path(__file__).with_name("page.html")


class Page:
    """The page at `/` for browsers; other clients, such as Ollama's, get what the path has for them."""

    def __init__(self, others: ASGIApp) -> None:
        self._others = others
        self._content = FILE.read_bytes()
        self._headers = {
            "Content-Security-Policy": policy(self._content.decode()),
            "Cache-Control": "no-cache",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "Vary": "Accept",
            "X-Content-Type-Options": "nosniff",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Browsers name HTML before */*, which programs send.
        if "text/html" in Headers(scope=scope).get("accept", ""):
            answer: ASGIApp = Response(self._content, 200, self._headers, "text/html")
        else:
            answer = self._others
        await answer(scope, receive, send)


def policy(page: str) -> str:
    """Only the page's own script and style, by their hashes, and only this server to ask; no frame around it.

    Pictures come as blobs, which the script asks for with the key that an <img> cannot send.
    """
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hashes('script', page)}",
            f"style-src {_hashes('style', page)}",
            "connect-src 'self'",
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        )
    )


def _hashes(element: str, page: str) -> str:
    found = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in found)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
