"""Files over HTTP, sent by Starlette: the files of the page, and original photos (with ranges, ETag and dates)."""

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

from flairsearch.serve.original_files import Original, content_disposition

# Only the browser may cache a photo, and it must ask the server each time whether the photo has changed.
PRIVATE_HEADERS = {"cache-control": "private, no-cache"}
_RANGE_PATTERN = re.compile(r"(\d*)-(\d*)")
_MAX_MTIME = 253_402_300_799  # The last second of the year 9999; HTTP cannot express later dates.
_MEDIA_TYPES = {  # The types are fixed here, since the type registry of a machine may be wrong about .js.
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class _RangeResponse(FileResponse):
    """A file response whose range errors have the form of all errors of the server."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file or a range of it.

        Raises HTTPException when the file does not have the requested range.
        """
        remaining = 0

        async def send_checked(message: Message) -> None:
            nonlocal remaining
            if message["type"] == "http.response.start":
                if message["status"] >= 400:
                    size = {"content-range": f"bytes */{self.headers['content-length']}"}
                    raise HTTPException(message["status"], "the file has no such range - ask without Range", size)
                remaining = int(Headers(raw=message["headers"])["content-length"])
            elif message["type"] == "http.response.body":  # A file that grows meanwhile is cut to the announced length.
                message["body"] = message.get("body", b"")[:remaining]
                remaining -= len(message["body"])
            await send(message)

        # RFC 9110, 14.2: a server ignores a Range header that it cannot parse.
        if not _is_byte_range(Headers(scope=scope).get("range", "")):
            scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"range"]}
        await super().__call__(scope, receive, send_checked)


def _is_byte_range(text: str) -> bool:
    """Return whether a Range header names bytes: `bytes=0-99`, `bytes=100-`, `bytes=-5`, or several of these."""
    unit, _, ranges = text.partition("=")
    matches = [_RANGE_PATTERN.fullmatch(part.strip()) for part in ranges.split(",")]
    return unit.strip().lower() == "bytes" and all(
        match and any(match.groups()) and not (all(match.groups()) and int(match[1]) > int(match[2]))
        for match in matches
    )


def _clamp_mtime(stat: os.stat_result) -> os.stat_result:
    """Return `stat` with its modification time moved into the years 1970 to 9999, which HTTP can express."""
    if 0 <= stat.st_mtime <= _MAX_MTIME:
        return stat
    return os.stat_result((*stat[:8], min(max(int(stat.st_mtime), 0), _MAX_MTIME), stat[9]))


class _OriginalResponse(_RangeResponse):
    """Sends the open file that was checked, even if its path leads to another file by now."""

    def __init__(self, original: Original, path: str) -> None:
        self._original = original
        original.stream.seek(0)  # On some systems /dev/fd shares the position of the open file.
        descriptor_path = f"/dev/fd/{original.stream.fileno()}"
        assert original.media_type is not None
        super().__init__(
            # Windows has no /dev/fd: the path is opened once more there.
            descriptor_path if os.path.exists(descriptor_path) else path,
            headers=PRIVATE_HEADERS | {"content-disposition": content_disposition(path, original.media_type)},
            media_type=original.media_type,
            stat_result=_clamp_mtime(original.stat),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._original:
            await super().__call__(scope, receive, send)


class PageFiles(StaticFiles):
    """Serves the files of the page; files of other types do not exist for it."""

    def __init__(self, directory: Path = Path(__file__).parent / "static") -> None:
        # Some package installers put symbolic links to a shared store in place of files.
        super().__init__(directory=directory, follow_symlink=True)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return the response for a path below /static/.

        Raises HTTPException when there is no such file.
        """
        if PurePath(path).suffix not in _MEDIA_TYPES:
            raise HTTPException(404)
        return await super().get_response(path, scope)

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Return a file with an ETag of its content; StaticFiles calls this method."""
        media_type, data = _MEDIA_TYPES[PurePath(full_path).suffix], Path(full_path).read_bytes()
        # Some package installers give all files one date, so only the content tells an old version from a new one.
        headers = {"cache-control": "no-cache", "etag": f'"{blake2b(data, digest_size=16).hexdigest()}"'}
        response = _RangeResponse(full_path, status_code, headers, media_type, stat_result=stat_result)
        return self._or_not_modified(response, Headers(scope=scope))

    def original_response(self, request: Request, original: Original, path: str) -> Response:
        """Return the response with an original photo; the photo's file is closed after it is sent."""
        response = self._or_not_modified(_OriginalResponse(original, path), request.headers)
        if isinstance(response, NotModifiedResponse):
            original.stream.close()
        return response

    def _or_not_modified(self, response: FileResponse, request_headers: Headers) -> Response:
        """Return `response`, or status 304 if the browser has the file already."""
        if self.is_not_modified(response.headers, request_headers):
            return NotModifiedResponse(response.headers)
        return response
