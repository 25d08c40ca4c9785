"""What a request must be to reach the routes: for this host, from this page, with the token, of bounded size.

A page of another site must not read photos through the browser of somebody who runs a server: it is told apart by
Sec-Fetch-Site and Origin, and by the Host of a name that was pointed at this machine (DNS rebinding).
Starlette's TrustedHostMiddleware knows names alone, and this takes any address where all are listened on; its
RequestBodyLimitMiddleware counts one body, and this also counts all bodies together, and their time.
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

MOST_HELD = 8 * MAX_BODY_BYTES  # of all requests together
MOST_URL = 16_000  # bytes of path and query
MOST_HEADERS = 32_000  # bytes of their names and values; and so many of them:
MANY_HEADERS = 200
BODY_SECONDS = 60.0  # for a body to arrive
PUBLIC_PATHS = ("/api/v1/health",)  # needs no token

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
    """A request that ends here; a route that reads the body may meet it, too."""


@dataclass(frozen=True)
class TokenAuth:
    """The token, and the cookie that stands for it."""

    token: str

    @property
    def cookie(self) -> str:
        """Its name: browsers do not tell ports apart, so two servers need two."""
        return f"flairsearch-{self._derive('name')[:8]}"

    def is_given(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a request has the token as a header, or its cookie."""
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() == b"bearer" and hmac.compare_digest(given.strip(), self.token.encode()):
            return True
        cookies = headers.get(b"cookie", b"").split(b";")  # also those of other servers here, in whatever form
        wanted = f"{self.cookie}={self._derive('cookie')}".encode()
        return any(hmac.compare_digest(cookie.strip(), wanted) for cookie in cookies)

    def is_token(self, text: str) -> bool:
        """Compares in a time that tells nothing of the token."""
        return hmac.compare_digest(text.encode("utf-8", "replace"), self.token.encode())

    def set_cookie(self) -> str:
        """The header's value."""
        return f"{self.cookie}={self._derive('cookie')}; HttpOnly; SameSite=Strict; Path=/; Max-Age=31536000"

    def _derive(self, what: str) -> str:
        return hmac.new(self.token.encode(), what.encode(), hashlib.sha256).hexdigest()


class SecurityMiddleware:
    """ASGI middleware; it answers what it refuses, in the form of all errors, and adds headers to every answer."""

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        token: str | None,
        names: Iterable[str] = (),
        *,
        most_held: int = MOST_HELD,
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        """host: what the server is bound to. names: others that it is reached by.

        most_held: bytes of the bodies of all requests together. body_seconds: for a body to arrive.
        """
        self._app, self._host = app, host
        self._secret = None if token is None else TokenAuth(token)
        self._names = {name.lower() for name in (host, "localhost", *names)}
        if is_wildcard(host):
            self._names |= {socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"}
        self._most_held, self._body_seconds = most_held, body_seconds
        self._held = 0  # bytes of bodies in memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is refused; hand any other on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        held = [0]
        try:
            self._check(scope)
            if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
                receive = self._bounded(receive, held)
            await self._app(scope, receive, send_guarded)
        except RequestRejected as refused:
            await _answer(refused)(scope, receive, send_guarded)
        finally:
            self._held -= held[0]

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MOST_URL:
            raise RequestRejected(414, f"the URL is longer than {MOST_URL} bytes - ask with less")
        if len(scope["headers"]) > MANY_HEADERS or sum(len(a) + len(b) for a, b in scope["headers"]) > MOST_HEADERS:
            raise RequestRejected(431, "the headers are too long - ask with fewer")
        if not self._is_ours(headers.get(b"host", b"").decode("latin-1")):
            raise RequestRejected(
                400,
                "the Host header names another machine - use the address that flairsearch serve printed, "
                "or start it with --name",
            )
        self._check_site(scope, headers)
        if self._secret is not None and scope["path"] not in PUBLIC_PATHS and not self._secret.is_given(headers):
            self._check_token(scope, self._secret)
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > MAX_BODY_BYTES:
            raise _too_large()

    def _is_ours(self, host: str) -> bool:
        name = _without_port(host).lower().rstrip(".")
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or is_wildcard(self._host)  # no name can be pointed at an address

    def _check_site(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        visits = scope["path"] == "/" and headers.get(b"sec-fetch-mode") == b"navigate" and scope["method"] == "GET"
        if headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site") and not visits:
            raise RequestRejected(403, "asked by a page of another site - open this server's own page")
        origin = headers.get(b"origin")
        if origin is not None and origin.partition(b"://")[2].lower() != headers.get(b"host", b"").lower():
            raise RequestRejected(403, "asked by a page of another origin - open this server's own page")

    def _check_token(self, scope: Scope, secret: TokenAuth) -> None:
        """A visit with the token in its URL gets the cookie, and a URL without it.

        The page itself is no secret: a visit by a link from elsewhere has no cookie, but what the page then asks has.
        """
        if scope["method"] in ("GET", "HEAD") and (scope["path"] == "/" or scope["path"].startswith("/static/")):
            given = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("token")
            if given is None:
                return
            if len(given) == 1 and secret.is_token(given[0]) and scope["path"] == "/":
                raise RequestRejected(303, "", {"location": "/", "set-cookie": secret.set_cookie()})
        where = "open the address that flairsearch serve printed, or send Authorization: Bearer TOKEN"
        raise RequestRejected(401, f"the token is missing or wrong - {where}", {"www-authenticate": "Bearer"})

    def _bounded(self, receive: Receive, held: list[int]) -> Receive:
        """A `receive` that counts the body as it comes, whatever Content-Length says. held: [bytes of this one]."""
        deadline = asyncio.get_running_loop().time() + self._body_seconds
        complete = False

        async def receive_bounded() -> Message:
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
            held[0] += size
            self._held += size
            if held[0] > MAX_BODY_BYTES:
                raise _too_large()
            if self._held > self._most_held:
                raise RequestRejected(
                    429, "too many pictures at once - ask again in a second", _CLOSE | {"retry-after": "1"}
                )
            complete = not message.get("more_body", False)
            return message

        return receive_bounded


_CLOSE = {"connection": "close"}


def _too_large() -> RequestRejected:
    return RequestRejected(
        413, f"the body has more than {MAX_BODY_BYTES / 1e6:.0f} MB - send a smaller picture", _CLOSE
    )


def _answer(refused: RequestRejected) -> Response:
    if refused.detail:
        return fail(refused.status_code, refused.detail, refused.headers)
    return Response(
        status_code=refused.status_code, headers=dict(refused.headers or {}) | {"cache-control": "no-store"}
    )


def _without_port(host: str) -> str:
    """`name:8421`, `127.0.0.1` or `[::1]:8421` -> the name or address."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def is_wildcard(host: str) -> bool:
    """Whether a server bound to it listens on all addresses of the machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server bound to it."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
