"""Tokens and catalogue as one index, for its one writer: commit order, and the basis that new segments are written in.

Commit order: segment files -> fsync -> rename -> one catalogue transaction. A visible row always has its bytes;
bytes without a row are garbage that the next writer removes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flairsearch.codecs.codec import AVERAGE_BITS, needs_basis
from flairsearch.codecs.transform import BASIS_SAMPLE_VIEWS, fit_basis
from flairsearch.core.atomic_file import atomic_path
from flairsearch.core.errors import StoreError
from flairsearch.core.limits import STORE_LIMITS, StoreLimits
from flairsearch.core.settings import IndexSettings
from flairsearch.core.types import EncodedViews, Frame, ImageFile
from flairsearch.store.catalog import Catalog
from flairsearch.store.changeset import Changeset, NewView, Place
from flairsearch.store.compaction import Compactor, Target
from flairsearch.store.garbage import remove_garbage
from flairsearch.store.segments import SegmentWriter, sync_folder
from flairsearch.store.snapshot import Snapshot, open_codec

FALLBACK_CODEC = "int8"  # codec of the first views of an index whose own codec has no basis yet


class Writer:
    """The one writer of an index. Collects changes; `commit` makes them visible, all at once."""

    def __init__(self, folder: Path, settings: IndexSettings, limits: StoreLimits = STORE_LIMITS) -> None:
        """Raises StoreError when another process is writing, or the index cannot be written."""
        from filelock import FileLock, Timeout

        self._lock = FileLock(folder / "writer.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise StoreError(f"{folder} is being written by another process - wait until it has finished") from None
        except OSError as error:
            raise StoreError(f"{folder} cannot be written ({error.strerror}) - check its permissions") from None
        self.folder, self.settings, self._limits = folder, settings, limits
        self._segments = folder / "segments"
        self._segment: SegmentWriter | None = None
        self._change = Changeset()
        try:
            self.catalog = Catalog(folder)
            self._target = self._newest_codec()
            remove_garbage(folder, self.catalog, self._target.label)
            self._compactor = Compactor(folder, settings, self.catalog, limits)
        except OSError as error:
            self._lock.release()
            raise StoreError(f"{error.filename} cannot be written ({error.strerror}) - check its permissions") from None
        except StoreError:
            self._lock.release()
            raise

    def _newest_codec(self) -> Target:
        """What new segments are written in: the index's codec in its newest basis, or PLAIN until there is one."""
        name = self.settings.codec
        if not needs_basis(name):
            return self._open_codec(name)
        own = {label for _, _, label in self.catalog.segments() if label.startswith(f"{name}:")}
        for label in sorted(own, reverse=True):
            with suppress(StoreError):  # a damaged basis: repair encodes its views again, then there is a new one
                return self._open_codec(label)
        return self._open_codec(FALLBACK_CODEC)

    def _open_codec(self, label: str) -> Target:
        return Target(label, open_codec(self.folder, label, self.settings))

    @cached_property
    def hashes(self) -> set[bytes]:
        """Content hashes that have views, those not committed yet too."""
        return self.catalog.hashes()

    @property
    def pending(self) -> int:
        """Views written but not committed yet."""
        return len(self._change.views)

    def add_views(
        self,
        hashes: Sequence[bytes],
        frames: Sequence[Frame],
        encoded: EncodedViews,
        taken: Sequence[int | None] | None = None,
    ) -> None:
        """N views of contents that have none yet, all that they will have. taken: the photos' dates.

        Cut off anywhere, it has added all of them or none: a content with a part of its views would stay so.
        """
        if self._segment is None:
            self._segment = SegmentWriter(self._segments, self.catalog.last_segment() + 1, self._target.codec)
        rows = range(self._segment.count, self._segment.count + len(hashes))
        dates = taken or [None] * len(hashes)
        sums = self._segment.append(encoded)
        views = [NewView(*view) for view in zip(hashes, rows, sums, frames, dates, strict=True)]
        self.hashes.update(hashes)
        self._change.views.extend(views)

    def add_image(self, file: ImageFile, digest: bytes) -> None:
        """A new image; its content has views, or gets them in this commit."""
        self._change.added.append((file, digest))

    def update_image(self, image: int, file: ImageFile, digest: bytes) -> None:
        """An image whose file changed or moved; its id stays."""
        self._change.updated.append((image, file, digest))

    def remove_images(self, images: Sequence[int]) -> None:
        """Images whose files are gone, or that are to be forgotten; by their ids."""
        self._change.removed.extend(images)

    def commit(self) -> None:
        """Raises OSError when the disk is full; nothing committed before is touched."""
        if self._segment is not None:
            self._segment.finish()
            self._change.segment = (self._segment.number, self._segment.count, self._target.label)
            self._segment = None
        if self._change:
            self.catalog.commit(self._change)
            grown, self._change = self._change.segment is not None, Changeset()
            if grown:
                self._compactor.merge(self._target)

    def reader(self) -> Snapshot:
        """What is committed."""
        return Snapshot(self.folder, self.settings, self.catalog)

    # -- codecs and compaction

    @property
    def wants_basis(self) -> bool:
        """Whether the index has views enough to fit its codec to, and has not done so."""
        return (
            self._target.label == FALLBACK_CODEC != self.settings.codec
            and self.catalog.counts()[1] >= self._limits.min_basis_views
        )

    @property
    def has_basis(self) -> bool:
        """Whether new segments are written in a basis."""
        return ":" in self._target.label

    def fit(self, metric: NDArray[np.float32]) -> None:
        """Fit a basis to the views there are, and write all later segments in it.

        metric f32[D, D]: how much an error of a token matters to the pool (model/encoder.Encoder.token_metric).
        """
        self.commit()
        name = self.settings.codec
        reader = self.reader()
        every = max(1, len(reader) // BASIS_SAMPLE_VIEWS)
        chosen = reader.views.id[::every][:BASIS_SAMPLE_VIEWS]
        checksums = self.catalog.checksums(chosen.tolist())
        chosen = chosen[~reader.damaged(chosen, np.array([checksums[view] for view in chosen.tolist()], np.int64))]
        if not len(chosen):
            raise StoreError(f"{self.folder} has no view that is whole - run flairsearch verify --repair first")
        sample = reader.encoded(chosen).tokens
        folder = self.folder / "codecs"
        folder.mkdir(exist_ok=True)
        used = {file.stem for file in folder.glob("*.npz")} | {
            label.partition(":")[2] for _, _, label in self.catalog.segments()
        }
        number = f"{max((int(stem) for stem in used if stem.isdigit()), default=0) + 1:06d}"  # also of one that is lost
        with atomic_path(folder / f"{number}.npz") as part:
            fit_basis(sample, metric, AVERAGE_BITS[name]).save(part)
        sync_folder(folder)
        self._target = self._open_codec(f"{name}:{number}")

    def compact(self, dead_too: bool = True) -> Iterator[tuple[int, int]]:
        """Rewrite segments of another codec and, with `dead_too`, those with many dead rows, and small ones.

        Yields (views done, views in all). A run that is cut off goes on next time. Raises StoreError, with `dead_too`,
        when segments are damaged; they stay as they are.
        """
        return self._compactor.compact(self._target, dead_too)

    def replace_views(self, views: Sequence[int], encoded: EncodedViews) -> None:
        """Write views anew that were damaged; their ids stay. One commit."""
        with SegmentWriter(self._segments, self.catalog.last_segment() + 1, self._target.codec) as segment:
            checksums = segment.append(encoded)
            segment.finish()
        places = [Place(view, row, checksum) for row, (view, checksum) in enumerate(zip(views, checksums, strict=True))]
        self.catalog.rewrite((segment.number, segment.count, self._target.label), places, [])

    def close(self) -> None:
        """Give up what is not committed, and the lock."""
        if self._segment is not None:
            self._segment.discard()
        self.catalog.close()
        self._lock.release()
