"""Rejects requests for another host, from another site, without the token, or of unbounded size.

A page of another site must not read photos through the browser of a user who runs a server. Such requests are
recognised by Sec-Fetch-Site and Origin, and by the Host header if a foreign name points here (DNS rebinding).
Starlette's TrustedHostMiddleware checks names only; this middleware also accepts any IP address if the server listens
on all of them. Starlette's RequestBodyLimitMiddleware limits one body; this middleware also limits all bodies together
and the time they take.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flairsearch.core.request import MAX_BODY_BYTES
from flairsearch.serve.errors import fail

MAX_TOTAL_BODY_BYTES = 8 * MAX_BODY_BYTES  # The bodies of all requests together take no more memory than this.
MAX_URL_BYTES = 16_000  # The limit for path and query string together.
MAX_HEADER_BYTES = 32_000  # The limit for all names and values of headers together.
MAX_HEADER_COUNT = 200
BODY_SECONDS = 60.0  # The body of a request must arrive within this time.
PUBLIC_PATHS = ("/api/v1/health",)  # These paths need no token.

HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        b"frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


class RequestRejected(HTTPException):
    """A request that is rejected; it also reaches a route that reads a body over its limits."""


@dataclass(frozen=True)
class TokenAuth:
    """Checks the token, and the cookie that replaces it in a browser."""

    token: str

    @property
    def cookie_name(self) -> str:
        """The name of the cookie, which depends on the token.

        Browsers send cookies to all ports of a host, so two servers on it need different names.
        """
        return f"flairsearch-{self._derive('name')[:8]}"

    def is_authorized(self, headers: dict[bytes, bytes]) -> bool:
        """Return whether the headers of a request contain the token or its cookie."""
        scheme, _, sent_token = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer" and hmac.compare_digest(sent_token.strip(), self.token.encode()):
            return True
        # Other servers on this host may have set cookies of any form, so only whole cookies are compared.
        cookies = headers.get(b"cookie", b"").split(b";")
        own_cookie = f"{self.cookie_name}={self._derive('cookie')}".encode()
        return any(hmac.compare_digest(cookie.strip(), own_cookie) for cookie in cookies)

    def is_token(self, text: str) -> bool:
        """Return whether `text` is the token, in a time that reveals nothing about the token."""
        return hmac.compare_digest(text.encode("utf-8", "replace"), self.token.encode())

    def set_cookie(self) -> str:
        """Return the value of the Set-Cookie header."""
        return f"{self.cookie_name}={self._derive('cookie')}; HttpOnly; SameSite=Strict; Path=/; Max-Age=31536000"

    def _derive(self, purpose: str) -> str:
        return hmac.new(self.token.encode(), purpose.encode(), hashlib.sha256).hexdigest()


class SecurityMiddleware:
    """ASGI middleware that answers bad requests with an error, and adds security headers to all responses."""

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        token: str | None,
        names: Iterable[str] = (),
        *,
        max_total_bytes: int = MAX_TOTAL_BODY_BYTES,
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        """Wrap an app.

        host: the name or address that the server is bound to. names: other names of the server, as of a proxy.
        token: what every request must have, or None. max_total_bytes: limit for the bodies of all requests together.
        body_seconds: how long a body may take to arrive.
        """
        self._app, self._host = app, host
        self._auth = None if token is None else TokenAuth(token)
        self._names = {name.lower() for name in (host, "localhost", *names)}
        if is_wildcard(host):
            self._names |= {socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"}
        self._max_total_bytes, self._body_seconds = max_total_bytes, body_seconds
        self._held_bytes = 0  # The bytes of all bodies in memory.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is rejected, and hand any other to the app."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        body_bytes = [0]
        try:
            self._check(scope)
            if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
                receive = self._limit_body(receive, body_bytes)
            await self._app(scope, receive, send_with_headers)
        except RequestRejected as rejection:
            await _response_of(rejection)(scope, receive, send_with_headers)
        finally:
            self._held_bytes -= body_bytes[0]

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_URL_BYTES:
            raise RequestRejected(414, f"the URL is longer than {MAX_URL_BYTES} bytes - ask with less")
        header_bytes = sum(len(name) + len(value) for name, value in scope["headers"])
        if len(scope["headers"]) > MAX_HEADER_COUNT or header_bytes > MAX_HEADER_BYTES:
            raise RequestRejected(431, "the headers are too long - ask with fewer")
        if not self._is_own_host(headers.get(b"host", b"").decode("latin-1")):
            raise RequestRejected(
                400,
                "the Host header names another machine - use the address that flairsearch serve printed, "
                "or start it with --name",
            )
        self._check_site(scope, headers)
        if self._auth is not None and scope["path"] not in PUBLIC_PATHS and not self._auth.is_authorized(headers):
            self._check_token(scope, self._auth)
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > MAX_BODY_BYTES:
            raise _too_large()

    def _is_own_host(self, host: str) -> bool:
        name = _without_port(host).lower().rstrip(".")
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or is_wildcard(self._host)  # DNS rebinding needs a name.

    def _check_site(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        is_visit = scope["path"] == "/" and headers.get(b"sec-fetch-mode") == b"navigate" and scope["method"] == "GET"
        if headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site") and not is_visit:
            raise RequestRejected(403, "asked by a page of another site - open this server's own page")
        origin = headers.get(b"origin")
        if origin is not None and origin.partition(b"://")[2].lower() != headers.get(b"host", b"").lower():
            raise RequestRejected(403, "asked by a page of another origin - open this server's own page")

    def _check_token(self, scope: Scope, auth: TokenAuth) -> None:
        """Reject a request without a token, unless it is for the page itself.

        A visit with the token in its URL is redirected to the URL without the token, and gets the cookie. The page
        needs no token: a visit through a link from another site sends no cookie, but the requests of the page do.
        """
        if scope["method"] in ("GET", "HEAD") and (scope["path"] == "/" or scope["path"].startswith("/static/")):
            tokens = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("token")
            if tokens is None:
                return
            if len(tokens) == 1 and auth.is_token(tokens[0]) and scope["path"] == "/":
                raise RequestRejected(303, "", {"location": "/", "set-cookie": auth.set_cookie()})
        where = "open the address that flairsearch serve printed, or send Authorization: Bearer TOKEN"
        raise RequestRejected(401, f"the token is missing or wrong - {where}", {"www-authenticate": "Bearer"})

    def _limit_body(self, receive: Receive, body_bytes: list[int]) -> Receive:
        """Return a `receive` that counts the bytes of the body as they arrive, and adds them to `body_bytes[0]`."""
        deadline = asyncio.get_running_loop().time() + self._body_seconds
        complete = False

        async def receive_limited() -> Message:
            nonlocal complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                reason = f"the body took longer than {self._body_seconds:.0f} s - send it again"
                raise RequestRejected(408, reason, _CLOSE) from None
            if message["type"] == "http.disconnect":
                raise RequestRejected(400, "the body ends too early - send all of it", _CLOSE)
            size = len(message.get("body", b""))
            body_bytes[0] += size
            self._held_bytes += size
            if body_bytes[0] > MAX_BODY_BYTES:
                raise _too_large()
            if self._held_bytes > self._max_total_bytes:
                raise RequestRejected(
                    429, "too many pictures at once - ask again in a second", _CLOSE | {"retry-after": "1"}
                )
            complete = not message.get("more_body", False)
            return message

        return receive_limited


_CLOSE = {"connection": "close"}


def _too_large() -> RequestRejected:
    return RequestRejected(
        413, f"the body has more than {MAX_BODY_BYTES / 1e6:.0f} MB - send a smaller picture", _CLOSE
    )


def _response_of(rejection: RequestRejected) -> Response:
    if rejection.detail:
        return fail(rejection.status_code, rejection.detail, rejection.headers)
    headers = dict(rejection.headers or {}) | {"cache-control": "no-store"}
    return Response(status_code=rejection.status_code, headers=headers)


def _without_port(host: str) -> str:
    """Return the name or address of a Host header: `name:8421`, `127.0.0.1` or `[::1]:8421`."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def is_wildcard(host: str) -> bool:
    """Return whether a server that is bound to `host` listens on all addresses of the machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Return whether a server that is bound to `host` can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
