"""Tokens and catalogue as one index: commit order, recovery, whole states for readers.

Commit order: segment files -> fsync -> rename -> one catalogue transaction. A visible row always has its bytes;
bytes without a row are garbage that the next writer removes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from flairsearch.catalog import Catalog, Changeset, NewView, ViewColumns
from flairsearch.codec import make_codec
from flairsearch.errors import StoreError
from flairsearch.records import Encoded, Frame, ImageFile
from flairsearch.settings import IndexSettings
from flairsearch.tokens import Segment, SegmentWriter

PIECE = 128  # views a read


def create_index(folder: Path, settings: IndexSettings) -> None:
    """An empty index; the settings are written last, so that a folder without them is no index."""
    (folder / "segments").mkdir(parents=True, exist_ok=True)
    Catalog(folder, create=True).close()
    settings.save(folder)


class Writer:
    """The one writer of an index. Collects changes; `commit` makes them visible, all at once."""

    def __init__(self, folder: Path, settings: IndexSettings) -> None:
        """Raises StoreError when another process is writing, or the index cannot be written."""
        self._lock = FileLock(folder / "writer.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise StoreError(f"{folder} is being written by another process - wait until it has finished") from None
        except OSError as error:
            raise StoreError(f"{folder} cannot be written ({error.strerror}) - check its permissions") from None
        self._folder = folder / "segments"
        self._segment: SegmentWriter | None = None
        self._change = Changeset()
        try:
            self._codec = make_codec(settings.codec, settings.patches, settings.dim)
            self.catalog = Catalog(folder)
            self.hashes = self.catalog.hashes()
            self._remove_garbage()
        except OSError as error:
            self._lock.release()
            raise StoreError(f"{error.filename} cannot be written ({error.strerror}) - check its permissions") from None
        except StoreError:
            self._lock.release()
            raise

    def _remove_garbage(self) -> None:
        """Files of a segment that never was committed."""
        live = self.catalog.segment_numbers()
        for file in self._folder.iterdir():
            stem = file.name.split(".")[0]
            if file.suffix == ".part" or not stem.isdigit() or int(stem) not in live:
                file.unlink()

    @property
    def pending(self) -> int:
        """Views written but not committed yet."""
        return len(self._change.views)

    def add_views(self, hashes: Sequence[bytes], frames: Sequence[Frame], encoded: Encoded) -> None:
        """N views of contents that have none yet."""
        if self._segment is None:
            self._segment = SegmentWriter(self._folder, self.catalog.last_segment() + 1, self._codec)
        first = self._segment.count
        for i, checksum in enumerate(self._segment.append(encoded)):
            self._change.views.append(NewView(hashes[i], first + i, checksum, frames[i]))
        self.hashes.update(hashes)

    def add_image(self, file: ImageFile, digest: bytes) -> None:
        self._change.added.append((file, digest))

    def update_image(self, image: int, file: ImageFile, digest: bytes) -> None:
        """An image whose file changed or moved; its id stays."""
        self._change.updated.append((image, file, digest))

    def remove_images(self, images: Sequence[int]) -> None:
        self._change.removed.extend(images)

    def commit(self) -> None:
        """Raises OSError when the disk is full; nothing committed before is touched."""
        if self._segment is not None:
            self._segment.finish()
            self._change.segment = (self._segment.number, self._segment.count, self._codec.name)
            self._segment = None
        if self._change:
            self.catalog.commit(self._change)
            self._change = Changeset()

    def close(self) -> None:
        """Give up what is not committed, and the lock."""
        if self._segment is not None:
            self._segment.discard()
        self.catalog.close()
        self._lock.release()


class Reader:
    """One committed state: its views, and every segment of it open."""

    def __init__(self, folder: Path, settings: IndexSettings, catalog: Catalog) -> None:
        """Raises StoreError when a segment is missing or truncated."""
        try:
            self._open(folder, settings, catalog)
        except StoreError:  # a compaction may have replaced segments between the two reads: look once more
            self._open(folder, settings, catalog)

    def _open(self, folder: Path, settings: IndexSettings, catalog: Catalog) -> None:
        state = catalog.state()
        self.generation = state.generation
        self.views: ViewColumns = state.views
        used = set(np.unique(state.views.segment).tolist())
        self._segments = {
            number: Segment(folder / "segments", number, count, make_codec(codec, settings.patches, settings.dim))
            for number, count, codec in state.segments
            if number in used
        }
        self._shape = (settings.patches, settings.dim)

    def __len__(self) -> int:
        return len(self.views.id)

    def all_pooled(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
        """View ids i64[n] and their unit global vectors f16[n, D], in pieces."""
        for number, segment in self._segments.items():
            here = np.flatnonzero(self.views.segment == number)
            yield self.views.id[here], segment.pooled[self.views.row[here]]

    def pooled(self, views: NDArray[np.int64]) -> NDArray[np.float16]:
        """View ids i64[K] -> unit global vectors f16[K, D]."""
        positions = self._positions(views)
        places = zip(self.views.segment[positions].tolist(), self.views.row[positions].tolist(), strict=True)
        return np.stack([self._segments[number].pooled[row] for number, row in places])

    def contents(self, views: NDArray[np.int64]) -> NDArray[np.int64]:
        """View ids i64[K] -> content ids i64[K]."""
        return self.views.content[self._positions(views)]

    def tokens(self, views: NDArray[np.int64]) -> Iterator[NDArray[np.float16]]:
        """View ids i64[K] -> tokens x f16[n, P, D] in the same order, in pieces."""
        positions = self._positions(views)
        for start in range(0, len(views), PIECE):
            here = positions[start : start + PIECE]
            segments, rows = self.views.segment[here], self.views.row[here]
            piece = np.empty((len(here), *self._shape), np.float16)
            for number in np.unique(segments).tolist():
                chosen = segments == number
                piece[chosen] = self._segments[number].tokens(rows[chosen])
            yield piece

    def _positions(self, views: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self.views.id, views).astype(np.int64)


def replace_index(folder: Path, fresh: Path) -> None:
    """Put a finished index in the place of another one."""
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def index_bytes(folder: Path) -> int:
    """Size on disk."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
