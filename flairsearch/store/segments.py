"""Write-once segments: NNNNNN.tokens (codec rows) and NNNNNN.pooled (f16[N, D])."""

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
    """The files of one segment: tokens, pooled."""
    return folder / f"{number:06d}.tokens", folder / f"{number:06d}.pooled"


def checksums(tokens: NDArray[np.uint8], pooled: NDArray[np.uint8]) -> list[int]:
    """CRC-32 of each view: its row of tokens u8[N, stride], then that of its pooled vector u8[N, 2 D]."""
    return [zlib.crc32(p.data, zlib.crc32(t.data)) for t, p in zip(tokens, pooled, strict=True)]


class SegmentWriter:
    """Appends views to NAME.part files; `finish` makes them durable under their final names.

    Used as a context, it discards what was not finished.
    """

    def __init__(self, folder: Path, number: int, codec: Codec) -> None:
        self.number, self.codec, self.count = number, codec, 0
        self._finished = False
        self._folder = folder
        self._final = segment_paths(folder, number)
        self._parts = tuple(path.with_name(f"{path.name}.part") for path in self._final)
        self._streams: list[BinaryIO] = [part.open("wb") for part in self._parts]

    def append(self, encoded: EncodedViews) -> list[int]:
        """Write N views; returns their checksums. Raises OSError when the disk is full."""
        return self.append_rows(self.codec.encode(encoded), encoded.pooled)

    def append_rows(self, rows: NDArray[np.uint8], pooled: NDArray[np.float16]) -> list[int]:
        """Write N views that are coded already: rows u8[N, stride], pooled f16[N, D]."""
        both = np.ascontiguousarray(rows), np.ascontiguousarray(pooled, "<f2").view(np.uint8)
        for stream, part in zip(self._streams, both, strict=True):
            stream.write(part.data)
        self.count += len(rows)
        return checksums(*both)

    def finish(self) -> None:
        """fsync, rename, fsync the folder: after this the bytes survive a power cut."""
        for stream, width in zip(self._streams, (self.codec.stride, 2 * self.codec.dim), strict=True):
            stream.flush()
            stream.truncate(self.count * width)  # an append that was cut off may have left part of a row
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
        """Remove what was written of a segment that is not finished."""
        for stream, part in zip(self._streams, self._parts, strict=True):
            with suppress(OSError):  # closing may flush into a full disk
                stream.close()
            part.unlink(missing_ok=True)


class MappedRows:
    """`rows` u8[count, width] of a file that never changes, memory-mapped; and what the disk is told of them.

    Pages that are mapped cost a copy at the speed of memory, a system call for each row two to three times as much
    (benchmarks/store.py); rows here and there that are not in memory are many waits, unless they are asked for before.
    """

    def __init__(self, path: Path, count: int, width: int) -> None:
        """Raises StoreError when the file is missing or has not the size the catalogue says."""
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

    def take(self, rows: NDArray[np.int64], into: NDArray[np.uint8]) -> None:
        """Row numbers i64[K] -> u8[K, width]."""
        np.take(self.rows, rows, axis=0, out=into, mode="clip")  # the mode that needs no buffer; rows are in range

    def are_cached(self, rows: NDArray[np.int64]) -> bool:
        """Whether rows are in memory, as far as the system says."""
        one, width = bytearray(1), self.rows.shape[1]
        try:
            return all(os.preadv(self._file, (one,), row * width, os.RWF_NOWAIT) == 1 for row in rows.tolist())
        except (OSError, AttributeError):  # it would have to wait; or the system, or the disk, cannot say
            return False

    def prefetch(self, rows: NDArray[np.int64]) -> None:
        """Say that these rows are read soon, where the system listens."""
        if hasattr(os, "posix_fadvise"):
            width = self.rows.shape[1]
            for start, stop in runs(rows):
                first = int(rows[start]) * width
                os.posix_fadvise(self._file, first, (stop - start) * width, os.POSIX_FADV_WILLNEED)


class Segment:
    """One segment, open for reading: tokens, rows of the codec's stride; pooled, rows of 2 D bytes."""

    def __init__(self, folder: Path, number: int, count: int, codec: Codec) -> None:
        """Raises StoreError when a file is missing or has not the size the catalogue says."""
        self.number, self.count, self.codec = number, count, codec
        tokens, pooled = segment_paths(folder, number)
        self.tokens = MappedRows(tokens, count, codec.stride)
        self.pooled = MappedRows(pooled, count, 2 * codec.dim)


def runs(rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Row numbers i64[K] -> (start, stop) of each stretch that is in a row, to be read at once."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    yield from pairwise([0, *breaks.tolist(), len(rows)] if len(rows) else [])


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable (POSIX)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
