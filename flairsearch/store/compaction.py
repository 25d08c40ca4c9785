"""Segments written anew: many small ones into one, another codec, the room of photos that are gone given back."""

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
    """What new segments are written in."""

    label: str  # NAME or NAME:BASIS, as in the catalogue.
    codec: Codec


@dataclass(frozen=True)
class _Source:
    """A segment that may be written anew."""

    number: int
    count: int
    label: str
    live: int  # How many of its views some image still has.


class _DamagedSegment(StoreError):
    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


class Compactor:
    """Rewrites the segments of an index, for its one writer; remembers those that it found damaged."""

    def __init__(self, index: Path, settings: IndexSettings, catalog: Catalog, limits: StoreLimits) -> None:
        self._index, self._settings, self._catalog, self._limits = index, settings, catalog, limits
        self._folder = index / "segments"
        self._damaged: dict[int, str] = {}  # Segment number -> what is wrong with it.

    def compact(self, target: Target, dead_too: bool) -> Iterator[tuple[int, int]]:
        """Rewrite segments of another codec, those with many dead rows, and small ones; (views done, views in all).

        Each new segment is one commit, readers of the old ones keep them open, and a run that is cut off goes on.
        Damaged segments stay as they are; with `dead_too`, StoreError says so at the end.
        """
        batches = self._batches(list(self._sources(target.label, dead_too)), target.label)
        total, done = sum(source.live for batch in batches for source in batch), 0
        for batch in batches:
            self._rewrite_whole(batch, target)
            done += sum(source.live for source in batch)
            yield done, total
        if self._damaged and dead_too:
            raise StoreError(next(iter(self._damaged.values())))

    def merge(self, target: Target) -> None:
        """Many small segments become one: a reader holds four descriptors for each, and a system allows it 1,024."""
        sizes: dict[int, list[_Source]] = {}
        for number, count, label in self._catalog.segments():
            if label == target.label and number not in self._damaged:
                sizes.setdefault(self._limits.size_tier(count), []).append(_Source(number, count, label, count))
        for level, sources in sizes.items():
            if level < len(self._limits.size_tiers) and len(sources) >= self._limits.merge_fan_in:
                self._rewrite_whole(sources[: self._limits.merge_fan_in], target, dead_too=True)

    def _sources(self, label: str, all_of_them: bool) -> Iterator[_Source]:
        """Every segment with the views in it that some image still has; or only those of another codec."""
        for number, count, other in self._catalog.segments():
            if all_of_them or other != label:
                yield _Source(number, count, other, int(self._catalog.segment_views(number).live.sum()))

    def _batches(self, sources: Sequence[_Source], label: str) -> list[list[_Source]]:
        """What becomes one segment each, in the order of their numbers; a whole large one that is fine is left out."""
        batches: list[list[_Source]] = []
        for source in sources:
            if not source.live:
                continue
            if batches and sum(s.live for s in batches[-1]) + source.live <= self._limits.max_segment_views:
                batches[-1].append(source)
            else:
                batches.append([source])
        batches = [batch for batch in batches if len(batch) > 1 or not self._is_fine(batch[0], label)]
        dead = [source for source in sources if not source.live]  # These are removed without a successor.
        return [dead + batches[0], *batches[1:]] if batches else [dead] if dead else []

    def _is_fine(self, source: _Source, label: str) -> bool:
        return source.label == label and source.live >= (1 - self._limits.max_dead_fraction) * source.count

    def _rewrite_whole(self, sources: Sequence[_Source], target: Target, dead_too: bool = False) -> None:
        """Those of the segments that are not damaged; the others stay, and are remembered."""
        while sources := [source for source in sources if source.number not in self._damaged]:
            try:
                return self._rewrite(sources, target, dead_too)
            except _DamagedSegment as error:
                self._damaged[error.number] = str(error)

    def _rewrite(self, sources: Sequence[_Source], target: Target, dead_too: bool) -> None:
        """Several segments -> one, in the codec of today; bytes that are in it already are copied as they are.

        One commit. `dead_too` keeps views that no image has now: in this writer's lifetime their photo may come back.
        Raises _DamagedSegment, and changes nothing, when bytes are not those that were written.
        """
        places: list[Place] = []
        with SegmentWriter(self._folder, self._catalog.last_segment() + 1, target.codec) as segment:
            for source in sources:
                views = self._catalog.segment_views(source.number)
                kept = np.flatnonzero(views.live | dead_too)
                if len(kept):
                    old = self._open(source)
                for some in chunks(kept, self._limits.read_views):
                    rows, pooled = _read(old, views, some)
                    if source.label == target.label:
                        sums = segment.append_rows(rows, pooled)
                    else:
                        sums = segment.append(old.codec.restore_all(rows, pooled))
                    for view, checksum in zip(views.id[some].tolist(), sums, strict=True):
                        places.append(Place(view, len(places), checksum))
            if places:
                segment.finish()
        written = (segment.number, segment.count, target.label) if places else None
        self._catalog.rewrite(written, places, [source.number for source in sources])
        remove_garbage(self._index, self._catalog, target.label)

    def _open(self, source: _Source) -> Segment:
        try:
            codec = open_codec(self._index, source.label, self._settings)
            return Segment(self._folder, source.number, source.count, codec)
        except StoreError as error:
            raise _DamagedSegment(source.number, str(error)) from None


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
