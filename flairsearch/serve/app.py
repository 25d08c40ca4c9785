"""HTTP: routes that check a request, ask the service, and answer in JSON. Nothing is written but thumbnails."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Path, Query, Security
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from flairsearch.core.errors import PictureError, UsageError
from flairsearch.core.query import ImageExample
from flairsearch.images.decoding import MAX_BYTES
from flairsearch.search.request import MOST_HITS
from flairsearch.serve import answer_schemas as shapes
from flairsearch.serve import schemas
from flairsearch.serve.errors import ClientGone, ErrorMiddleware, Errors
from flairsearch.serve.files import PRIVATE_HEADERS, PageFiles
from flairsearch.serve.metrics import CONTENT_TYPE, Metrics
from flairsearch.serve.original_files import content_disposition, open_original
from flairsearch.serve.security import PUBLIC_PATHS, SecurityMiddleware
from flairsearch.serve.thumbnails import Thumbnails
from flairsearch.serve.worker import SearchWorker

SIDES = (256, 512)  # of thumbnails, pixels
FULL = 65_500  # pixels: no JPEG is larger
AT_ONCE = min(4, os.cpu_count() or 1)  # photos decoded for showing; each may take hundreds of megabytes

_T = TypeVar("_T")
_Id = Annotated[int, Path(ge=1, le=schemas.MOST_ID, description="Id of an image: `id` of a hit.")]


class Api:
    """What is served, and the functions that answer."""

    def __init__(self, service: SearchWorker, thumbnails: Thumbnails) -> None:
        self.service, self.thumbnails = service, thumbnails
        self.metrics = Metrics(service)
        self.files, self.errors = PageFiles(), Errors(service)
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="pictures")
        self._prepared = False

    def close(self) -> None:
        """Pictures that nobody works on yet are given up."""
        self._pool.shutdown(cancel_futures=True)

    async def search(self, request: Request, asked: Annotated[schemas.Search, Query()]) -> Response:
        """Photos that answer texts, or an indexed picture, best first, and the places in each."""
        return await self._search(request, asked, None)

    async def search_by_picture(self, request: Request, asked: Annotated[schemas.Search, Query()]) -> Response:
        """The same for a picture whose file is the body, of any content type; `box` is of it."""
        return await self._search(request, asked, await _picture(request, asked))

    async def _search(self, request: Request, asked: schemas.Search, body: bytes | None) -> Response:
        how = asked.how()
        terms = asked.terms(await self._example(request, asked, body))
        answer = await _unless_gone(request, self.service.search(terms, how))
        self.metrics.seconds.observe(answer.seconds)
        found = schemas.answer_of(answer, how.offset)
        found["warnings"] = [self.errors.plain(warning) for warning in found["warnings"]]
        return _json(found)

    async def regions(self, request: Request, id: _Id, asked: Annotated[schemas.Texts, Query()]) -> Response:
        """Where one photo shows what is asked for: a hit, with the heat of each phrase."""
        return await self._regions(request, id, asked, None)

    async def regions_by_picture(self, request: Request, id: _Id, asked: Annotated[schemas.Texts, Query()]) -> Response:
        """The same for a picture whose file is the body, of any content type; `box` is of it."""
        return await self._regions(request, id, asked, await _picture(request, asked))

    async def _regions(self, request: Request, id: int, asked: schemas.Texts, body: bytes | None) -> Response:
        await self._path(request, id)
        terms = asked.terms(await self._example(request, asked, body))
        hit = await _unless_gone(request, self.service.call(lambda engine: engine.show(id, terms)))
        return _json(schemas.heat_of(hit))

    async def image(self, request: Request, id: _Id, asked: Annotated[schemas.Size, Query()]) -> Response:
        """The file of a photo where browsers show its kind, else a JPEG of it; with `size` a smaller upright JPEG."""
        path = await self._path(request, id)
        if asked.size is None:
            original = await self._work(request, lambda: open_original(path))
            if original.media_type is not None:
                return self.files.original_response(request, original, path)
            original.stream.close()
        return await self._jpeg(request, path, asked.size or FULL)

    async def thumbnail(self, request: Request, id: _Id, asked: Annotated[schemas.Side, Query()]) -> Response:
        """A small upright JPEG."""
        if asked.size not in SIDES:
            raise UsageError(f"size={asked.size} is no size of thumbnails - use {' or '.join(map(str, SIDES))}")
        return await self._jpeg(request, await self._path(request, id), asked.size)

    async def status(self, request: Request) -> Response:
        """What is served."""
        found, device = await _unless_gone(request, self.service.call(lambda engine: (engine.status(), engine.device)))
        answer: shapes.StatusJson = {
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
        return _json(answer)

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
            threading.Thread(target=import_module, args=("flairsearch.model.encoder",), daemon=True).start()
        return await self.files.get_response("index.html", request.scope)

    # -- steps

    async def _path(self, request: Request, image: int) -> str:
        path = await self._work(request, lambda: self.service.catalog.path_of(image))
        if path is None:
            raise HTTPException(404, f"no image {image} in the index")
        return path

    async def _example(self, request: Request, asked: schemas.Texts, body: bytes | None) -> ImageExample | None:
        name = "picture"
        if asked.image is not None:
            path = await self._path(request, asked.image)
            name, body = os.path.basename(path), await self._work(request, lambda: _read(path))
        return asked.example(body, name)

    async def _jpeg(self, request: Request, path: str, side: int) -> Response:
        known = request.headers.get("if-none-match", "")
        etag = await self._work(request, lambda: self.thumbnails.etag(path, side)) if known else ""
        if etag and etag in known:
            return Response(status_code=304, headers={"etag": f'"{etag}"'} | PRIVATE_HEADERS)
        found = await self._work(request, lambda: self.thumbnails.get(path, side))
        name = content_disposition(path, "image/jpeg")
        headers = {"content-type": "image/jpeg", "etag": f'"{found.etag}"', "content-disposition": name}
        return Response(found.data, headers=headers | PRIVATE_HEADERS)

    async def _work(self, request: Request, do: Callable[[], _T]) -> _T:
        """In a thread for pictures and files."""
        return await _unless_gone(request, self._pool.submit(do))


def create_app(api: Api, host: str, token: str | None, names: Sequence[str] = ()) -> ASGIApp:
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
    api.errors.add_to(app)
    return ErrorMiddleware(SecurityMiddleware(app, host, token, names), api.metrics)


def _add_routes(app: FastAPI, api: Api, token: str | None) -> None:
    picture = {"schema": {"type": "string", "format": "binary"}}
    body = {"requestBody": {"required": True, "content": {"application/octet-stream": picture, "image/*": picture}}}
    jpeg = {"image/jpeg": picture}
    kinds = dict.fromkeys(("image/jpeg", "image/png", "image/webp", "image/gif", "image/avif"), picture)
    search, photo = (400, 404, 410, 422, 429, 503), (400, 404, 410, 422, 503)

    def add(path: str, answer: Callable[..., Any], summary: str, good: dict[str, Any], bad: tuple[int, ...]) -> None:
        failures: dict[int | str, dict[str, Any]] = {
            status: {"model": shapes.FailureJson} for status in (401, 403, *bad)
        }
        locked = token is not None and f"/api/v1/{path}" not in PUBLIC_PATHS
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
        if not posts:
            app.add_api_route(f"/api/v1/{path}", answer, methods=["HEAD"], include_in_schema=False)

    add("search", api.search, "Search by text or indexed picture", _model(shapes.SearchJson), (*search, 414))
    add("search", api.search_by_picture, "Search by picture", _model(shapes.SearchJson), (*search, 408, 413, 414))
    add("regions/{id}", api.regions, "Regions and heat in one photo", _model(shapes.HeatHitJson), (*search, 414))
    regions = _model(shapes.HeatHitJson)
    add("regions/{id}", api.regions_by_picture, "Regions and heat of a picture", regions, (*search, 408, 413, 414))
    add("images/{id}", api.image, "A photo", {"content": kinds}, (*photo, 416))
    add("thumbnails/{id}", api.thumbnail, "A thumbnail", {"content": jpeg}, photo)
    add("status", api.status, "What is served", _model(shapes.StatusJson), (429, 503))
    add("health", api.health, "Whether the server answers", _model(shapes.HealthJson), ())
    add("metrics", api.show_metrics, "Metrics", {"content": {"text/plain": {"schema": {"type": "string"}}}}, (503,))
    app.add_route("/", api.index_page, methods=["GET"], include_in_schema=False)
    app.mount("/static", api.files)


def _model(model: type) -> dict[str, Any]:
    return {"model": model, "content": {"application/json": {}}}


async def _picture(request: Request, asked: schemas.Texts) -> bytes:
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
        raise ClientGone("the client went away")
    finally:
        mine.cancel()
        gone.cancel()


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _read(path: str) -> bytes:
    with open_original(path) as original:
        if original.stat.st_size > MAX_BYTES:
            raise PictureError(f"the photo has more than {MAX_BYTES / 1e6:.0f} MB")
        return original.data()


def _json(found: Mapping[str, object]) -> Response:
    headers = {"cache-control": "no-store"}
    return Response(json.dumps(found, allow_nan=False), media_type="application/json", headers=headers)
