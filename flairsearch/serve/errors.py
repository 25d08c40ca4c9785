"""Errors over HTTP: each error, also an unexpected one, becomes one line of JSON, `{"error": ...}`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import TypeVar

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

CLIENT_CLOSED_REQUEST = 499  # The client has disconnected; this status appears only in the metrics.

_T = TypeVar("_T")
_log = logging.getLogger("flairsearch.serve.app")


class ClientGone(FlairSearchError):
    """The client has disconnected before the answer."""


@contextmanager
def naming_query(number: int) -> Iterator[None]:
    """Add the number of a query, from 0, to errors within the `with` block: `queries.1: min_area: ...`."""
    try:
        yield
    except (UsageError, PictureError, PhotoGone) as error:
        raise type(error)(error.named(schemas.http_name), f"queries.{number}") from None
    except HTTPException as error:  # There is no image of that id.
        raise HTTPException(error.status_code, f"queries.{number}: {error.detail}") from None


async def unless_disconnected(request: Request, answer: asyncio.Future[_T]) -> _T:
    """Return the answer; if the client disconnects first, cancel it and raise ClientGone."""
    gone = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        raise ClientGone("the client went away")
    finally:
        answer.cancel()
        gone.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def fail(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return the answer to a request that ends with an error."""
    return JSONResponse({"error": reason}, status, headers=dict(headers or {}) | {"cache-control": "no-store"})


class Errors:
    """Turns exceptions into answers."""

    def __init__(self, worker: SearchWorker) -> None:
        self._worker = worker

    def add_to(self, app: FastAPI) -> None:
        """Register the exception handlers in an app."""
        app.add_exception_handler(RequestValidationError, self._on_invalid)
        app.add_exception_handler(HTTPException, self._on_http)
        app.add_exception_handler(FlairSearchError, self._on_error)
        app.add_exception_handler(Exception, self._on_bug)

    def plain(self, text: str) -> str:
        """Return a text as one line, without the path of the index."""
        return " ".join(text.replace(str(self._worker.folder), "the index").split())[:500]

    async def _on_invalid(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return fail(400, schemas.in_one_line(error.errors()))

    async def _on_http(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        reason = error.detail
        if reason == HTTPStatus(error.status_code).phrase:  # Starlette's default texts say too little.
            reasons = {404: "nothing is here - see /api/v1/openapi.json", 405: "no such method here - use GET"}
            reason = reasons.get(error.status_code, reason)
        return fail(error.status_code, reason, error.headers)

    async def _on_error(self, _: Request, error: Exception) -> Response:
        """Answer an expected error; the path of the index is removed from its text."""
        assert isinstance(error, FlairSearchError)
        text = self.plain(error.named(schemas.http_name))
        if isinstance(error, ClientGone):
            return fail(CLIENT_CLOSED_REQUEST, text)
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
        """Answer a bug; ErrorMiddleware logs the exception."""
        return _internal_error()


class ErrorMiddleware:
    """The outermost middleware: it turns an unexpected exception into one line, and counts answers."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the app, and answer its exceptions."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, is_complete = [0], [False]

        async def send_counted(message: Message) -> None:
            status[0] = message.get("status", status[0])
            is_complete[0] = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        except asyncio.CancelledError:  # The server stops and cancels the request.
            if not status[0]:
                await fail(503, "the server stops - ask again later")(scope, receive, send_counted)
        except Exception:  # An unexpected error of one request must not stop the server.
            _log.exception("%s %s", scope["method"], scope["path"])
            if status[0] and not is_complete[0]:
                raise  # A part of the answer is sent already, so the connection is closed.
            if not status[0]:
                await _internal_error()(scope, receive, send_counted)
        finally:
            route = getattr(scope.get("route"), "path", None) or "other"
            self._metrics.requests.labels(route, str(status[0] or CLIENT_CLOSED_REQUEST)).inc()


def _internal_error() -> Response:
    return fail(500, "this should not happen - the server's log says more")
