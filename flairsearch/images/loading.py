"""Read and decode photos in threads, in order, a bounded number ahead of the model."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from flairsearch.core.errors import PictureError
from flairsearch.core.settings import tile_count
from flairsearch.core.tiling import max_tiles
from flairsearch.core.types import ImageFile as File
from flairsearch.core.types import Picture
from flairsearch.images import formats
from flairsearch.images.decoding import content_hash, decode, read_bytes

# At least this many views are decoded ahead of the consumer; eight photos a thread if that is more.
_LOOKAHEAD_VIEWS = 64


@dataclass(frozen=True)
class Loaded:
    """A file that was read: its content hash, and its views unless the content was known already."""

    file: File
    hash: bytes
    pictures: tuple[Picture, ...] | None


@dataclass(frozen=True)
class Failed:
    """A file that could not be decoded."""

    file: File
    reason: str


def load_all(
    files: Iterable[File], views: str, size: int, known_hashes: Collection[bytes], workers: int = 0
) -> Iterator[Loaded | Failed]:
    """Read and decode files in threads, in order, a bounded number ahead of the consumer.

    known_hashes: content hashes of files that need no decoding.
    Memory: about 100 decoded views ahead, or one photo's views for each thread if that is more.
    """
    workers = workers or min(8, os.cpu_count() or 1)
    count = max(workers, max(_LOOKAHEAD_VIEWS, 8 * workers) // (1 + max_tiles(tile_count(views))))
    ahead: deque[Future[Loaded | Failed]] = deque()
    todo = iter(files)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        ahead.extend(pool.submit(_load, file, views, size, known_hashes) for file in islice(todo, count))
        while ahead:
            result = ahead.popleft().result()
            ahead.extend(pool.submit(_load, file, views, size, known_hashes) for file in islice(todo, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _load(file: File, views: str, size: int, known_hashes: Collection[bytes]) -> Loaded | Failed:
    """Read one file, and decode it unless its content hash is known."""
    try:
        if hint := _missing_library(file.absolute):
            return Failed(file, hint)
        data = read_bytes(file.absolute)
        digest = content_hash(data)
        return Loaded(file, digest, None if digest in known_hashes else decode(data, views, size))
    except PictureError as error:
        return Failed(file, str(error))


def _missing_library(path: str) -> str | None:
    try:
        return formats.missing_library(path)
    except OSError:  # `read_bytes` reports the same error.
        return None
