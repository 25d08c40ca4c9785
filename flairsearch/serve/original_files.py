"""Files of photos as they are: opened safely, and told apart by their first bytes, never by their names."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import quote

from flairsearch.core.errors import FlairSearchError

_ENDINGS = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/avif": "avif",
}


class PhotoGone(FlairSearchError):
    """An indexed photo that is not there any more, or cannot be read."""


@dataclass(frozen=True)
class Original:
    """An open file of a photo."""

    stream: BinaryIO
    stat: os.stat_result
    kind: str | None  # its media type, where every browser shows it

    def data(self) -> bytes:
        """All of the file, no more than its size was."""
        self.stream.seek(0)
        return self.stream.read(self.stat.st_size)


@contextmanager
def opened(path: str) -> Iterator[Original]:
    """`open_original`, closed at the end."""
    original = open_original(path)
    with original.stream:
        yield original


def open_original(path: str) -> Original:
    """Raises PhotoGone when there is no regular file that may be read; nothing else is waited for or read."""
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError):
        raise PhotoGone("the photo is not there any more - run flairsearch index") from None
    found = os.fstat(number)
    if not stat.S_ISREG(found.st_mode):
        os.close(number)
        raise PhotoGone("the photo is no file any more - run flairsearch index")
    stream = os.fdopen(number, "rb")
    try:
        kind = kind_of(stream.read(64))
    except OSError:
        stream.close()
        raise PhotoGone("the photo cannot be read - check its disk") from None
    return Original(stream, found, kind)


def kind_of(start: bytes) -> str | None:
    """The first bytes of a file -> its media type, of those that browsers show; None of all others."""
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


def disposition(path: str, kind: str) -> str:
    """Content-Disposition: shown in place, and a plain name to save it under, with the ending of what it is."""
    stem = os.path.splitext(os.path.basename(path))[0][:100] or "photo"
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", stem)
    full = quote(stem.encode("utf-8", "replace"), safe="")
    return f"inline; filename=\"{plain}.{_ENDINGS[kind]}\"; filename*=UTF-8''{full}.{_ENDINGS[kind]}"
