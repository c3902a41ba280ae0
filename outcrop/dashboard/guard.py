"""Who may ask, and what a page may load.

A page of another site, open in the same browser, can send requests here and can point a name of its own at this
address. So the Host must be one that was meant, requests that say they come from another site are refused, and beyond
loopback each browser must have shown the token once. Pages load nothing from elsewhere and run no inline script.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections.abc import Awaitable, Callable
from socket import gethostname

from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_LONGEST = 4_000  # bytes of an address before its query
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
WILDCARDS = ("0.0.0.0", "::", "")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard(BaseHTTPMiddleware):
    """Before every page. `token` is asked for where there is one."""

    def __init__(self, app: ASGIApp, host: str, token: str | None) -> None:
        super().__init__(app)
        # All addresses of this machine have names that are not known here.
        names = _LOOPBACK if is_loopback(host) else (gethostname().lower(),)
        self._hosts = None if host in WILDCARDS else {host.lower(), *names}
        self._token = token
        # Cookies know no port: a server beside this one must have another name for its own, and not see the token.
        self._cookie = "outcrop_" + _digest(f"name {token}")[:12]

    async def dispatch(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = self._refusal(request) or await call_next(request)
        response.headers.update(HEADERS)
        return response

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if self._hosts is not None and _name(host).lower() not in self._hosts:
            return PlainTextResponse(f"this server is not {host[:200]}", 421)
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return PlainTextResponse("requests from other sites are not answered", 403)
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("nothing here can be changed", 405)
        if len(request.scope["raw_path"]) > _LONGEST:
            return PlainTextResponse("no address here is so long", 414)
        return None if self._token is None else self._token_refusal(request, self._token)

    def _token_refusal(self, request: Request, token: str) -> Response | None:
        let_in = _digest(f"let in {token}")
        if secrets.compare_digest(request.query_params.get("token", "").encode(), token.encode()):
            path = request.scope["raw_path"].decode("ascii")  # quoted as it was: names of coders are, twice
            left = request.url.remove_query_params("token").query
            answer = RedirectResponse(path + (f"?{left}" if left else ""), 303)
            answer.set_cookie(self._cookie, let_in, httponly=True, samesite="strict")
            return answer
        if secrets.compare_digest(request.cookies.get(self._cookie, "").encode(), let_in.encode()):
            return None
        return PlainTextResponse("the address with its token, as `outcrop serve` printed it, opens this", 401)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _name(host: str) -> str:
    """Without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
