"""A bounded cache on disk of small upright JPEGs, so that each photo is decoded once per size."""

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
from flairsearch.serve.original_files import open_original

MAX_CACHE_BYTES = 1_000_000_000  # All thumbnails of one user together take no more than this.
EVICT_TO_FRACTION = 0.8  # A full cache drops its least recently used files down to this fraction of the bound.
JPEG_QUALITY = 85
_JPEG_START = b"\xff\xd8"  # The first bytes of every JPEG.
_JPEG_END = b"\xff\xd9"  # The last bytes of every complete JPEG.
_TOUCH_SECONDS = 3600.0  # The time of use of a file is updated at most this often.


@dataclass(frozen=True)
class Thumbnail:
    """An encoded thumbnail."""

    data: bytes  # The bytes of the JPEG.
    etag: str  # A name that changes with the path, size or modification time of the photo, and with the side.


class Thumbnails:
    """The thumbnails of one user; threads and processes may share the folder."""

    def __init__(self, folder: Path | None = None, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self._folder, self._max_bytes = folder or cache_folder().parent / "thumbnails", max_bytes
        self._lock = threading.Lock()
        self._bytes: int | None = None  # Roughly the bytes on disk, or None before they are counted.

    def etag(self, path: str, side: int) -> str:
        """Return the ETag that `get` would return for the photo as it is now.

        Raises PhotoGone when there is no such file.
        """
        with open_original(path) as original:
            return _cache_key(path, original.stat, side)

    def get(self, path: str, side: int) -> Thumbnail:
        """Return the photo as an upright JPEG whose longer side is at most `side` pixels, never enlarged.

        Raises PhotoGone when there is no such file, PictureError when it is not a picture.
        """
        with open_original(path) as original:
            key = _cache_key(path, original.stat, side)
            file = self._folder / key[:2] / f"{key}.jpg"
            data = _read_cached(file)
            if data is None:
                if original.stat.st_size > MAX_BYTES:
                    raise PictureError(f"more than {MAX_BYTES / 1e6:.0f} MB")
                data = make_thumbnail(original.data(), side)
                self._store(file, data)
        return Thumbnail(data, key)

    def _store(self, file: Path, data: bytes) -> None:
        """Write a thumbnail; does nothing if the folder cannot be written."""
        try:
            # Only their owner may see the photos, so other users must not read their thumbnails either.
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.parent.mkdir(exist_ok=True)
            with atomic_write(file, durable=False) as stream:
                stream.write(data)
        except OSError:
            return
        with self._lock:
            if self._bytes is None:
                self._bytes = sum(size for _, size, _ in self._list_files())
            else:
                self._bytes += len(data)
            if self._bytes > self._max_bytes:
                self._bytes = self._evict()

    def _evict(self) -> int:
        """Remove the least recently used files and return the bytes that remain."""
        files = self._list_files()
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= EVICT_TO_FRACTION * self._max_bytes:
                break
            with suppress(OSError):
                os.unlink(path)
                total -= size
        return total

    def _list_files(self) -> list[tuple[float, int, str]]:
        """List (time of last use, bytes, path) of each file, including partial files that a crash left."""
        files = []
        for file in self._folder.glob("??/*"):
            with suppress(OSError):  # Another process may have removed the file.
                stat = file.stat()
                files.append((stat.st_mtime, stat.st_size, str(file)))
        return files


def make_thumbnail(data: bytes, side: int) -> bytes:
    """Turn the bytes of a photo into the bytes of an upright JPEG whose longer side is at most `side` pixels.

    Raises PictureError when `data` is not a picture.
    """
    picture = open_upright(data, min_side=side)  # A large JPEG is decoded at a reduced scale.
    picture.thumbnail((side, side))
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _cache_key(path: str, stat: os.stat_result, side: int) -> str:
    text = f"{side} {stat.st_size} {stat.st_mtime_ns} {path}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _read_cached(file: Path) -> bytes | None:
    """Read a thumbnail; returns None if it does not exist or a power cut left it incomplete."""
    try:
        data = file.read_bytes()
        if not (data.startswith(_JPEG_START) and data.endswith(_JPEG_END)):
            return None
        with suppress(OSError):  # The cache may be on a read-only disk.
            if time.time() - file.stat().st_mtime > _TOUCH_SECONDS:
                os.utime(file)
    except OSError:
        return None
    return data
