"""Small upright JPEGs of photos, kept on disk: a file is decoded once for each size. Never more than a bound."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from flairsearch.core.atomic_file import atomic_write
from flairsearch.core.errors import PictureError
from flairsearch.core.paths import cache_folder
from flairsearch.images.decoding import MAX_BYTES, open_upright
from flairsearch.serve.original_files import opened

MOST_BYTES = 1_000_000_000  # of all that are kept
KEPT = 0.8  # of that, when some are thrown away: those not looked at for longest
QUALITY = 85
_FIRST, _LAST = b"\xff\xd8", b"\xff\xd9"  # bytes of a JPEG that is whole
_FRESH = 3600.0  # seconds until a look is noted again


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG, and a name for these very bytes' source: of another file, or of the file changed, it is another one."""

    data: bytes
    etag: str


class Thumbnails:
    """All thumbnails of one user; any number of threads and processes may share the folder."""

    def __init__(self, folder: Path | None = None, most_bytes: int = MOST_BYTES) -> None:
        self._folder, self._most = folder or cache_folder().parent / "thumbnails", most_bytes
        self._lock = threading.Lock()
        self._bytes: int | None = None  # on disk, about; None: not counted yet

    def etag(self, path: str, side: int) -> str:
        """Of the photo as it is now. Raises PhotoGone."""
        with opened(path) as original:
            return _name(path, original.stat.st_size, original.stat.st_mtime_ns, side)

    def get(self, path: str, side: int) -> Thumbnail:
        """The photo upright, as a JPEG whose longer side is `side` pixels at most; never larger than the photo.

        Raises PhotoGone when there is no such file, PictureError when it is no picture.
        """
        with opened(path) as original:
            name = _name(path, original.stat.st_size, original.stat.st_mtime_ns, side)
            file = self._folder / name[:2] / f"{name}.jpg"
            data = _read(file)
            if data is None:
                if original.stat.st_size > MAX_BYTES:
                    raise PictureError(f"more than {MAX_BYTES / 1e6:.0f} MB")
                data = shrink(original.data(), side)
                self._keep(file, data)
        return Thumbnail(data, name)

    def _keep(self, file: Path, data: bytes) -> None:
        """A folder that cannot be written keeps nothing."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # photos may be for their owner's eyes only
            file.parent.mkdir(exist_ok=True)
            with atomic_write(file, durable=False) as stream:
                stream.write(data)
        except OSError:
            return
        with self._lock:
            if self._bytes is None:
                self._bytes = sum(size for _, size, _ in self._all())
            else:
                self._bytes += len(data)
            if self._bytes > self._most:
                self._bytes = self._throw_away()

    def _throw_away(self) -> int:
        """The oldest, until little enough is left: how much that is."""
        left = self._all()
        total = sum(size for _, size, _ in left)
        for _, size, path in sorted(left):
            if total <= KEPT * self._most:
                break
            with suppress(OSError):
                os.unlink(path)
                total -= size
        return total

    def _all(self) -> list[tuple[float, int, str]]:
        """(when it was looked at, bytes, path) of each file, parts that a crash left among them."""
        found = []
        for file in self._folder.glob("??/*"):
            with suppress(OSError):  # another process throws away too
                stat = file.stat()
                found.append((stat.st_mtime, stat.st_size, str(file)))
        return found


def shrink(data: bytes, side: int) -> bytes:
    """Bytes of a photo -> bytes of an upright JPEG. Raises PictureError when they are none."""
    picture = open_upright(data, min_side=side)  # JPEG is decoded no larger than that takes
    picture.thumbnail((side, side))
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _name(path: str, size: int, mtime_ns: int, side: int) -> str:
    text = f"{side} {size} {mtime_ns} {path}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _read(file: Path) -> bytes | None:
    """None where there is no such file, or one that a power cut left empty or cut."""
    try:
        data = file.read_bytes()
        if not (data.startswith(_FIRST) and data.endswith(_LAST)):
            return None
        with suppress(OSError):  # a cache that may only be read
            if time.time() - file.stat().st_mtime > _FRESH:
                os.utime(file)
    except OSError:
        return None
    return data
