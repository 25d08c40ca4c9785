"""The HTTP app: its routes check a request, ask the search worker and answer in JSON. They only write thumbnails."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import reduce
from importlib import import_module
from importlib.metadata import version
from itertools import count
from operator import or_
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Path, Query, Security
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from flairsearch.core.errors import FlairSearchError, PictureError, UsageError
from flairsearch.core.json_types import SearchJson
from flairsearch.core.limits import MAX_INTEGER
from flairsearch.core.request import MAX_HITS, SearchRequest
from flairsearch.images.decoding import MAX_BYTES
from flairsearch.serve import answer_schemas as shapes
from flairsearch.serve import schemas
from flairsearch.serve.errors import ErrorMiddleware, Errors, naming_query, unless_disconnected
from flairsearch.serve.files import PRIVATE_HEADERS, PageFiles
from flairsearch.serve.metrics import CONTENT_TYPE, Metrics
from flairsearch.serve.original_files import content_disposition, open_original
from flairsearch.serve.security import PUBLIC_PATHS, SecurityMiddleware
from flairsearch.serve.thumbnails import Thumbnails
from flairsearch.serve.worker import Page, SearchWorker

SIDES = (256, 512)  # The long sides of thumbnails, in pixels.
MAX_JPEG_SIDE_PX = 65_500  # The sides of a JPEG cannot be longer.
DECODE_WORKERS = min(4, os.cpu_count() or 1)  # Few, since decoding a photo may take hundreds of megabytes.

_T = TypeVar("_T")
_Id = Annotated[int, Path(ge=1, le=MAX_INTEGER, description="Id of an image: `id` of a hit.")]


class Api:
    """The functions that answer requests; the docstrings of routes are published in the OpenAPI schema."""

    def __init__(self, worker: SearchWorker, thumbnails: Thumbnails) -> None:
        self.worker, self.thumbnails = worker, thumbnails
        self.metrics = Metrics(worker)
        self.files, self.errors = PageFiles(), Errors(worker)
        self._pool = ThreadPoolExecutor(DECODE_WORKERS, thread_name_prefix="pictures")
        self._prepared = False

    def close(self) -> None:
        """Cancel the photos that wait to be decoded."""
        self._pool.shutdown(cancel_futures=True)

    async def search(self, request: Request, asked: Annotated[schemas.SearchParameters, Query()]) -> Response:
        """Photos that answer texts, or an indexed image, best first, and the places in each."""
        return _json(await self._search(request, asked, None))

    async def search_by_body(self, request: Request, asked: Annotated[schemas.SearchParameters, Query()]) -> Response:
        """The same for an image whose file is the body, of any content type, `box` being a part of it.

        A body of type application/json is several searches: `{"queries": ["a dog", {"q": "a cat", "k": 3}], "k": 5}`.
        """
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return _json(await self._search(request, asked, await _image_body(request, asked)))
        if asked.model_fields_set:
            raise UsageError("a search with a body of JSON takes no parameters in the URL - give them in the body")
        searches = []
        for number, parameters in enumerate(schemas.read_batch(await request.body()).searches):
            with naming_query(number):
                searches.append(parameters.request(*await self._image(request, parameters, None)))
        answers = asyncio.gather(*map(_page_of_query, count(), self._submit_all(searches)))
        pages = await unless_disconnected(request, answers)
        return _json({"results": [self._to_json(page, search) for page, search in zip(pages, searches, strict=True)]})

    async def _search(self, request: Request, asked: schemas.Parameters, body: bytes | None) -> SearchJson:
        search = asked.request(*await self._image(request, asked, body))
        page = await unless_disconnected(request, asyncio.wrap_future(self.worker.search(search)))
        return self._to_json(page, search)

    def _submit_all(self, searches: Sequence[SearchRequest]) -> list[Future[Page]]:
        """Put all searches, or after an error none, into the queue of the worker."""
        waiting: list[Future[Page]] = []
        try:
            waiting.extend(self.worker.search(search) for search in searches)
        except FlairSearchError:
            for answer in waiting:
                answer.cancel()
            raise
        return waiting

    def _to_json(self, page: Page, search: SearchRequest) -> SearchJson:
        """Return a page as JSON, and count its time in the metrics."""
        self.metrics.seconds.observe(page.seconds)
        answer = schemas.search_to_json(page, search)
        answer["warnings"] = [self.errors.plain(warning) for warning in answer["warnings"]]
        return answer

    async def regions(self, request: Request, id: _Id, asked: Annotated[schemas.RegionParameters, Query()]) -> Response:
        """Where one photo shows what is asked for: a hit, with the heat map of each phrase."""
        return await self._regions(request, id, asked, None)

    async def regions_by_image(
        self, request: Request, id: _Id, asked: Annotated[schemas.RegionParameters, Query()]
    ) -> Response:
        """The same for an image whose file is the body, of any content type, `box` being a part of it."""
        return await self._regions(request, id, asked, await _image_body(request, asked))

    async def _regions(self, request: Request, id: int, asked: schemas.Parameters, body: bytes | None) -> Response:
        await self._path(request, id)
        query = asked.request(*await self._image(request, asked, body)).query
        waiting = self.worker.call(lambda engine: engine.show(id, query))
        hit = await unless_disconnected(request, asyncio.wrap_future(waiting))
        return _json(schemas.heat_to_json(hit))

    async def image(self, request: Request, id: _Id, asked: Annotated[schemas.Size, Query()]) -> Response:
        """The file of a photo where browsers show its kind, else a JPEG of it; with `size` a smaller upright JPEG."""
        path = await self._path(request, id)
        if asked.size is None:
            original = await self._work(request, lambda: open_original(path))
            if original.media_type is not None:
                return self.files.original_response(request, original, path)
            original.stream.close()
        return await self._jpeg(request, path, asked.size or MAX_JPEG_SIDE_PX)

    async def thumbnail(self, request: Request, id: _Id, asked: Annotated[schemas.Side, Query()]) -> Response:
        """A small upright JPEG."""
        if asked.size not in SIDES:
            raise UsageError(f"size={asked.size} is no size of thumbnails - use {' or '.join(map(str, SIDES))}")
        return await self._jpeg(request, await self._path(request, id), asked.size)

    async def status(self, request: Request) -> Response:
        """What is served."""
        waiting = self.worker.call(lambda engine: (engine.status(), engine.encoder.device))
        index, device = await unless_disconnected(request, asyncio.wrap_future(waiting))
        answer: shapes.StatusJson = {
            "version": version("flairsearch"),
            "index": self.worker.folder.name,
            "photos": index.images,
            "views": index.views,
            "bytes": index.bytes,
            "model": index.model,
            "codec": index.codec,
            "views_policy": index.views_policy,
            "generation": self.worker.catalog.generation(),
            "folders": [{"path": root, "photos": index.photos.get(root, 0)} for root in index.roots],
            "skipped": len(index.skipped),
            "device": device,
            "default": {"k": 10, "shortlist": "auto", "most_k": MAX_HITS},
        }
        return _json(answer)

    async def health(self) -> Response:
        """That the server answers; needs no token."""
        return _json({"status": "ok"})

    async def show_metrics(self, request: Request) -> Response:
        """Counts, as Prometheus reads them."""
        return Response(await self._work(request, self.metrics.text), headers={"content-type": CONTENT_TYPE})

    async def index_page(self, request: Request) -> Response:
        """The page. Torch is loaded meanwhile: a search by image would wait seconds for it."""
        if not self._prepared:
            self._prepared = True
            threading.Thread(target=import_module, args=("flairsearch.model.encoder",), daemon=True).start()
        return await self.files.get_response("index.html", request.scope)

    # -- steps

    async def _path(self, request: Request, image: int) -> str:
        """Return the path of an indexed image. Raises HTTPException if there is no such id."""
        path = await self._work(request, lambda: self.worker.catalog.path_of(image))
        if path is None:
            raise HTTPException(404, f"no image {image} in the index")
        return path

    async def _image(self, request: Request, asked: schemas.Parameters, body: bytes | None) -> tuple[bytes | None, str]:
        """Return the bytes of the example image, None if there is none, and the name of the image."""
        image = asked.values["image"]
        if image is None:
            return body, "picture"
        path = await self._path(request, image)
        return await self._work(request, lambda: _read(path)), os.path.basename(path)

    async def _jpeg(self, request: Request, path: str, side: int) -> Response:
        """Return a photo as a JPEG, or status 304 if the browser has it already."""
        cached_etags = request.headers.get("if-none-match", "")
        etag = await self._work(request, lambda: self.thumbnails.etag(path, side)) if cached_etags else ""
        if etag and etag in cached_etags:
            return Response(status_code=304, headers={"etag": f'"{etag}"'} | PRIVATE_HEADERS)
        thumbnail = await self._work(request, lambda: self.thumbnails.get(path, side))
        name = content_disposition(path, "image/jpeg")
        headers = {"content-type": "image/jpeg", "etag": f'"{thumbnail.etag}"', "content-disposition": name}
        return Response(thumbnail.data, headers=headers | PRIVATE_HEADERS)

    async def _work(self, request: Request, function: Callable[[], _T]) -> _T:
        """Call a function in one of the threads for photos and files."""
        return await unless_disconnected(request, asyncio.wrap_future(self._pool.submit(function)))


def create_app(api: Api, host: str, token: str | None, names: Sequence[str] = ()) -> ASGIApp:
    """Return the app: routes, inside SecurityMiddleware, which gets host, token and names, inside ErrorMiddleware."""
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
    image_body = {"application/octet-stream": picture, "image/*": picture}
    search_body = {**image_body, "application/json": {"schema": schemas.batch_schema()}}
    bodies: dict[Callable[..., Any], object] = {api.search_by_body: search_body, api.regions_by_image: image_body}
    jpeg = {"image/jpeg": picture}
    kinds = dict.fromkeys(("image/jpeg", "image/png", "image/webp", "image/gif", "image/avif"), picture)
    search, photo = (400, 404, 410, 422, 429, 503), (400, 404, 410, 422, 503)

    def add(path: str, answer: Callable[..., Any], summary: str, good: dict[str, Any], bad: tuple[int, ...]) -> None:
        failures: dict[int | str, dict[str, Any]] = {
            status: {"model": shapes.model_of(shapes.FailureJson)} for status in (401, 403, *bad)
        }
        locked = token is not None and f"/api/v1/{path}" not in PUBLIC_PATHS
        body = bodies.get(answer)
        app.add_api_route(
            f"/api/v1/{path}",
            answer,
            methods=["POST" if body else "GET"],
            summary=summary,
            response_class=Response,
            responses={200: good, **failures},
            # This only describes the token in the schema; the security middleware checks it.
            dependencies=[Security(HTTPBearer(auto_error=False))] if locked else [],
            openapi_extra={"requestBody": {"required": True, "content": body}} if body else None,
        )
        if not body:
            app.add_api_route(f"/api/v1/{path}", answer, methods=["HEAD"], include_in_schema=False)

    page, pages = _answers_with(SearchJson), _answers_with(SearchJson, shapes.BatchJson)
    regions, with_body = _answers_with(shapes.HeatHitJson), (*search, 408, 413, 414)
    add("search", api.search, "Search by text or indexed image", page, (*search, 414))
    add("search", api.search_by_body, "Search by image, or several searches", pages, with_body)
    add("regions/{id}", api.regions, "Regions and heat in one photo", regions, (*search, 414))
    add("regions/{id}", api.regions_by_image, "Regions and heat of an image", regions, with_body)
    add("images/{id}", api.image, "A photo", {"content": kinds}, (*photo, 416))
    add("thumbnails/{id}", api.thumbnail, "A thumbnail", {"content": jpeg}, photo)
    add("status", api.status, "What is served", _answers_with(shapes.StatusJson), (429, 503))
    add("health", api.health, "Whether the server answers", _answers_with(shapes.HealthJson), ())
    add("metrics", api.show_metrics, "Metrics", {"content": {"text/plain": {"schema": {"type": "string"}}}}, (503,))
    app.add_route("/", api.index_page, methods=["GET"], include_in_schema=False)
    app.mount("/static", api.files)


def _answers_with(*typed_dicts: type) -> dict[str, Any]:
    """Return the description of a successful answer, which is JSON of one of these types."""
    return {"model": reduce(or_, map(shapes.model_of, typed_dicts)), "content": {"application/json": {}}}


async def _image_body(request: Request, asked: schemas.Parameters) -> bytes:
    """Return the body. Raises UsageError when it is empty or a form, or the parameters name an image, too."""
    body = await request.body()
    if not body:
        raise UsageError("the body is empty - send the file of an image, or ask with GET")
    if body.startswith(b"--") and b"form-data" in body[:1000]:
        raise UsageError("the body is a form - send the file of an image, and nothing around it")
    if asked.values["image"] is not None:
        raise UsageError("it and the body are two images - give one of them", "image")
    return body


async def _page_of_query(number: int, answer: Future[Page]) -> Page:
    """Return the page of one of several searches; its errors name the number of the query."""
    with naming_query(number):
        return await asyncio.wrap_future(answer)


def _read(path: str) -> bytes:
    with open_original(path) as original:
        if original.stat.st_size > MAX_BYTES:
            raise PictureError(f"the photo has more than {MAX_BYTES / 1e6:.0f} MB")
        return original.data()


def _json(answer: Mapping[str, object]) -> Response:
    headers = {"cache-control": "no-store"}
    return Response(json.dumps(answer, allow_nan=False), media_type="application/json", headers=headers)
