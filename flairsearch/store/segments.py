"""Write-once segments of N views: NNNNNN.tokens holds codec rows u8[N, stride], NNNNNN.pooled vectors f16[N, D]."""

from __future__ import annotations

import os
import weakref
import zlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from flairsearch.codecs.codec import Codec
from flairsearch.core.errors import StoreError
from flairsearch.core.types import EncodedViews


def segment_paths(folder: Path, number: int) -> tuple[Path, Path]:
    """Return the paths of a segment's files: tokens, pooled."""
    return folder / f"{number:06d}.tokens", folder / f"{number:06d}.pooled"


def checksums(tokens: NDArray[np.uint8], pooled: NDArray[np.uint8]) -> list[int]:
    """Return the CRC-32 of each view: of its row of tokens u8[N, stride], then of its pooled vector u8[N, 2 D]."""
    return [zlib.crc32(p.data, zlib.crc32(t.data)) for t, p in zip(tokens, pooled, strict=True)]


class SegmentWriter:
    """Appends views to NAME.part files; `finish` makes them durable under their final names.

    As a context manager, it discards an unfinished segment.
    """

    def __init__(self, folder: Path, number: int, codec: Codec) -> None:
        self.number, self.codec, self.count = number, codec, 0
        self._finished = False
        self._folder = folder
        self._final = segment_paths(folder, number)
        self._parts = tuple(path.with_name(f"{path.name}.part") for path in self._final)
        self._streams: list[BinaryIO] = [part.open("wb") for part in self._parts]

    def append(self, encoded: EncodedViews) -> list[int]:
        """Encode and write N views; return their checksums. Raises OSError if the disk is full."""
        return self.append_rows(self.codec.encode(encoded), encoded.pooled)

    def append_rows(self, rows: NDArray[np.uint8], pooled: NDArray[np.float16]) -> list[int]:
        """Write N encoded views, rows u8[N, stride] and pooled f16[N, D]; return their checksums. Raises OSError."""
        both = np.ascontiguousarray(rows), np.ascontiguousarray(pooled, "<f2").view(np.uint8)
        for stream, part in zip(self._streams, both, strict=True):
            stream.write(part.data)
        self.count += len(rows)
        return checksums(*both)

    def finish(self) -> None:
        """Sync the files, rename them and sync the folder: then the segment survives a power cut. Raises OSError."""
        for stream, width in zip(self._streams, (self.codec.stride, 2 * self.codec.dim), strict=True):
            stream.flush()
            stream.truncate(self.count * width)  # An interrupted append may have left part of a row.
            os.fsync(stream.fileno())
            stream.close()
        for part, final in zip(self._parts, self._final, strict=True):
            part.replace(final)
        sync_folder(self._folder)
        self._finished = True

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._finished:
            self.discard()

    def discard(self) -> None:
        """Remove the files of an unfinished segment."""
        for stream, part in zip(self._streams, self._parts, strict=True):
            with suppress(OSError):  # Closing flushes, which fails on a full disk.
                stream.close()
            part.unlink(missing_ok=True)


class MappedRows:
    """The rows of a file that never changes, memory-mapped as `rows` u8[count, width], with prefetching.

    Copying mapped rows runs at memory speed; a system call per row takes two to three times as long
    (benchmarks/store.py). Scattered rows that are not in memory wait for the disk one by one unless prefetched.
    """

    def __init__(self, path: Path, count: int, width: int) -> None:
        """Map the file. Raises StoreError if it is missing or its size is not the catalogue's."""
        try:
            self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            weakref.finalize(self, os.close, self._file)
            size = os.fstat(self._file).st_size
            if size != count * width:
                raise StoreError(f"{path} has {size} bytes, expected {count * width} - run flairsearch verify --repair")
            self.rows = np.memmap(path, np.uint8, "r", shape=(count, width)).view(np.ndarray)
        except FileNotFoundError:
            raise StoreError(f"{path} is missing - run flairsearch verify --repair") from None
        except OSError as error:
            raise StoreError(f"{path} cannot be read ({error.strerror}) - check its permissions") from None

    def gather(self, rows: NDArray[np.int64], into: NDArray[np.uint8]) -> None:
        """Copy rows with numbers i64[K] into u8[K, width]."""
        np.take(self.rows, rows, axis=0, out=into, mode="clip")  # Mode "clip" avoids a buffer; rows are in range.

    def in_page_cache(self, rows: NDArray[np.int64]) -> bool:
        """Whether all rows i64[K] are in the system's page cache; False if the system cannot tell."""
        byte, width = bytearray(1), self.rows.shape[1]
        try:
            return all(os.preadv(self._file, (byte,), row * width, os.RWF_NOWAIT) == 1 for row in rows.tolist())
        except (OSError, AttributeError):  # The read would block, or is not supported.
            return False

    def prefetch(self, rows: NDArray[np.int64]) -> None:
        """Tell the system that rows i64[K] will be read soon, if it accepts such advice."""
        if hasattr(os, "posix_fadvise"):
            width = self.rows.shape[1]
            for start, stop in consecutive_runs(rows):
                first = int(rows[start]) * width
                os.posix_fadvise(self._file, first, (stop - start) * width, os.POSIX_FADV_WILLNEED)


class Segment:
    """A segment open for reading: `tokens` are rows of the codec's stride, `pooled` rows of 2 D bytes."""

    def __init__(self, folder: Path, number: int, count: int, codec: Codec) -> None:
        """Map both files. Raises StoreError if one is missing or its size is not the catalogue's."""
        self.number, self.count, self.codec = number, count, codec
        tokens, pooled = segment_paths(folder, number)
        self.tokens = MappedRows(tokens, count, codec.stride)
        self.pooled = MappedRows(pooled, count, 2 * codec.dim)


def consecutive_runs(rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of each run of consecutive numbers in rows i64[K]."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    yield from pairwise([0, *breaks.tolist(), len(rows)] if len(rows) else [])


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable; only POSIX needs it. Raises OSError."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
