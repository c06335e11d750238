"""Refuse requests from pages of other sites, from names rebound to this machine, and without the API key."""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Callable, Collection, Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mlx_jina.server.errors import ApiError

_LOCAL = ("localhost", "127.0.0.1", "[::1]")
# Origins of Obsidian on a desktop and on a phone, and of pages and apps of this machine.
_ORIGINS = r"app://obsidian\.md|capacitor://localhost|https?://(?:localhost|127\.0\.0\.1|\[::1\])(?::\d+)?"
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::\d+)?")


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def origin_pattern(allowed: Sequence[str]) -> str:
    """A regular expression of the origins that may read answers."""
    return "|".join((_ORIGINS, *map(re.escape, allowed)))


class Guard:
    """Middleware that refuses foreign Host and Origin headers with 403.

    A page of any site can have its own name resolve to 127.0.0.1 (DNS rebinding), and the Host header still has
    that name. `anywhere`, for servers that listen beyond this machine, also allows numeric addresses, which cannot
    be rebound.
    """

    def __init__(
        self,
        app: ASGIApp,
        refuse: Callable[[ApiError, str], ASGIApp],
        hosts: Collection[str],
        origins: Sequence[str],
        anywhere: bool,
    ) -> None:
        self._app = app
        self._refuse = refuse
        self._hosts = {*_LOCAL, *(host.lower() for host in hosts)}
        self._origin = re.compile(origin_pattern(origins))
        self._anywhere = anywhere

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._judge(Headers(scope=scope))) is not None:
            await self._refuse(refusal, scope["path"])(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _judge(self, headers: Headers) -> ApiError | None:
        host = _HOST.fullmatch(headers.get("host", ""))
        if host is None or not (host[1].lower() in self._hosts or (self._anywhere and _is_address(host[1]))):
            return ApiError(
                403, "this server does not answer to that Host; --allow-host adds one", "forbidden_host"
            )
        origin = headers.get("origin")
        if origin is not None and self._origin.fullmatch(origin) is None:
            return ApiError(
                403, "pages of that Origin may not use this server; --allow-origin adds one", "forbidden_origin"
            )
        # A page can have images and scripts fetched without an Origin, and measure how long they take.
        foreign = origin is None and headers.get("sec-fetch-site") == "cross-site"
        if foreign and headers.get("sec-fetch-mode") != "navigate":
            return ApiError(403, "other sites' pages may not use this server", "forbidden_origin")
        return None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def is_own_socket(scope: Scope) -> bool:
    """Whether a request came by the Unix socket, which the file system opens to this user only."""
    server = scope.get("server")
    return server is not None and server[1] is None


def check_key(headers: Headers, key: str | None) -> None:
    """Raise ApiError 401 for a wrong key; None allows every request. The comparison takes constant time."""
    if key is None:
        return
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), key.encode()):
        raise ApiError(
            401,
            "this server needs its API key: Authorization: Bearer KEY",
            "invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
