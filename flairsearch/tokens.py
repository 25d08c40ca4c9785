"""Memory-mapped, write-once segments: NNNNNN.tokens (codec rows) and NNNNNN.pooled (f16[N, D])."""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from flairsearch.codec import Codec
from flairsearch.errors import StoreError
from flairsearch.records import Encoded


def segment_paths(folder: Path, number: int) -> tuple[Path, Path]:
    """The files of one segment: tokens, pooled."""
    return folder / f"{number:06d}.tokens", folder / f"{number:06d}.pooled"


def checksums(tokens: NDArray[np.uint8], pooled: NDArray[np.float16]) -> list[int]:
    """CRC-32 of each view: its token row u8[N, stride], then its pooled vector f16[N, D]."""
    return [zlib.crc32(p.tobytes(), zlib.crc32(t.tobytes())) for t, p in zip(tokens, pooled, strict=True)]


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

    def append(self, encoded: Encoded) -> list[int]:
        """Write N views; returns their checksums. Raises OSError when the disk is full."""
        return self.append_rows(self.codec.encode(encoded), encoded.pooled)

    def append_rows(self, rows: NDArray[np.uint8], pooled: NDArray[np.float16]) -> list[int]:
        """Write N views that are coded already: rows u8[N, stride], pooled f16[N, D]."""
        pooled = np.ascontiguousarray(pooled, "<f2")
        self._streams[0].write(rows.tobytes())
        self._streams[1].write(pooled.tobytes())
        self.count += len(rows)
        return checksums(rows, pooled)

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
        for stream, part in zip(self._streams, self._parts, strict=True):
            with suppress(OSError):  # closing may flush into a full disk
                stream.close()
            part.unlink(missing_ok=True)


class Segment:
    """One segment, open for reading."""

    def __init__(self, folder: Path, number: int, count: int, codec: Codec) -> None:
        """Raises StoreError when a file is missing or has not the size the catalogue says."""
        self.number, self.count, self.codec = number, count, codec
        tokens, pooled = segment_paths(folder, number)
        self._rows = _map(tokens, (count, codec.stride))
        self.pooled: NDArray[np.float16] = _map(pooled, (count, 2 * codec.dim)).view("<f2")

    def coded(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Row numbers -> the bytes as they are, u8[K, stride]."""
        return self._rows[rows]

    def encoded(self, rows: NDArray[np.int64]) -> Encoded:
        """Row numbers -> all that is stored of these views, x as far as the codec kept it."""
        codes = self._rows[rows]
        return Encoded(self.pooled[rows], self.codec.restore(codes), *self.codec.decode_moments(codes))

    def damaged(self, rows: NDArray[np.int64], expected: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool[K]: which rows do not have the expected checksum."""
        single = (slice(row, row + 1) for row in rows.tolist())  # views of the map: nothing is copied
        found = [checksums(self._rows[one], self.pooled[one])[0] for one in single]
        return np.not_equal(np.asarray(found, np.int64), expected)


def _map(path: Path, shape: tuple[int, int]) -> NDArray[np.uint8]:
    try:
        size = path.stat().st_size
        if size != shape[0] * shape[1]:
            raise StoreError(
                f"{path} has {size} bytes, expected {shape[0] * shape[1]} - run flairsearch verify --repair"
            )
        return np.memmap(path, np.uint8, "r", shape=shape)
    except FileNotFoundError:
        raise StoreError(f"{path} is missing - run flairsearch verify --repair") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}) - check its permissions") from None


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable (POSIX)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
