"""Photos read and decoded in threads, in order, a bounded number ahead of the model."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from flairsearch.core.errors import PictureError
from flairsearch.core.settings import tile_count
from flairsearch.core.tiling import most_tiles
from flairsearch.core.types import ImageFile as File
from flairsearch.core.types import Picture
from flairsearch.images import formats
from flairsearch.images.decoding import content_hash, decode, read_bytes

_AHEAD = 64  # views decoded ahead of the consumer, unless eight photos a thread are more


@dataclass(frozen=True)
class Loaded:
    """One file as read: its content hash, and its views unless the content was known already."""

    file: File
    hash: bytes
    pictures: tuple[Picture, ...] | None


@dataclass(frozen=True)
class Failed:
    """One file that could not be decoded."""

    file: File
    reason: str


def load_all(
    files: Iterable[File], views: str, size: int, known: Collection[bytes], workers: int = 0
) -> Iterator[Loaded | Failed]:
    """Read and decode files in threads, in order, a bounded number ahead of the consumer.

    `known` holds content hashes that need no decoding. Memory: about 100 views ahead, or a photo's for each thread.
    """
    workers = workers or min(8, os.cpu_count() or 1)
    count = max(workers, max(_AHEAD, 8 * workers) // (1 + most_tiles(tile_count(views))))
    ahead: deque[Future[Loaded | Failed]] = deque()
    todo = iter(files)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        ahead.extend(pool.submit(_load, file, views, size, known) for file in islice(todo, count))
        while ahead:
            result = ahead.popleft().result()
            ahead.extend(pool.submit(_load, file, views, size, known) for file in islice(todo, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _load(file: File, views: str, size: int, known: Collection[bytes]) -> Loaded | Failed:
    try:
        if lacking := _missing(file.absolute):
            return Failed(file, lacking)
        data = read_bytes(file.absolute)
        digest = content_hash(data)
        return Loaded(file, digest, None if digest in known else decode(data, views, size))
    except PictureError as error:
        return Failed(file, str(error))


def _missing(path: str) -> str | None:
    try:
        return formats.missing(path)
    except OSError:  # reading it says it
        return None
