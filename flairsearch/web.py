"""HTTP: routes that check a request, ask the service, and answer in JSON. Nothing is written but thumbnails."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Path, Query, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from flairsearch import wire
from flairsearch.decode import MAX_BYTES
from flairsearch.errors import FlairSearchError, PictureError, UsageError
from flairsearch.guard import FREE, App, Guard, Message, Receive, Send
from flairsearch.metrics import CONTENT_TYPE, Metrics
from flairsearch.originals import Original, PhotoGone, disposition, open_original, opened
from flairsearch.pages import Page, read_pages
from flairsearch.question import MOST_HITS
from flairsearch.service import Busy, Service, Stopped
from flairsearch.terms import Example
from flairsearch.thumbnails import Thumbnails

SIDES = (256, 512)  # of thumbnails, pixels
FULL = 65_500  # pixels: no JPEG is larger
AT_ONCE = min(4, os.cpu_count() or 1)  # photos decoded for showing; each may take hundreds of megabytes
GONE = 499  # the client went away: nobody reads this status but the log and the metrics
PRIVATE = {"cache-control": "private, no-cache"}  # kept by the browser alone, which asks whether it is still so

_OPTION = re.compile("flairsearch .*|--([a-z]+(?:-[a-z]+)*)", re.DOTALL)  # not those of a command that is advised

_T = TypeVar("_T")
_Id = Annotated[int, Path(ge=1, le=wire.MOST_ID, description="Id of an image: `id` of a hit.")]
_log = logging.getLogger("flairsearch.web")


class Api:
    """What is served, and the functions that answer."""

    def __init__(self, service: Service, thumbnails: Thumbnails) -> None:
        self.service, self.thumbnails = service, thumbnails
        self.metrics = Metrics(service)
        self._pages = read_pages()
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="pictures")
        self._prepared = False

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    async def search(self, request: Request, asked: Annotated[wire.Search, Query()]) -> Response:
        """Photos that answer texts, or an indexed picture, best first, and the places in each."""
        return await self._search(request, asked, None)

    async def search_by_picture(self, request: Request, asked: Annotated[wire.Search, Query()]) -> Response:
        """The same for a picture whose file is the body, of any content type; `box` is of it."""
        return await self._search(request, asked, await _picture(request, asked))

    async def _search(self, request: Request, asked: wire.Search, body: bytes | None) -> Response:
        how = asked.how()
        terms = asked.terms(await self._example(request, asked, body))
        answer = await _unless_gone(request, self.service.search(terms, how))
        self.metrics.seconds.observe(answer.seconds)
        found = wire.answer_of(answer, how.offset)
        found["warnings"] = [self._plain(warning) for warning in found["warnings"]]
        return _json(found)

    async def regions(self, request: Request, id: _Id, asked: Annotated[wire.Texts, Query()]) -> Response:
        """Where one photo shows what is asked for: a hit, with the heat of each phrase."""
        return await self._regions(request, id, asked, None)

    async def regions_by_picture(self, request: Request, id: _Id, asked: Annotated[wire.Texts, Query()]) -> Response:
        """The same for a picture whose file is the body, of any content type; `box` is of it."""
        return await self._regions(request, id, asked, await _picture(request, asked))

    async def _regions(self, request: Request, id: int, asked: wire.Texts, body: bytes | None) -> Response:
        await self._path(request, id)
        terms = asked.terms(await self._example(request, asked, body))
        hit = await _unless_gone(request, self.service.call(lambda engine: engine.show(id, terms)))
        return _json(wire.heat_of(hit))

    async def image(self, request: Request, id: _Id, asked: Annotated[wire.Size, Query()]) -> Response:
        """The file of a photo where browsers show its kind, else a JPEG of it; with `size` a smaller upright JPEG."""
        path = await self._path(request, id)
        if asked.size is None:
            original = await self._work(request, lambda: open_original(path))
            if original.kind is not None:
                return _send_original(request, original, path)
            original.stream.close()
        return await self._jpeg(request, path, asked.size or FULL)

    async def thumbnail(self, request: Request, id: _Id, asked: Annotated[wire.Side, Query()]) -> Response:
        """A small upright JPEG."""
        if asked.size not in SIDES:
            raise UsageError(f"size={asked.size} is no size of thumbnails - use {' or '.join(map(str, SIDES))}")
        return await self._jpeg(request, await self._path(request, id), asked.size)

    async def status(self, request: Request) -> Response:
        """What is served."""
        found, device = await _unless_gone(request, self.service.call(lambda engine: (engine.status(), engine.device)))
        return _json(
            {
                "version": version("flairsearch"),
                "index": self.service.folder.name,
                "photos": found.images,
                "views": found.views,
                "bytes": found.bytes,
                "model": found.model,
                "codec": found.codec,
                "views_policy": found.views_policy,
                "generation": self.service.catalog.generation(),
                "folders": [{"path": root, "photos": found.photos.get(root, 0)} for root in found.roots],
                "skipped": len(found.skipped),
                "device": device,
                "default": {"k": 10, "shortlist": "auto", "most_k": MOST_HITS},
            }
        )

    async def health(self) -> Response:
        """That the server answers; needs no token."""
        return _json({"status": "ok"})

    async def show_metrics(self, request: Request) -> Response:
        """Counts, as Prometheus reads them."""
        return Response(await self._work(request, self.metrics.text), headers={"content-type": CONTENT_TYPE})

    async def index_page(self, request: Request) -> Response:
        """The page. Who opens it may search by picture: what that takes seconds to load is loaded meanwhile."""
        if not self._prepared:
            self._prepared = True
            threading.Thread(target=import_module, args=("flairsearch.encode",), daemon=True).start()
        return _send_page(request, self._pages["index.html"])

    async def static(self, request: Request) -> Response:
        """A file of the page."""
        page = self._pages.get(request.path_params["name"])
        if page is None:
            raise HTTPException(404, "no such file of the page")
        return _send_page(request, page)

    # -- steps

    async def _path(self, request: Request, image: int) -> str:
        path = await self._work(request, lambda: self.service.catalog.path_of(image))
        if path is None:
            raise HTTPException(404, f"no image {image} in the index")
        return path

    async def _example(self, request: Request, asked: wire.Texts, body: bytes | None) -> Example | None:
        name = "picture"
        if asked.image is not None:
            path = await self._path(request, asked.image)
            name, body = os.path.basename(path), await self._work(request, lambda: _read(path))
        return asked.example(body, name)

    async def _jpeg(self, request: Request, path: str, side: int) -> Response:
        known = request.headers.get("if-none-match", "")
        etag = await self._work(request, lambda: self.thumbnails.etag(path, side)) if known else ""
        if etag and etag in known:
            return Response(status_code=304, headers={"etag": f'"{etag}"'} | PRIVATE)
        found = await self._work(request, lambda: self.thumbnails.get(path, side))
        name = disposition(path, "image/jpeg")
        headers = {"content-type": "image/jpeg", "etag": f'"{found.etag}"', "content-disposition": name} | PRIVATE
        return Response(found.data, headers=headers)

    async def _work(self, request: Request, do: Callable[[], _T]) -> _T:
        """In a thread for pictures and files."""
        return await _unless_gone(request, self._pool.submit(do))

    # -- errors

    async def on_invalid(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _fail(400, wire.in_one_line(error.errors()))

    async def on_http(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        reasons = {404: "nothing is here - see /api/v1/openapi.json", 405: "no such method here - use GET"}
        known = error.detail if "image" in error.detail or "page" in error.detail else None
        return _fail(error.status_code, known or reasons.get(error.status_code, error.detail), error.headers)

    async def on_error(self, _: Request, error: Exception) -> Response:
        """What is known to go wrong; paths of this machine stay here."""
        text = self._plain(str(error))
        if isinstance(error, _ClientGone):
            return _fail(GONE, text)
        if isinstance(error, Busy):
            return _fail(429, text, {"retry-after": "1"})
        if isinstance(error, Stopped):
            return _fail(503, text, {"retry-after": "5"})
        for kind, status in ((PhotoGone, 410), (UsageError, 400), (PictureError, 422)):
            if isinstance(error, kind):
                return _fail(status, text)
        _log.error("%s", error)
        return _fail(503, "the index cannot be searched now - the server's log says why", {"retry-after": "5"})

    async def on_bug(self, _: Request, error: Exception) -> Response:
        """The line for it; it goes on to the door, which writes it down."""
        return _unforeseen()

    def _plain(self, text: str) -> str:
        """One line, without where the index lies; options are called as parameters are."""
        text = text.replace(str(self.service.folder), "the index").replace("--image FILE", "image=ID, or POST its file")
        text = _OPTION.sub(lambda found: found[0] if found[1] is None else found[1].replace("-", "_"), text)
        return " ".join(text.split())[:500]


class _ClientGone(FlairSearchError):
    """Nobody waits for the answer any more."""


class Door:
    """The outermost middleware: the named door where anything unforeseen becomes one line; and counts answers."""

    def __init__(self, app: App, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        inner = {**scope, "method": "GET", "flairsearch.head": True} if scope["method"] == "HEAD" else scope
        status, ended = [0], [False]

        async def send_noted(message: Message) -> None:
            status[0] = message.get("status", status[0])
            ended[0] = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await self._app(inner, receive, send_noted)
        except asyncio.CancelledError:  # the server stops, and waits no longer
            if not status[0]:
                await _fail(503, "the server stops - ask again later")(inner, receive, send_noted)
        except Exception:  # the named door: one web request
            _log.exception("%s %s", scope["method"], scope["path"])
            if status[0] and not ended[0]:
                raise  # half of an answer: the connection ends here
            if not status[0]:
                await _unforeseen()(inner, receive, send_noted)
        finally:
            route = getattr(inner.get("route"), "path", None) or "other"
            self._metrics.requests.labels(route, str(status[0] or GONE)).inc()


def create_app(api: Api, host: str, token: str | None, names: Sequence[str] = ()) -> App:
    """All of it: routes behind the guard, which gets the last three, behind the door."""
    app = FastAPI(
        title="flairsearch",
        version=version("flairsearch"),
        description="Search photos with a sentence: the photos, and the place in each. Read-only.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    _add_routes(app, api, token)
    app.add_exception_handler(RequestValidationError, api.on_invalid)
    app.add_exception_handler(HTTPException, api.on_http)
    app.add_exception_handler(FlairSearchError, api.on_error)
    app.add_exception_handler(Exception, api.on_bug)
    return Door(Guard(app, host, token, names), api.metrics)


def _add_routes(app: FastAPI, api: Api, token: str | None) -> None:
    picture = {"schema": {"type": "string", "format": "binary"}}
    body = {"requestBody": {"required": True, "content": {"application/octet-stream": picture, "image/*": picture}}}
    jpeg = {"image/jpeg": picture}
    kinds = dict.fromkeys(("image/jpeg", "image/png", "image/webp", "image/gif", "image/avif"), picture)
    search, photo = (400, 404, 410, 422, 429, 503), (400, 404, 410, 422, 503)

    def add(path: str, answer: Callable[..., Any], summary: str, good: dict[str, Any], bad: tuple[int, ...]) -> None:
        failures: dict[int | str, dict[str, Any]] = {status: {"model": wire.Failure} for status in (401, 403, *bad)}
        locked = token is not None and f"/api/v1/{path}" not in FREE
        posts = answer in (api.search_by_picture, api.regions_by_picture)
        app.add_api_route(
            f"/api/v1/{path}",
            answer,
            methods=["POST" if posts else "GET"],
            summary=summary,
            response_class=Response,
            responses={200: good, **failures},
            dependencies=[Security(HTTPBearer(auto_error=False))] if locked else [],  # said, not asked: the guard does
            openapi_extra=body if posts else None,
        )

    add("search", api.search, "Search by text or indexed picture", _model(wire.AnswerOut), (*search, 414))
    add("search", api.search_by_picture, "Search by picture", _model(wire.AnswerOut), (*search, 408, 413, 414))
    add("regions/{id}", api.regions, "Regions and heat in one photo", _model(wire.HeatHitOut), (*search, 414))
    regions = _model(wire.HeatHitOut)
    add("regions/{id}", api.regions_by_picture, "Regions and heat of a picture", regions, (*search, 408, 413, 414))
    add("images/{id}", api.image, "A photo", {"content": kinds}, photo)
    add("thumbnails/{id}", api.thumbnail, "A thumbnail", {"content": jpeg}, photo)
    add("status", api.status, "What is served", _model(wire.StatusOut), (429, 503))
    add("health", api.health, "Whether the server answers", _model(wire.HealthOut), ())
    add("metrics", api.show_metrics, "Metrics", {"content": {"text/plain": {"schema": {"type": "string"}}}}, (503,))
    app.add_route("/", api.index_page, methods=["GET"], include_in_schema=False)
    app.add_route("/static/{name:path}", api.static, methods=["GET"], include_in_schema=False)


def _model(model: type) -> dict[str, Any]:
    return {"model": model, "content": {"application/json": {}}}


async def _picture(request: Request, asked: wire.Texts) -> bytes:
    """The body. Raises UsageError when there is none, or another picture besides."""
    body = await request.body()
    if not body:
        raise UsageError("the body is empty - send the file of a picture, or ask with GET")
    if body.startswith(b"--") and b"form-data" in body[:1000]:
        raise UsageError("the body is a form - send the file of a picture, and nothing around it")
    if asked.image is not None:
        raise UsageError("image and a body are two pictures - give one of them")
    return body


async def _unless_gone(request: Request, answer: Future[_T]) -> _T:
    """The answer; whoever goes away before leaves the queue."""
    mine, gone = asyncio.wrap_future(answer), asyncio.ensure_future(_hang_up(request))
    try:
        await asyncio.wait((mine, gone), return_when=asyncio.FIRST_COMPLETED)
        if mine.done():
            return mine.result()
        raise _ClientGone("the client went away")
    finally:
        mine.cancel()
        gone.cancel()


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _read(path: str) -> bytes:
    with opened(path) as original:
        if original.size > MAX_BYTES:
            raise PictureError(f"the photo has more than {MAX_BYTES / 1e6:.0f} MB")
        return b"".join(original.pieces())


def _send_original(request: Request, original: Original, path: str) -> Response:
    etag = f'"{original.size:x}-{original.mtime_ns:x}"'
    headers = {"etag": etag} | PRIVATE
    if etag in request.headers.get("if-none-match", ""):
        original.stream.close()
        return Response(status_code=304, headers=headers)
    kind = original.kind or ""
    headers |= {
        "content-type": kind,
        "content-length": str(original.size),
        "content-disposition": disposition(path, kind),
    }
    if "flairsearch.head" in request.scope:
        original.stream.close()
        return Response(headers=headers)
    return StreamingResponse(original.pieces(), headers=headers)


def _send_page(request: Request, page: Page) -> Response:
    headers = {"content-type": page.kind, "etag": f'"{page.etag}"', "cache-control": "no-cache"}
    if page.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(page.data, headers=headers)


def _json(found: dict[str, Any]) -> Response:
    headers = {"cache-control": "no-store"}
    return Response(json.dumps(found, allow_nan=False), media_type="application/json", headers=headers)


def _unforeseen() -> Response:
    return _fail(500, "this should not happen - the server's log says more")


def _fail(status: int, reason: str, headers: Any = None) -> Response:
    return JSONResponse({"error": reason}, status, headers=dict(headers or {}) | {"cache-control": "no-store"})
