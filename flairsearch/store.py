"""Tokens and catalogue as one index, for its one writer: commit order, recovery, compaction.

Commit order: segment files -> fsync -> rename -> one catalogue transaction. A visible row always has its bytes;
bytes without a row are garbage that the next writer removes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flairsearch.atomic_file import atomic_path
from flairsearch.basis import fit_basis
from flairsearch.cache import drop_leftovers
from flairsearch.catalog import Catalog, Changeset, NewView, Place, SegmentViews
from flairsearch.codec import AVERAGE_BITS, Codec, needs_basis
from flairsearch.errors import StoreError
from flairsearch.reader import PIECE, Reader, open_codec
from flairsearch.records import Encoded, Frame, ImageFile
from flairsearch.settings import FORMAT_VERSION, IndexSettings
from flairsearch.tokens import Segment, SegmentWriter, checksums, sync_folder

PLAIN = "int8"  # codec of the first views of an index whose own codec has no basis yet
BASIS_VIEWS = 256  # A basis is fitted when the index has so many views.
SAMPLE_VIEWS = 300  # It is fitted to at most so many of them, some 60,000 tokens.
DEAD_SHARE = 0.2  # a segment with more dead rows is rewritten by compaction
SEGMENT_VIEWS = 131072  # Compaction makes no larger segment.
LEVELS = (8192, 65536)  # Segments of fewer views than the first are of one size, up to the second of another.
MERGE = 8  # So many segments of one size are merged into one.


def create_index(folder: Path, settings: IndexSettings) -> None:
    """An empty index; the settings are written last, so that a folder without them is no index."""
    (folder / "segments").mkdir(parents=True, exist_ok=True)
    Catalog(folder, create=True).close()
    settings.save(folder)


def open_settings(folder: Path) -> IndexSettings:
    """The settings of an index, in today's format: those of an older one are written anew.

    The catalogue follows when it is opened. This order, as an older flairsearch reads the settings' number first.
    Raises StoreError when there is no index, or one of a newer format.
    """
    settings = IndexSettings.load(folder)
    if settings.format != FORMAT_VERSION:
        settings = replace(settings, format=FORMAT_VERSION)
        with suppress(OSError):  # read-only: Catalog says it
            settings.save(folder)
    return settings


@dataclass(frozen=True)
class _Source:
    """A segment that may be written anew."""

    number: int
    count: int
    label: str
    live: int  # views that some image still has


class _DamagedSegment(StoreError):
    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


def _level(count: int) -> int:
    """How far a segment of so many views has grown, 0 for those of a commit."""
    return sum(count >= bound for bound in LEVELS)


def _batches(sources: Sequence[_Source], label: str) -> list[list[_Source]]:
    """What becomes one segment each, in the order of their numbers; a whole large one that is fine is left out."""
    batches: list[list[_Source]] = []
    for source in sources:
        if not source.live:
            continue
        if batches and sum(s.live for s in batches[-1]) + source.live <= SEGMENT_VIEWS:
            batches[-1].append(source)
        else:
            batches.append([source])
    batches = [batch for batch in batches if len(batch) > 1 or not _is_fine(batch[0], label)]
    dead = [source for source in sources if not source.live]  # they only go
    return [dead + batches[0], *batches[1:]] if batches else [dead] if dead else []


def _is_fine(source: _Source, label: str) -> bool:
    return source.label == label and source.live >= (1 - DEAD_SHARE) * source.count


def _read(
    segment: Segment, views: SegmentViews, some: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Some of a segment's views: token rows u8[n, stride], pooled f16[n, D]. Raises _DamagedSegment."""
    rows, pooled = (part.rows[views.row[some]] for part in (segment.tokens, segment.pooled))
    if checksums(rows, pooled) != views.checksum[some].tolist():
        raise _DamagedSegment(
            segment.number, f"views of segment {segment.number} are damaged - run flairsearch verify --repair first"
        )
    return rows, pooled.view("<f2")


class Writer:
    """The one writer of an index. Collects changes; `commit` makes them visible, all at once."""

    def __init__(self, folder: Path, settings: IndexSettings) -> None:
        """Raises StoreError when another process is writing, or the index cannot be written."""
        from filelock import FileLock, Timeout

        self._lock = FileLock(folder / "writer.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise StoreError(f"{folder} is being written by another process - wait until it has finished") from None
        except OSError as error:
            raise StoreError(f"{folder} cannot be written ({error.strerror}) - check its permissions") from None
        self._index, self._settings = folder, settings
        self._folder = folder / "segments"
        self._segment: SegmentWriter | None = None
        self._change = Changeset()
        self._damaged: dict[int, str] = {}  # segments found damaged, and how
        try:
            self.catalog = Catalog(folder)
            self._label, self._codec = self._newest_codec()
            self._remove_garbage()
        except OSError as error:
            self._lock.release()
            raise StoreError(f"{error.filename} cannot be written ({error.strerror}) - check its permissions") from None
        except StoreError:
            self._lock.release()
            raise

    def _remove_garbage(self) -> None:
        """Files of a segment that never was committed."""
        live = {number for number, _, _ in self.catalog.segments()}
        for file in self._folder.iterdir():
            stem = file.name.split(".")[0]
            if file.suffix == ".part" or not stem.isdigit() or int(stem) not in live:
                file.unlink()
        for pattern in ("index.json.*.part", "last-run.json.*.part", "fitted/*.part"):
            for file in self._index.glob(pattern):
                file.unlink(missing_ok=True)
        drop_leftovers(self._index / "prefilter", self.catalog.generation())
        bases = {label.partition(":")[2] for _, _, label in self.catalog.segments()}
        for file in (self._index / "codecs").glob("*"):
            if file.suffix != ".npz" or file.stem not in bases | {self._label.partition(":")[2]}:
                file.unlink()

    def _newest_codec(self) -> tuple[str, Codec]:
        """What new segments are written in: the index's codec in its newest basis, or PLAIN until there is one."""
        name = self._settings.codec
        if not needs_basis(name):
            return name, open_codec(self._index, name, self._settings)
        own = {label for _, _, label in self.catalog.segments() if label.startswith(f"{name}:")}
        for label in sorted(own, reverse=True):
            with suppress(StoreError):  # a damaged basis: repair encodes its views again, then there is a new one
                return label, open_codec(self._index, label, self._settings)
        return PLAIN, open_codec(self._index, PLAIN, self._settings)

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
        encoded: Encoded,
        taken: Sequence[int | None] | None = None,
    ) -> None:
        """N views of contents that have none yet, all that they will have. taken: the photos' dates.

        Cut off anywhere, it has added all of them or none: a content with a part of its views would stay so.
        """
        if self._segment is None:
            self._segment = SegmentWriter(self._folder, self.catalog.last_segment() + 1, self._codec)
        rows = range(self._segment.count, self._segment.count + len(hashes))
        dates = taken or [None] * len(hashes)
        sums = self._segment.append(encoded)
        views = [NewView(*view) for view in zip(hashes, rows, sums, frames, dates, strict=True)]
        self.hashes.update(hashes)
        self._change.views.extend(views)

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
            self._change.segment = (self._segment.number, self._segment.count, self._label)
            self._segment = None
        if self._change:
            self.catalog.commit(self._change)
            grown, self._change = self._change.segment is not None, Changeset()
            if grown:
                self._merge()

    def reader(self) -> Reader:
        """What is committed."""
        return Reader(self._index, self._settings, self.catalog)

    # -- codecs and compaction

    @property
    def wants_basis(self) -> bool:
        """Whether the index has views enough to fit its codec to, and has not done so."""
        return self._label == PLAIN != self._settings.codec and self.catalog.counts()[1] >= BASIS_VIEWS

    @property
    def has_basis(self) -> bool:
        return ":" in self._label

    def fit(self, metric: NDArray[np.float32]) -> None:
        """Fit a basis to the views there are, and write all later segments in it.

        metric f32[D, D]: how much an error of a token matters to the pool (encode.Encoder.token_metric).
        """
        self.commit()
        name = self._settings.codec
        reader = self.reader()
        every = max(1, len(reader) // SAMPLE_VIEWS)
        chosen = reader.views.id[::every][:SAMPLE_VIEWS]
        checksums = self.catalog.checksums(chosen.tolist())
        chosen = chosen[~reader.damaged(chosen, np.array([checksums[view] for view in chosen.tolist()], np.int64))]
        if not len(chosen):
            raise StoreError(f"{self._index} has no view that is whole - run flairsearch verify --repair first")
        sample = reader.encoded(chosen).tokens
        folder = self._index / "codecs"
        folder.mkdir(exist_ok=True)
        used = {file.stem for file in folder.glob("*.npz")} | {
            label.partition(":")[2] for _, _, label in self.catalog.segments()
        }
        number = f"{max((int(stem) for stem in used if stem.isdigit()), default=0) + 1:06d}"  # also of one that is lost
        with atomic_path(folder / f"{number}.npz") as part:
            fit_basis(sample, metric, AVERAGE_BITS[name]).save(part)
        sync_folder(folder)
        self._label = f"{name}:{number}"
        self._codec = open_codec(self._index, self._label, self._settings)

    def compact(self, dead_too: bool = True) -> Iterator[tuple[int, int]]:
        """Rewrite segments of another codec, those with many dead rows, and small ones; (views done, views in all).

        Each new segment is one commit, readers of the old ones keep them open, and a run that is cut off goes on.
        Damaged segments stay as they are; with `dead_too`, StoreError says so at the end.
        """
        batches = _batches(list(self._sources(dead_too)), self._label)
        total, done = sum(source.live for batch in batches for source in batch), 0
        for batch in batches:
            self._rewrite_whole(batch)
            done += sum(source.live for source in batch)
            yield done, total
        if self._damaged and dead_too:
            raise StoreError(next(iter(self._damaged.values())))

    def _sources(self, all_of_them: bool) -> Iterator[_Source]:
        """Every segment with the views in it that some image still has; or only those of another codec."""
        for number, count, label in self.catalog.segments():
            if all_of_them or label != self._label:
                yield _Source(number, count, label, int(self.catalog.segment_views(number).live.sum()))

    def _merge(self) -> None:
        """Many small segments become one: a reader holds four descriptors for each, and a system allows it 1,024."""
        sizes: dict[int, list[_Source]] = {}
        for number, count, label in self.catalog.segments():
            if label == self._label and number not in self._damaged:
                sizes.setdefault(_level(count), []).append(_Source(number, count, label, count))
        for level, sources in sizes.items():
            if level < len(LEVELS) and len(sources) >= MERGE:
                self._rewrite_whole(sources[:MERGE], dead_too=True)

    def _rewrite_whole(self, sources: Sequence[_Source], dead_too: bool = False) -> None:
        """Those of the segments that are not damaged; the others stay, and are remembered."""
        while sources := [source for source in sources if source.number not in self._damaged]:
            try:
                return self._rewrite(sources, dead_too)
            except _DamagedSegment as error:
                self._damaged[error.number] = str(error)

    def replace_views(self, views: Sequence[int], encoded: Encoded) -> None:
        """Write views anew that were damaged; their ids stay. One commit."""
        with SegmentWriter(self._folder, self.catalog.last_segment() + 1, self._codec) as segment:
            checksums = segment.append(encoded)
            segment.finish()
        places = [Place(view, row, checksum) for row, (view, checksum) in enumerate(zip(views, checksums, strict=True))]
        self.catalog.rewrite((segment.number, segment.count, self._label), places, [])

    def _rewrite(self, sources: Sequence[_Source], dead_too: bool) -> None:
        """Several segments -> one, in the codec of today; bytes that are in it already are copied as they are.

        One commit. `dead_too` keeps views that no image has now: in this writer's lifetime their photo may come back.
        Raises _DamagedSegment, and changes nothing, when bytes are not those that were written.
        """
        places: list[Place] = []
        with SegmentWriter(self._folder, self.catalog.last_segment() + 1, self._codec) as segment:
            for source in sources:
                views = self.catalog.segment_views(source.number)
                kept = np.flatnonzero(views.live | dead_too)
                if len(kept):
                    old = self._open(source)
                for start in range(0, len(kept), PIECE):
                    some = kept[start : start + PIECE]
                    rows, pooled = _read(old, views, some)
                    if source.label == self._label:
                        sums = segment.append_rows(rows, pooled)
                    else:
                        sums = segment.append(old.codec.restore_all(rows, pooled))
                    for view, checksum in zip(views.id[some].tolist(), sums, strict=True):
                        places.append(Place(view, len(places), checksum))
            if places:
                segment.finish()
        written = (segment.number, segment.count, self._label) if places else None
        self.catalog.rewrite(written, places, [source.number for source in sources])
        self._remove_garbage()

    def _open(self, source: _Source) -> Segment:
        try:
            codec = open_codec(self._index, source.label, self._settings)
            return Segment(self._folder, source.number, source.count, codec)
        except StoreError as error:
            raise _DamagedSegment(source.number, str(error)) from None

    def close(self) -> None:
        """Give up what is not committed, and the lock."""
        if self._segment is not None:
            self._segment.discard()
        self.catalog.close()
        self._lock.release()


def replace_index(folder: Path, fresh: Path) -> None:
    """Put a finished index in the place of another one."""
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def undo_replacement(folder: Path) -> None:
    """A kill between the two renames of `replace_index` left no index here: put the old one back."""
    old = folder.with_name(f"{folder.name}.old")
    if not folder.exists() and (old / "index.json").is_file():
        old.rename(folder)
