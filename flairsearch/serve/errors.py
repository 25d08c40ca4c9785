"""Errors over HTTP: each becomes one line of JSON, `{"error": ...}`; and the door where the unforeseen ones end."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flairsearch.core.errors import FlairSearchError, PictureError, UsageError
from flairsearch.serve import schemas
from flairsearch.serve.metrics import Metrics
from flairsearch.serve.original_files import PhotoGone
from flairsearch.serve.worker import Busy, SearchWorker, Stopped

GONE = 499  # The client went away: only the log and the metrics see this status.

_OPTION = re.compile("flairsearch .*|--([a-z]+(?:-[a-z]+)*)", re.DOTALL)  # An advised command keeps its options.
_log = logging.getLogger("flairsearch.serve.app")


class ClientGone(FlairSearchError):
    """Nobody waits for the answer any more."""


def fail(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a request that ends with an error."""
    return JSONResponse({"error": reason}, status, headers=dict(headers or {}) | {"cache-control": "no-store"})


class Errors:
    """The exceptions of an app, as answers."""

    def __init__(self, service: SearchWorker) -> None:
        self._service = service

    def add_to(self, app: FastAPI) -> None:
        """From now on they are what this app answers."""
        app.add_exception_handler(RequestValidationError, self._on_invalid)
        app.add_exception_handler(HTTPException, self._on_http)
        app.add_exception_handler(FlairSearchError, self._on_error)
        app.add_exception_handler(Exception, self._on_bug)

    def plain(self, text: str) -> str:
        """One line, without where the index lies; options are called as parameters are."""
        text = text.replace(str(self._service.folder), "the index")
        text = text.replace("--image FILE", "image=ID, or POST its file")
        text = _OPTION.sub(lambda found: found[0] if found[1] is None else found[1].replace("-", "_"), text)
        return " ".join(text.split())[:500]

    async def _on_invalid(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return fail(400, schemas.in_one_line(error.errors()))

    async def _on_http(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        reason = error.detail
        if reason == HTTPStatus(error.status_code).phrase:  # Starlette's own words for its own errors.
            reasons = {404: "nothing is here - see /api/v1/openapi.json", 405: "no such method here - use GET"}
            reason = reasons.get(error.status_code, reason)
        return fail(error.status_code, reason, error.headers)

    async def _on_error(self, _: Request, error: Exception) -> Response:
        """What is known to go wrong; paths of this machine stay here."""
        text = self.plain(str(error))
        if isinstance(error, ClientGone):
            return fail(GONE, text)
        if isinstance(error, Busy):
            return fail(429, text, {"retry-after": "1"})
        if isinstance(error, Stopped):
            return fail(503, text, {"retry-after": "5"})
        for kind, status in ((PhotoGone, 410), (UsageError, 400), (PictureError, 422)):
            if isinstance(error, kind):
                return fail(status, text)
        _log.error("%s", error)
        return fail(503, "the index cannot be searched now - the server's log says why", {"retry-after": "5"})

    async def _on_bug(self, _: Request, error: Exception) -> Response:
        """The line for it; it goes on to the door, which writes it down."""
        return _unforeseen()


class ErrorMiddleware:
    """The outermost middleware: the named door where anything unforeseen becomes one line; and counts answers."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, ended = [0], [False]

        async def send_noted(message: Message) -> None:
            status[0] = message.get("status", status[0])
            ended[0] = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        except asyncio.CancelledError:  # the server stops, and waits no longer
            if not status[0]:
                await fail(503, "the server stops - ask again later")(scope, receive, send_noted)
        except Exception:  # the named door: one web request
            _log.exception("%s %s", scope["method"], scope["path"])
            if status[0] and not ended[0]:
                raise  # half of an answer: the connection ends here
            if not status[0]:
                await _unforeseen()(scope, receive, send_noted)
        finally:
            route = getattr(scope.get("route"), "path", None) or "other"
            self._metrics.requests.labels(route, str(status[0] or GONE)).inc()


def _unforeseen() -> Response:
    return fail(500, "this should not happen - the server's log says more")
