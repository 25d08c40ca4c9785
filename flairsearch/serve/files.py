"""Files over HTTP, sent by Starlette: those of the page, and photos as they are (with ranges, ETag and dates)."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Message, Receive, Scope, Send

from flairsearch.serve.original_files import Original, disposition

PRIVATE = {"cache-control": "private, no-cache"}  # Only the browser keeps a photo, and asks whether it is still so.
_KINDS = {  # Media types are fixed here, as the registry of a machine may say anything of .js.
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class _File(FileResponse):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises HTTPException, which is answered as all errors are, when the file has no such range."""

        async def send_or_refuse(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                size = {"content-range": f"bytes */{self.headers['content-length']}"}
                raise HTTPException(message["status"], "the file has no such range - ask without Range", size)
            await send(message)

        await super().__call__(scope, receive, send_or_refuse)


class _Photo(_File):
    """Reads the open file that was checked, not what its path leads to by the time it is sent."""

    def __init__(self, original: Original, path: str) -> None:
        self._stream = original.stream
        self._stream.seek(0)  # Systems where /dev/fd shares the position go on from there.
        opened = f"/dev/fd/{self._stream.fileno()}"
        assert original.kind is not None
        super().__init__(
            opened if os.path.exists(opened) else path,  # Windows has no such names: the path is opened once more.
            headers=PRIVATE | {"content-disposition": disposition(path, original.kind)},
            media_type=original.kind,
            stat_result=original.stat,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._stream:
            await super().__call__(scope, receive, send)


class PageFiles(StaticFiles):
    """The files of the page, of the kinds that a page needs."""

    def __init__(self) -> None:
        super().__init__(directory=Path(__file__).parent / "static")

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Raises HTTPException when there is no such file."""
        if PurePath(path).suffix not in _KINDS:
            raise HTTPException(404)
        return await super().get_response(path, scope)

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """As StaticFiles calls it."""
        kind, kept = _KINDS[PurePath(full_path).suffix], {"cache-control": "no-cache"}
        response = _File(full_path, status_code, kept, kind, stat_result=stat_result)
        return self._unless_known(response, Headers(scope=scope))

    def photo(self, request: Request, original: Original, path: str) -> Response:
        """The answer with an original, which is closed at its end."""
        response = self._unless_known(_Photo(original, path), request.headers)
        if isinstance(response, NotModifiedResponse):
            original.stream.close()
        return response

    def _unless_known(self, response: FileResponse, asked: Headers) -> Response:
        return NotModifiedResponse(response.headers) if self.is_not_modified(response.headers, asked) else response
