"""A server's life: its socket, and uvicorn around the app."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from flairsearch.core.errors import UsageError
from flairsearch.serve.security import HEADERS, MOST_HEADERS, MOST_URL, is_wildcard

BACKLOG = 256  # connections that nobody has taken yet
GRACE = 5  # seconds for answers under way when it stops
MOST_HEAD = 2 * (MOST_URL + MOST_HEADERS)  # bytes of a request's first line and headers: the guard says what is wrong
HEAD_SECONDS = 30.0  # for them to arrive


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound. Raises UsageError when the port is taken or the address is none of this machine."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except (OSError, UnicodeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{host}:{port} cannot be listened on ({reason}) - give another --port or --host") from None


def url_of(host: str, port: int) -> str:
    """The address that people and browsers of this machine use."""
    name = host
    if is_wildcard(host):
        name = "::1" if ":" in host else "127.0.0.1"
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


class _Config(uvicorn.Config):
    """uvicorn's, which every connection has, and how long the head of a request may take."""

    head_seconds = HEAD_SECONDS


class Server(uvicorn.Server):
    """uvicorn around the app. `run(sockets=[...])` serves until a signal comes; it raises KeyboardInterrupt then."""

    def __init__(
        self, app: ASGIApp, ready: Callable[[], None], *, grace: int = GRACE, head_seconds: float = HEAD_SECONDS
    ) -> None:
        """ready: called once, when it answers. grace: seconds for answers under way when it stops.

        head_seconds: for the head of a request to arrive.
        """
        config = _Config(
            app,
            http=_Patient,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="error",  # what others send is no news
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=grace,
            h11_max_incomplete_event_size=MOST_HEAD,
        )
        config.head_seconds = head_seconds
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn calls it."""
        await super().startup(sockets)
        if self.started:
            self._ready()


class _Patient(H11Protocol):
    """A connection that sends at once, and is closed when the head of a request is not there in time."""

    config: _Config

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As asyncio calls it; the time for the first head begins."""
        super().connection_made(transport)
        # asyncio does it for its own sockets alone; else the body waits 40 ms for the client to confirm the head.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._deadline: asyncio.TimerHandle | None = self.loop.call_later(self.config.head_seconds, self._give_up)

    def data_received(self, data: bytes) -> None:
        """As asyncio calls it; the time for a head ends with it."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._no_deadline()
        elif self._deadline is None:  # the start of another request
            self._deadline = self.loop.call_later(self.config.head_seconds, self._give_up)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets an error in the form of all others."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = json.dumps({"error": "this is no HTTP request - see RFC 9112"}).encode()
            head = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *HEADERS)
            lines = [b"HTTP/1.1 400 Bad Request", *(b": ".join(pair) for pair in head), b"connection: close", b"", body]
            self.transport.write(b"\r\n".join(lines))
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio calls it."""
        self._no_deadline()
        super().connection_lost(exc)

    def _no_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
