"""Rewrite segments: merge small ones, convert them to another codec, and free the space of removed photos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flairsearch.codecs.codec import Codec
from flairsearch.core.arrays import chunks
from flairsearch.core.errors import StoreError
from flairsearch.core.limits import StoreLimits
from flairsearch.core.settings import IndexSettings
from flairsearch.store.catalog import Catalog, SegmentViews
from flairsearch.store.changeset import Place
from flairsearch.store.garbage import remove_garbage
from flairsearch.store.segments import Segment, SegmentWriter, checksums
from flairsearch.store.snapshot import open_codec


@dataclass(frozen=True)
class Target:
    """The codec of new segments."""

    label: str  # NAME or NAME:BASIS, as in the catalogue.
    codec: Codec


@dataclass(frozen=True)
class _Source:
    """A segment that may be rewritten."""

    number: int
    count: int  # The number of its views.
    label: str  # The label of its codec.
    live: int  # The number of its views that an image still has.


class _DamagedSegment(StoreError):
    """A segment that cannot be rewritten since it is damaged."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


class Compactor:
    """Rewrites the segments of an index for its writer; remembers damaged segments and leaves them alone."""

    def __init__(self, index: Path, settings: IndexSettings, catalog: Catalog, limits: StoreLimits) -> None:
        self._index, self._settings, self._catalog, self._limits = index, settings, catalog, limits
        self._folder = index / "segments"
        self._damaged: dict[int, str] = {}  # Segment number -> what is wrong with it.

    def compact(self, target: Target, dead_too: bool) -> Iterator[tuple[int, int]]:
        """Rewrite segments of another codec, and yield (views done, views in all).

        dead_too: also rewrite small segments and those with many views of removed photos.
        Each new segment is one commit. Readers keep the old segments open, and an interrupted run can be continued.
        Damaged segments stay as they are; with `dead_too`, StoreError reports them at the end.
        """
        batches = self._batches(list(self._sources(target.label, dead_too)), target.label)
        total, done = sum(source.live for batch in batches for source in batch), 0
        for batch in batches:
            self._rewrite_undamaged(batch, target)
            done += sum(source.live for source in batch)
            yield done, total
        if self._damaged and dead_too:
            raise StoreError(next(iter(self._damaged.values())))

    def merge(self, target: Target) -> None:
        """Merge small segments if there are many: a reader needs four file descriptors for each, of 1,024 allowed."""
        sizes: dict[int, list[_Source]] = {}
        for number, count, label in self._catalog.segments():
            if label == target.label and number not in self._damaged:
                sizes.setdefault(self._limits.size_tier(count), []).append(_Source(number, count, label, count))
        for tier, sources in sizes.items():
            if tier < len(self._limits.size_tiers) and len(sources) >= self._limits.merge_fan_in:
                self._rewrite_undamaged(sources[: self._limits.merge_fan_in], target, dead_too=True)

    def _sources(self, label: str, with_same_codec: bool) -> Iterator[_Source]:
        """Yield the segments of other codecs than `label` or, with `with_same_codec`, all segments."""
        for number, count, other in self._catalog.segments():
            if with_same_codec or other != label:
                yield _Source(number, count, other, int(self._catalog.segment_views(number).live.sum()))

    def _batches(self, sources: Sequence[_Source], label: str) -> list[list[_Source]]:
        """Group sources, in the order of their numbers, into new segments; leave out those that need no rewriting."""
        batches: list[list[_Source]] = []
        for source in sources:
            if not source.live:
                continue
            if batches and sum(member.live for member in batches[-1]) + source.live <= self._limits.max_segment_views:
                batches[-1].append(source)
            else:
                batches.append([source])
        batches = [batch for batch in batches if len(batch) > 1 or not self._is_fine(batch[0], label)]
        dead = [source for source in sources if not source.live]  # Segments without live views are only removed.
        return [dead + batches[0], *batches[1:]] if batches else [dead] if dead else []

    def _is_fine(self, source: _Source, label: str) -> bool:
        """Return whether a segment has the codec `label` and few dead views."""
        return source.label == label and source.live >= (1 - self._limits.max_dead_fraction) * source.count

    def _rewrite_undamaged(self, sources: Sequence[_Source], target: Target, dead_too: bool = False) -> None:
        """Rewrite those segments that are not damaged; remember the damaged ones."""
        while sources := [source for source in sources if source.number not in self._damaged]:
            try:
                return self._rewrite(sources, target, dead_too)
            except _DamagedSegment as error:
                self._damaged[error.number] = str(error)

    def _rewrite(self, sources: Sequence[_Source], target: Target, dead_too: bool) -> None:
        """Rewrite segments into one with the target codec, in one commit; rows of the same codec are copied.

        dead_too: keep dead views, since their photo may come back while this writer is open.
        Raises _DamagedSegment, and changes nothing, when a checksum is wrong.
        """
        places: list[Place] = []
        with SegmentWriter(self._folder, self._catalog.last_segment() + 1, target.codec) as segment:
            for source in sources:
                views = self._catalog.segment_views(source.number)
                kept = np.flatnonzero(views.live | dead_too)
                if len(kept):
                    old = self._open(source)
                for positions in chunks(kept, self._limits.read_views):
                    rows, pooled = _read(old, views, positions)
                    if source.label == target.label:
                        sums = segment.append_rows(rows, pooled)
                    else:
                        sums = segment.append(old.codec.restore_all(rows, pooled))
                    for view, checksum in zip(views.id[positions].tolist(), sums, strict=True):
                        places.append(Place(view, len(places), checksum))
            if places:
                segment.finish()
        new_segment = (segment.number, segment.count, target.label) if places else None
        self._catalog.rewrite(new_segment, places, [source.number for source in sources])
        remove_garbage(self._index, self._catalog, target.label)

    def _open(self, source: _Source) -> Segment:
        try:
            codec = open_codec(self._index, source.label, self._settings)
            return Segment(self._folder, source.number, source.count, codec)
        except StoreError as error:
            raise _DamagedSegment(source.number, str(error)) from None


def _read(
    segment: Segment, views: SegmentViews, positions: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Return token rows u8[n, stride] and pooled vectors f16[n, D] of views. positions: i64[n], in `views`.

    Raises _DamagedSegment when a checksum is wrong.
    """
    rows, pooled = (part.rows[views.row[positions]] for part in (segment.tokens, segment.pooled))
    if checksums(rows, pooled) != views.checksum[positions].tolist():
        raise _DamagedSegment(
            segment.number, f"views of segment {segment.number} are damaged - run flairsearch verify --repair first"
        )
    return rows, pooled.view("<f2")
