"""The one writer of an index: views and images are appended, and one commit makes them visible.

Commit order: segment files -> fsync -> rename -> one catalogue transaction. A visible row always has its bytes;
bytes without a row are garbage that the next writer removes. Segments are rewritten by store/compaction.py, and codecs
are trained by store/codec_training.py; callers of the writer call these modules themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from flairsearch.codecs.codec import needs_basis
from flairsearch.core.errors import StoreError
from flairsearch.core.limits import STORE_LIMITS, StoreLimits
from flairsearch.core.settings import IndexSettings
from flairsearch.core.types import EncodedViews, Frame, ImageFile
from flairsearch.store.catalog import Catalog
from flairsearch.store.changeset import Changeset, NewView, Place
from flairsearch.store.compaction import Compactor, Target
from flairsearch.store.garbage import remove_garbage
from flairsearch.store.segments import SegmentWriter
from flairsearch.store.snapshot import Snapshot, open_codec

FALLBACK_CODEC = "int8"  # Views are written in this codec until the codec of the index is trained.


class Writer:
    """The one writer of an index. Collects changes; `commit` makes them visible, all at once."""

    def __init__(self, folder: Path, settings: IndexSettings, limits: StoreLimits = STORE_LIMITS) -> None:
        """Lock the index for writing.

        Raises StoreError when another process is writing, or the index cannot be written.
        """
        from filelock import FileLock, Timeout

        self._lock = FileLock(folder / "writer.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise StoreError(f"{folder} is being written by another process - wait until it has finished") from None
        except OSError as error:
            raise StoreError(f"{folder} cannot be written ({error.strerror}) - check its permissions") from None
        self.folder, self.settings, self.limits = folder, settings, limits
        self._segments = folder / "segments"
        self._segment: SegmentWriter | None = None
        self._change = Changeset()
        try:
            self.catalog = Catalog(folder)
            self.target = self._newest_codec()
            remove_garbage(folder, self.catalog, self.target.label)
            self.compactor = Compactor(folder, settings, self.catalog, limits)
        except OSError as error:
            self._lock.release()
            raise StoreError(f"{error.filename} cannot be written ({error.strerror}) - check its permissions") from None
        except StoreError:
            self._lock.release()
            raise

    def _newest_codec(self) -> Target:
        """Return the codec of new segments: that of the index with its newest basis, or FALLBACK_CODEC without any."""
        name = self.settings.codec
        if not needs_basis(name):
            return self._open_codec(name)
        labels = {label for _, _, label in self.catalog.segments() if label.startswith(f"{name}:")}
        for label in sorted(labels, reverse=True):
            with suppress(StoreError):  # A damaged basis is skipped; repairing its views makes a new one.
                return self._open_codec(label)
        return self._open_codec(FALLBACK_CODEC)

    def _open_codec(self, label: str) -> Target:
        return Target(label, open_codec(self.folder, label, self.settings))

    @cached_property
    def hashes(self) -> set[bytes]:
        """The hashes of contents that have views, including views that are not committed yet."""
        return self.catalog.hashes()

    @property
    def pending(self) -> int:
        """The number of views that are written but not committed."""
        return len(self._change.views)

    def add_views(
        self,
        hashes: Sequence[bytes],
        frames: Sequence[Frame],
        encoded: EncodedViews,
        taken: Sequence[int | None] | None = None,
    ) -> None:
        """Add all views of contents that have no views yet.

        hashes, frames: the content hash and the frame of each view. taken: the date of each view's photo.
        An interrupt adds all of these views or none, since a content with only some of its views would never get the
        others.
        """
        if self._segment is None:
            self._segment = SegmentWriter(self._segments, self.catalog.last_segment() + 1, self.target.codec)
        rows = range(self._segment.count, self._segment.count + len(hashes))
        dates = taken or [None] * len(hashes)
        sums = self._segment.append(encoded)
        views = [NewView(*view) for view in zip(hashes, rows, sums, frames, dates, strict=True)]
        self.hashes.update(hashes)
        self._change.views.extend(views)

    def add_image(self, file: ImageFile, digest: bytes) -> None:
        """Add a new image; its content has views already, or gets them in the same commit."""
        self._change.added.append((file, digest))

    def update_image(self, image: int, file: ImageFile, digest: bytes) -> None:
        """Update an image whose file changed or moved; it keeps its id."""
        self._change.updated.append((image, file, digest))

    def remove_images(self, images: Sequence[int]) -> None:
        """Remove images, by id."""
        self._change.removed.extend(images)

    def commit(self) -> bool:
        """Make all collected changes visible at once; return whether there is a new segment.

        Raises OSError when the disk is full; earlier commits are not affected.
        """
        if self._segment is not None:
            self._segment.finish()
            self._change.segment = (self._segment.number, self._segment.count, self.target.label)
            self._segment = None
        if not self._change:
            return False
        self.catalog.commit(self._change)
        has_segment, self._change = self._change.segment is not None, Changeset()
        return has_segment

    def snapshot(self) -> Snapshot:
        """Return a snapshot of the committed state."""
        return Snapshot(self.folder, self.settings, self.catalog)

    def use_codec(self, label: str) -> None:
        """Write all later segments in another codec, NAME or NAME:BASIS; call it only right after a commit."""
        self.target = self._open_codec(label)

    def replace_views(self, views: Sequence[int], encoded: EncodedViews) -> None:
        """Replace damaged views, which keep their ids, in one commit."""
        with SegmentWriter(self._segments, self.catalog.last_segment() + 1, self.target.codec) as segment:
            checksums = segment.append(encoded)
            segment.finish()
        places = [Place(view, row, checksum) for row, (view, checksum) in enumerate(zip(views, checksums, strict=True))]
        self.catalog.rewrite((segment.number, segment.count, self.target.label), places, [])

    def close(self) -> None:
        """Discard what is not committed, and release the lock."""
        if self._segment is not None:
            self._segment.discard()
        self.catalog.close()
        self._lock.release()
