"""Run the app: the listening socket, and uvicorn with a time limit for the head of each request."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from flairsearch.core.errors import UsageError
from flairsearch.serve.security import HEADERS, MAX_HEADER_BYTES, MAX_URL_BYTES, is_wildcard

BACKLOG = 256  # The kernel queues this many connections before the server accepts them.
SHUTDOWN_SECONDS = 5  # A server that stops waits this long for responses in progress.
# uvicorn parses heads up to twice the limits of SecurityMiddleware, which rejects them with a helpful message.
MAX_HEAD_BYTES = 2 * (MAX_URL_BYTES + MAX_HEADER_BYTES)
HEAD_SECONDS = 30.0  # The first line and the headers of a request must arrive within this time.


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on `host` and `port`.

    Raises UsageError when the port is taken or the address does not belong to this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except (OSError, UnicodeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{host}:{port} cannot be listened on ({reason}) - give another --port or --host") from None


def url_of(host: str, port: int) -> str:
    """Return the URL that a browser on this machine uses."""
    name = host
    if is_wildcard(host):
        name = "::1" if ":" in host else "127.0.0.1"
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


class _Config(uvicorn.Config):
    """The settings of uvicorn, which every connection sees, and the time limit for the head of a request."""

    head_seconds = HEAD_SECONDS


class Server(uvicorn.Server):
    """uvicorn around the app.

    `run(sockets=[...])` serves until a signal arrives, and raises KeyboardInterrupt after an interrupt.
    """

    def __init__(
        self,
        app: ASGIApp,
        on_ready: Callable[[], None],
        *,
        shutdown_seconds: int = SHUTDOWN_SECONDS,
        head_seconds: float = HEAD_SECONDS,
    ) -> None:
        """Prepare a server.

        on_ready: called once, when the server accepts requests.
        shutdown_seconds: how long a server that stops waits for responses in progress.
        head_seconds: how long the first line and the headers of a request may take to arrive.
        """
        config = _Config(
            app,
            http=_HeaderTimeoutProtocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="error",  # Malformed requests are not worth a warning.
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=shutdown_seconds,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        )
        config.head_seconds = head_seconds
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to serve and call `on_ready`; uvicorn calls this method."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()


class _HeaderTimeoutProtocol(H11Protocol):
    """A connection that is closed when the head of a request does not arrive in time."""

    config: _Config

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time for the first head; asyncio calls this method."""
        super().connection_made(transport)
        # asyncio sets TCP_NODELAY only on sockets it made; without it the body waits up to 40 ms for the head's ACK.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._deadline: asyncio.TimerHandle | None = self.loop.call_later(self.config.head_seconds, self._close_if_idle)

    def data_received(self, data: bytes) -> None:
        """Stop the time when a head is complete, and start it with the next request; asyncio calls this method."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._cancel_deadline()
        elif self._deadline is None:  # The data are the start of another request.
            self._deadline = self.loop.call_later(self.config.head_seconds, self._close_if_idle)

    def send_400_response(self, msg: str) -> None:
        """Answer data that are not HTTP with an error in the form of all errors; uvicorn calls this method."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = json.dumps({"error": "this is no HTTP request - see RFC 9112"}).encode()
            head = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *HEADERS)
            lines = [b"HTTP/1.1 400 Bad Request", *(b": ".join(pair) for pair in head), b"connection: close", b"", body]
            self.transport.write(b"\r\n".join(lines))
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time; asyncio calls this method."""
        self._cancel_deadline()
        super().connection_lost(exc)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close_if_idle(self) -> None:
        self._deadline = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
