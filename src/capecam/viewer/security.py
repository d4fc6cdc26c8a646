"""Who may ask the server: its own page alone.

Every page that is open in the browser can send requests to 127.0.0.1. So a request must name this
server as its host, or a page could reach it by a name that it makes lead here (DNS rebinding); it
must not come from another origin; and what writes needs a header that a form cannot send. Beyond
loopback, a token is needed, too, which a cookie carries after the first link.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

EVERYWHERE = ("0.0.0.0", "::")
"""Addresses that listen on all of the machine's, so that it may be called by any name."""

MAX_BODY = 64 * 1024
"""Bytes of a request: an outline that somebody draws has some hundred vertices of 40."""

HEADER = "x-capecam"
"""Header of requests that write; browsers ask the server before a foreign page may set it."""

POLICY = "; ".join([
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data: blob:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
])  # fmt: skip
"""Content security policy: no inline script or style, and nothing from elsewhere."""

RESPONSE_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Access:
    """Names by which a server may be called, and its token."""

    host: str
    """Address on which it listens."""
    port: int
    token: str | None = field(default=None, repr=False)
    """None: on loopback, where no other machine can reach it."""

    @classmethod
    def of(cls, host: str, port: int) -> Access:
        """Return the access of a server; beyond loopback, with a new token."""
        is_local = bracketed(host) in LOOPBACK
        return cls(host, port, None if is_local else secrets.token_urlsafe(24))

    @property
    def url(self) -> str:
        """Return the address for a browser, with the token."""
        name = "127.0.0.1" if self.host in EVERYWHERE else bracketed(self.host)
        query = "" if self.token is None else f"?token={self.token}"
        return f"http://{name}:{self.port}/{query}"

    @property
    def cookie(self) -> str:
        """Return the name of the cookie; cookies of other ports reach this server, too."""
        return f"capecam-{self.port}"

    def is_named(self, host: str) -> bool:
        """Return whether a ``Host`` header names this server."""
        if self.host in EVERYWHERE:  # any name will do for those who have the token
            return bool(host)
        names = {*LOOPBACK, bracketed(self.host)}
        allowed = {f"{name}:{self.port}" for name in names}
        return host.lower() in (allowed | names if self.port == 80 else allowed)


def bracketed(host: str) -> str:
    """Return an address as it stands in a URL, where that of IPv6 has brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host.lower()


class Guard:
    """Refuses requests that are not of the server's own page, and sets headers of responses."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in RESPONSE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the response to a request that is refused, or None."""
        headers = Headers(scope=scope)
        own = f"http://{headers.get('host', '')}"
        if not self._access.is_named(headers.get("host", "")):
            return _error(403, "this server does not go by that name")
        if headers.get("origin", own) != own or _is_foreign(headers):
            return _error(403, "requests of other sites are refused")
        if self._access.token is not None:
            answer = self._check_token(scope, headers)
            if answer is not None:
                return answer
        if scope["method"] == "POST":
            return _check_post(headers)
        return None

    def _check_token(self, scope: Scope, headers: Headers) -> Response | None:
        token = self._access.token or ""
        query = parse_qsl(scope["query_string"].decode("latin-1"))
        given = dict(query).get("token")
        if given is not None and _is_same(given, token):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            path = "/" + scope["path"].lstrip("/")  # two slashes would name another server
            answer = RedirectResponse(f"{path}?{rest}" if rest else path, 303)
            answer.set_cookie(self._access.cookie, token, httponly=True, samesite="lax")
            return answer
        if _is_same(_cookie(headers, self._access.cookie), token):
            return None
        return _error(403, "open the link that capecam view printed: it has a token")


def _is_same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def _cookie(headers: Headers, name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value


def _is_foreign(headers: Headers) -> bool:
    """Return whether the browser says that another site sends the request, not as a link."""
    site, mode = headers.get("sec-fetch-site", ""), headers.get("sec-fetch-mode", "")
    return site in ("cross-site", "same-site") and mode != "navigate"


def _check_post(headers: Headers) -> Response | None:
    if headers.get(HEADER) != "1" or "origin" not in headers:
        return _error(403, "only the page of this server may write")
    if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return _error(415, "the request must be application/json")
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > MAX_BODY:
        return _error(413, f"a request may have {MAX_BODY} bytes")
    return None


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status, {"connection": "close"})


async def read_json(request: Request) -> dict[str, Any]:
    """Return the JSON object in the body of a request, of bounded length.

    Raises:
        HTTPException: it is too long, or no such object.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"a request may have {MAX_BODY} bytes")
    try:
        tree = json.loads(bytes(body), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "the request is no JSON") from error
    if not isinstance(tree, dict):
        raise HTTPException(400, "the request must be a JSON object")
    return tree


def _no_constant(name: str) -> Iterator[None]:
    raise ValueError(f"{name} is no number")
