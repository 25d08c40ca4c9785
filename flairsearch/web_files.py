"""Files over HTTP, sent by Starlette: those of the page, and photos as they are (with ranges, ETag and dates)."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Message, Receive, Scope, Send

from flairsearch.originals import Original, disposition
from flairsearch.web_errors import HEAD

PRIVATE = {"cache-control": "private, no-cache"}  # kept by the browser alone, which asks whether it is still so
_KINDS = {  # The registry of media types of a machine may say anything, as that of Windows does of .js.
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class PageFiles(StaticFiles):
    """The files of the page, of the kinds that a page needs."""

    def __init__(self) -> None:
        super().__init__(directory=Path(__file__).parent / "static")

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Raises HTTPException when there is no such file."""
        kind = _KINDS.get(PurePath(path).suffix)
        if kind is None:
            raise HTTPException(404)
        response = await super().get_response(path, scope)
        if response.status_code == 200:
            response.headers["content-type"] = kind
        response.headers["cache-control"] = "no-cache"
        return response

    def photo(self, request: Request, original: Original, path: str) -> Response:
        """The answer with an original, which is closed at its end."""
        response = _Photo(original, path)
        if self.is_not_modified(response.headers, request.headers):
            original.stream.close()
            return NotModifiedResponse(response.headers)
        return response


class _Photo(FileResponse):
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
        """Raises HTTPException, which is answered as all errors are, when there is no such range of the file."""

        async def send_or_refuse(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                raise HTTPException(
                    message["status"], "the photo has no such range - ask without Range", dict(_range(message))
                )
            await send(message)

        with self._stream:
            await super().__call__({**scope, "method": "HEAD"} if HEAD in scope else scope, receive, send_or_refuse)


def _range(message: Message) -> list[tuple[str, str]]:
    """The header that tells how large the file is, where there is one."""
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]]
    return [header for header in headers if header[0] == "content-range"]
