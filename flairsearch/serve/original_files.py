"""Opens the original files of photos safely, and tells their media type by their first bytes, not by their names."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Self
from urllib.parse import quote

from flairsearch.core.errors import FlairSearchError

_EXTENSIONS = {  # Media types that every browser shows, and the extension under which a browser saves them.
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/avif": "avif",
}


class PhotoGone(FlairSearchError):
    """An indexed photo no longer exists or cannot be read."""


@dataclass(frozen=True)
class Original:
    """The open file of a photo; as a context manager it closes the file."""

    stream: BinaryIO
    stat: os.stat_result
    media_type: str | None  # The media type, or None if some browsers do not show it.

    def data(self) -> bytes:
        """Read the file, up to the size it had when it was opened."""
        self.stream.seek(0)
        return self.stream.read(self.stat.st_size)

    def __enter__(self) -> Self:
        """Return this record."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.stream.close()


def open_original(path: str) -> Original:
    """Open a photo for reading; a pipe or device is neither read nor waited for.

    Raises PhotoGone when `path` is not a readable regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError):
        raise PhotoGone("the photo is not there any more - run flairsearch index") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise PhotoGone("the photo is not a file any more - run flairsearch index")
    stream = os.fdopen(descriptor, "rb")
    try:
        media_type = detect_media_type(stream.read(64))
    except OSError:
        stream.close()
        raise PhotoGone("the photo cannot be read - check its disk") from None
    return Original(stream, status, media_type)


def detect_media_type(start: bytes) -> str | None:
    """Return the media type of a file that begins with `start`, or None if it is not one that every browser shows."""
    if start.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if start[:6] in (b"GIF87a", b"GIF89a"):
        return "image/gif"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "image/webp"
    if start[4:8] == b"ftyp" and start[8:12] in (b"avif", b"avis"):
        return "image/avif"
    return None


def content_disposition(path: str, media_type: str) -> str:
    """Return a Content-Disposition that shows the file in the browser and names it for saving (RFC 6266).

    The name is that of the photo, with the extension of `media_type`.
    """
    stem = os.path.splitext(os.path.basename(path))[0][:100] or "photo"
    ascii_name = re.sub(r"[^A-Za-z0-9_-]", "_", stem)
    full_name = quote(stem.encode("utf-8", "replace"), safe="")
    extension = _EXTENSIONS[media_type]
    return f"inline; filename=\"{ascii_name}.{extension}\"; filename*=UTF-8''{full_name}.{extension}"
