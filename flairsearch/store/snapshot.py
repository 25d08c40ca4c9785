"""Snapshot: one committed state of an index, with its views and open segments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flairsearch.codecs.codec import Codec, make_codec
from flairsearch.codecs.transform import TransformBasis
from flairsearch.core.arrays import positions_of
from flairsearch.core.errors import StoreError
from flairsearch.core.settings import IndexSettings, tile_count
from flairsearch.core.types import EncodedViews
from flairsearch.store.catalog import Catalog, State
from flairsearch.store.derived_files import DerivedFiles
from flairsearch.store.segments import Segment, checksums
from flairsearch.store.view_columns import ViewColumns

READ_VIEWS = 256  # Tokens are read in pieces of this number of views.
MAX_ATTEMPTS = 20  # Opening is tried this many times while another process replaces segments.
PROBED_ROWS = 16  # If one of this many sampled rows is not in the page cache, all rows are prefetched.
_READ_POOLED_VIEWS = 8192  # Pooled vectors alone are read in pieces of this number of views.


def open_codec(folder: Path, label: str, settings: IndexSettings) -> Codec:
    """Return the codec of a label, `NAME` or `NAME:BASIS`, which the catalogue has for each segment.

    Raises StoreError when the basis is missing or damaged.
    """
    name, _, number = label.partition(":")
    basis = TransformBasis.load(folder / "codecs" / f"{number}.npz") if number else None
    return make_codec(name, settings.patches, settings.dim, basis)


class Snapshot:
    """One committed state. Views of missing or truncated segments are left out; `damage` has a line for each."""

    def __init__(self, folder: Path, settings: IndexSettings, catalog: Catalog) -> None:
        self._open(folder, settings, catalog)
        for _ in range(MAX_ATTEMPTS):  # A compaction may replace segments between the reads.
            if not self.damage or catalog.generation() == self.generation:
                break
            self._open(folder, settings, catalog)

    def _open(self, folder: Path, settings: IndexSettings, catalog: Catalog) -> None:
        self.folder, self.dim = folder, settings.dim
        self._unsaved_columns: ViewColumns | None = None
        state, columns = self._state(folder, catalog)
        self.generation = state.generation
        self.patches = settings.patches
        self._tiled = tile_count(settings.views) > 0
        used = set(np.unique(columns.segment).tolist())
        self.codecs: dict[str, Codec] = {}
        self.damage: list[str] = []
        self._labels: dict[int, str] = {}
        self._segments: dict[int, Segment] = {}
        for number, count, label in state.segments:
            if number in used:
                try:
                    self.codecs[label] = self.codecs.get(label) or open_codec(folder, label, settings)
                    self._segments[number] = Segment(folder / "segments", number, count, self.codecs[label])
                    self._labels[number] = label
                except StoreError as error:
                    self.damage.append(str(error))
        readable = np.ones(len(columns.id), np.bool_)
        if used - self._segments.keys():
            readable = np.isin(columns.segment, list(self._segments))
        # The columns stay memory-mapped if all views are readable.
        self.views = columns if readable.all() else columns.only(readable)
        self.unreadable_views = columns.only(~readable)

    def _state(self, folder: Path, catalog: Catalog) -> tuple[State, ViewColumns]:
        """Return the state and its columns; the columns come from their derived file if it exists."""
        state = catalog.state(with_views=False)
        self.cache = DerivedFiles(folder / "prefilter", state.generation)
        columns = ViewColumns.load(self.cache)
        if columns is None:
            state = catalog.state()
            assert state.views is not None
            columns, self.cache = state.views, DerivedFiles(folder / "prefilter", state.generation)
            self._unsaved_columns = columns
        return state, columns

    def save_columns(self) -> None:
        """Write the derived file of the columns if there is none; do nothing if the folder is read-only."""
        if self._unsaved_columns is not None:
            with suppress(OSError):
                self._unsaved_columns.save(self.cache)
            self._unsaved_columns = None

    def __len__(self) -> int:
        return len(self.views.id)

    def all_pooled(self) -> Iterator[NDArray[np.float16]]:
        """Yield the global tokens f16[n, D] of all views, of unit length, in pieces and in the order of view ids."""
        for start in range(0, len(self), _READ_POOLED_VIEWS):
            yield self._pooled(np.arange(start, min(start + _READ_POOLED_VIEWS, len(self))))

    def pooled(self, views: NDArray[np.int64]) -> NDArray[np.float16]:
        """Return the global tokens f16[K, D] of views i64[K], of unit length."""
        return self._pooled(self._positions(views))

    def _pooled(self, positions: NDArray[np.int64]) -> NDArray[np.float16]:
        result = np.empty((len(positions), 2 * self.dim), np.uint8)
        for start, stop, segment, rows in self._segment_runs(positions):
            segment.pooled.gather(rows, result[start:stop])
        return result.view("<f2")

    def contents(self, views: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the content ids i64[K] of views i64[K]."""
        return self.views.content[self._positions(views)]

    def sibling_views(self, views: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return all views i64[n] of the contents of views i64[K], each once, ascending."""
        if not self._tiled:
            return np.sort(views)
        order, column = self._by_content
        contents = np.unique(self.contents(views))
        starts = np.searchsorted(column, contents)
        counts = np.searchsorted(column, contents, "right") - starts
        # The positions in `order` of all views of these contents: a range of counts[i] from starts[i] for each.
        ranges = np.repeat(starts - np.append(0, counts.cumsum()[:-1]), counts) + np.arange(counts.sum())
        return np.sort(self.views.id[order[ranges]])

    @cached_property
    def _by_content(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The positions i64[N] of all views sorted by content, and the contents i64[N] in this order."""
        order = np.argsort(self.views.content, kind="stable")
        return order, self.views.content[order]

    def intersect(self, views: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of view ids i64[n], ascending, that this state has and can read."""
        return self.views.id[positions_of(self.views.id, views)]

    def damaged(self, views: NDArray[np.int64], expected: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return bool[K]: whether the bytes of views i64[K] differ from expected checksums i64[K]."""
        result = np.zeros(len(views), np.bool_)
        for _, positions in self.by_codec(views):
            actual = checksums(self.coded(views[positions]), self.pooled(views[positions]).view(np.uint8))
            result[positions] = np.asarray(actual, np.int64) != expected[positions]
        return result

    def by_codec(self, views: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Yield (label of a codec, positions i64[n] of its views in views i64[K]) for each codec."""
        segments = self.views.segment[self._positions(views)]
        labels = {label: [n for n, other in self._labels.items() if other == label] for label in self.codecs}
        for label, numbers in labels.items():
            positions = np.flatnonzero(np.isin(segments, numbers))
            if len(positions):
                yield label, positions

    def by_segment(
        self, views: NDArray[np.int64]
    ) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]]:
        """Yield (number, all rows, positions, row numbers) for each segment of views i64[K].

        all rows: u8[count, stride], memory-mapped and not read yet.
        positions: i64[n], of the segment's views in `views`.
        row numbers: i64[n], of these views in the segment.
        """
        positions = self._positions(views)
        order = np.argsort(self.views.segment[positions], kind="stable")
        for start, stop, segment, rows in self._segment_runs(positions[order]):
            yield segment.number, segment.tokens.rows, order[start:stop], rows

    def rows(self, views: NDArray[np.int64], piece_views: int = READ_VIEWS) -> Iterator[NDArray[np.uint8]]:
        """Yield the rows u8[n, stride] of views i64[K] of one codec, in the same order and in pieces of `piece_views`.

        All pieces share one buffer, which stays in the processor's cache: a piece is overwritten by the next one.
        """
        positions = self._positions(views)
        probes = self._segment_runs(positions[:: max(1, len(positions) // PROBED_ROWS)])
        if not all(segment.tokens.in_page_cache(rows) for _, _, segment, rows in probes):
            for _, _, segment, rows in self._segment_runs(positions):
                segment.tokens.prefetch(rows)
        piece = np.empty((min(piece_views, len(views)), self._codec_of(views).stride), np.uint8)
        for first in range(0, len(positions), piece_views):
            part = positions[first : first + piece_views]
            self._read(part, piece)
            yield piece[: len(part)]

    def encoded(self, views: NDArray[np.int64]) -> EncodedViews:
        """Return all that is stored of views i64[K], with tokens decoded from their codecs."""
        tokens = np.empty((len(views), self.patches, self.dim), np.float16)
        shift, scale = (np.empty((len(views), self.patches), np.float16) for _ in range(2))
        for label, positions in self.by_codec(views):
            rows = self.coded(views[positions])
            tokens[positions] = self.codecs[label].restore(rows)
            shift[positions], scale[positions] = self.codecs[label].decode_token_stats(rows)
        return EncodedViews(self.pooled(views), tokens, shift, scale)

    def coded(self, views: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the rows u8[K, stride] of views i64[K] of one codec."""
        coded = np.empty((len(views), self._codec_of(views).stride), np.uint8)
        self._read(self._positions(views), coded)
        return coded

    def _read(self, positions: NDArray[np.int64], into: NDArray[np.uint8]) -> None:
        """Copy the rows at positions i64[n], of one codec, into the first n rows of `into` u8[K, stride]."""
        for start, stop, segment, rows in self._segment_runs(positions):
            segment.tokens.gather(rows, into[start:stop])

    def _codec_of(self, views: NDArray[np.int64]) -> Codec:
        return self._segments[int(self.views.segment[self._positions(views[:1])[0]])].codec

    def _segment_runs(self, positions: NDArray[np.int64]) -> Iterator[tuple[int, int, Segment, NDArray[np.int64]]]:
        """Yield (start, stop, segment, row numbers i64[n]) of each run of positions i64[K] in one segment."""
        numbers, rows = self.views.segment[positions], self.views.row[positions]
        breaks = np.flatnonzero(np.diff(numbers)) + 1
        for start, stop in pairwise([0, *breaks.tolist(), len(rows)] if len(rows) else []):
            yield start, stop, self._segments[int(numbers[start])], rows[start:stop]

    def _positions(self, views: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self.views.id, views).astype(np.int64)
