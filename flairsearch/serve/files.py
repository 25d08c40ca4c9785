"""Files over HTTP, sent by Starlette: those of the page, and photos as they are (with ranges, ETag and dates)."""

from __future__ import annotations

import os
import re
from hashlib import blake2b
from pathlib import Path, PurePath

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Message, Receive, Scope, Send

from flairsearch.serve.original_files import Original, disposition

PRIVATE = {"cache-control": "private, no-cache"}  # Only the browser keeps a photo, and asks whether it is still so.
_RANGE = re.compile(r"(\d*)-(\d*)")
_LAST_SECOND = 253_402_300_799  # The year 9999 ends with it.
_KINDS = {  # Media types are fixed here, as the registry of a machine may say anything of .js.
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class _File(FileResponse):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises HTTPException, which is answered as all errors are, when the file has no such range."""
        left = 0

        async def send_or_refuse(message: Message) -> None:
            nonlocal left
            if message["type"] == "http.response.start":
                if message["status"] >= 400:
                    size = {"content-range": f"bytes */{self.headers['content-length']}"}
                    raise HTTPException(message["status"], "the file has no such range - ask without Range", size)
                left = int(Headers(raw=message["headers"])["content-length"])
            elif message["type"] == "http.response.body":  # A file may grow while it is sent.
                message["body"] = message.get("body", b"")[:left]
                left -= len(message["body"])
            await send(message)

        if not _is_range(Headers(scope=scope).get("range", "")):  # RFC 9110, 14.2: what is no range is ignored.
            scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"range"]}
        await super().__call__(scope, receive, send_or_refuse)


def _is_range(text: str) -> bool:
    """Whether a Range header names bytes: `bytes=0-99`, `bytes=100-`, `bytes=-5`, or several."""
    unit, _, parts = text.partition("=")
    pairs = [_RANGE.fullmatch(part.strip()) for part in parts.split(",")]
    return unit.strip().lower() == "bytes" and all(
        pair and any(pair.groups()) and not (all(pair.groups()) and int(pair[1]) > int(pair[2])) for pair in pairs
    )


def _dated(stat: os.stat_result) -> os.stat_result:
    """The same, with a time of change that HTTP can tell: years 1970 to 9999."""
    if 0 <= stat.st_mtime <= _LAST_SECOND:
        return stat
    return os.stat_result((*stat[:8], min(max(int(stat.st_mtime), 0), _LAST_SECOND), stat[9]))


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
            stat_result=_dated(original.stat),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._stream:
            await super().__call__(scope, receive, send)


class PageFiles(StaticFiles):
    """The files of the page, of the kinds that a page needs."""

    def __init__(self, directory: Path = Path(__file__).parent / "static") -> None:
        # Some installers link the files of a package to a store of theirs.
        super().__init__(directory=directory, follow_symlink=True)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Raises HTTPException when there is no such file."""
        if PurePath(path).suffix not in _KINDS:
            raise HTTPException(404)
        return await super().get_response(path, scope)

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """As StaticFiles calls it."""
        kind, data = _KINDS[PurePath(full_path).suffix], Path(full_path).read_bytes()
        # Some installers give all files one date: the content alone tells a new version from an old one.
        kept = {"cache-control": "no-cache", "etag": f'"{blake2b(data, digest_size=16).hexdigest()}"'}
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
