"""One committed state of an index: its views, and every segment of it open."""

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
MAX_ATTEMPTS = 20  # At opening one state while another process writes.
PROBED_ROWS = 16  # If one of this number of rows is not in the page cache, the kernel is told to read ahead all rows.
_READ_POOLED_VIEWS = 8192  # Pooled vectors alone are read in pieces of this number of views.


def open_codec(folder: Path, label: str, settings: IndexSettings) -> Codec:
    """The codec of a label, `NAME` or `NAME:BASIS`, as the catalogue has it for each segment."""
    name, _, number = label.partition(":")
    basis = TransformBasis.load(folder / "codecs" / f"{number}.npz") if number else None
    return make_codec(name, settings.patches, settings.dim, basis)


class Snapshot:
    """One committed state. A segment that is missing or cut leaves its views out; `damage` has one line for each."""

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
        self.views = (
            columns if readable.all() else columns.only(readable)
        )  # The columns stay memory-mapped if all are readable.
        self.unreadable_views = columns.only(~readable)

    def _state(self, folder: Path, catalog: Catalog) -> tuple[State, ViewColumns]:
        """The columns come from their file where there is one of this very state."""
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
        """Write the file of columns where this state has none; on read-only media opening takes longer each time."""
        if self._unsaved_columns is not None:
            with suppress(OSError):
                self._unsaved_columns.save(self.cache)
            self._unsaved_columns = None

    def __len__(self) -> int:
        return len(self.views.id)

    def all_pooled(self) -> Iterator[NDArray[np.float16]]:
        """Unit global vectors f16[n, D] of all views, in the order of their ids, in pieces."""
        for start in range(0, len(self), _READ_POOLED_VIEWS):
            yield self._pooled(np.arange(start, min(start + _READ_POOLED_VIEWS, len(self))))

    def pooled(self, views: NDArray[np.int64]) -> NDArray[np.float16]:
        """View ids i64[K] -> unit global vectors f16[K, D]."""
        return self._pooled(self._positions(views))

    def _pooled(self, positions: NDArray[np.int64]) -> NDArray[np.float16]:
        result = np.empty((len(positions), 2 * self.dim), np.uint8)
        for start, stop, segment, rows in self._segment_runs(positions):
            segment.pooled.gather(rows, result[start:stop])
        return result.view("<f2")

    def contents(self, views: NDArray[np.int64]) -> NDArray[np.int64]:
        """View ids i64[K] -> content ids i64[K]."""
        return self.views.content[self._positions(views)]

    def sibling_views(self, views: NDArray[np.int64]) -> NDArray[np.int64]:
        """View ids i64[K] -> all views of their contents, each once, ascending."""
        if not self._tiled:
            return np.sort(views)
        order, column = self._by_content
        contents = np.unique(self.contents(views))
        starts = np.searchsorted(column, contents)
        counts = np.searchsorted(column, contents, "right") - starts
        places = np.repeat(starts - np.append(0, counts.cumsum()[:-1]), counts) + np.arange(counts.sum())
        return np.sort(self.views.id[order[places]])

    @cached_property
    def _by_content(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions of all views, by content, and the contents so i64[N], i64[N]."""
        order = np.argsort(self.views.content, kind="stable")
        return order, self.views.content[order]

    def intersect(self, views: NDArray[np.int64]) -> NDArray[np.int64]:
        """View ids i64[n], ascending -> the ids that this state has and whose segment can be read."""
        return self.views.id[positions_of(self.views.id, views)]

    def damaged(self, views: NDArray[np.int64], expected: NDArray[np.int64]) -> NDArray[np.bool_]:
        """View ids i64[K] and the checksums they should have -> bool[K]."""
        result = np.zeros(len(views), np.bool_)
        for _, here in self.by_codec(views):
            found = checksums(self.coded(views[here]), self.pooled(views[here]).view(np.uint8))
            result[here] = np.asarray(found, np.int64) != expected[here]
        return result

    def by_codec(self, views: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """View ids i64[K] -> for each codec (its label, which of the K are written in it)."""
        segments = self.views.segment[self._positions(views)]
        labels = {label: [n for n, other in self._labels.items() if other == label] for label in self.codecs}
        for label, numbers in labels.items():
            here = np.flatnonzero(np.isin(segments, numbers))
            if len(here):
                yield label, here

    def by_segment(
        self, views: NDArray[np.int64]
    ) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]]:
        """View ids i64[K] -> for each segment (its number, all its rows u8[n, stride], which of the K, their places).

        Places are row numbers, i64. All rows are memory-mapped, nothing is read yet.
        """
        positions = self._positions(views)
        order = np.argsort(self.views.segment[positions], kind="stable")
        for start, stop, segment, rows in self._segment_runs(positions[order]):
            yield segment.number, segment.tokens.rows, order[start:stop], rows

    def rows(self, views: NDArray[np.int64], piece_views: int = READ_VIEWS) -> Iterator[NDArray[np.uint8]]:
        """View ids i64[K] of one codec -> their bytes u8[n, stride] in the same order, in pieces of `piece_views`.

        A piece is overwritten by the next one: memory that is in the processor's cache already.
        """
        positions = self._positions(views)
        probes = self._segment_runs(positions[:: max(1, len(positions) // PROBED_ROWS)])
        if not all(segment.tokens.in_page_cache(rows) for _, _, segment, rows in probes):
            for _, _, segment, rows in self._segment_runs(positions):
                segment.tokens.prefetch(rows)
        piece = np.empty((min(piece_views, len(views)), self._codec_of(views).stride), np.uint8)
        for first in range(0, len(positions), piece_views):
            some = positions[first : first + piece_views]
            self._read(some, piece)
            yield piece[: len(some)]

    def encoded(self, views: NDArray[np.int64]) -> EncodedViews:
        """View ids i64[K] -> all that is stored of them, x restored from whatever codec they are in."""
        tokens = np.empty((len(views), self.patches, self.dim), np.float16)
        shift, scale = (np.empty((len(views), self.patches), np.float16) for _ in range(2))
        for label, here in self.by_codec(views):
            rows = self.coded(views[here])
            tokens[here] = self.codecs[label].restore(rows)
            shift[here], scale[here] = self.codecs[label].decode_token_stats(rows)
        return EncodedViews(self.pooled(views), tokens, shift, scale)

    def coded(self, views: NDArray[np.int64]) -> NDArray[np.uint8]:
        """View ids i64[K] of one codec -> their bytes, u8[K, stride]."""
        coded = np.empty((len(views), self._codec_of(views).stride), np.uint8)
        self._read(self._positions(views), coded)
        return coded

    def _read(self, positions: NDArray[np.int64], into: NDArray[np.uint8]) -> None:
        """Positions i64[n] of one codec -> the first n rows of u8[K, stride]."""
        for start, stop, segment, rows in self._segment_runs(positions):
            segment.tokens.gather(rows, into[start:stop])

    def _codec_of(self, views: NDArray[np.int64]) -> Codec:
        return self._segments[int(self.views.segment[self._positions(views[:1])[0]])].codec

    def _segment_runs(self, positions: NDArray[np.int64]) -> Iterator[tuple[int, int, Segment, NDArray[np.int64]]]:
        """Positions i64[K] -> (start, stop, segment, row numbers) of each run of positions in one segment."""
        numbers, rows = self.views.segment[positions], self.views.row[positions]
        breaks = np.flatnonzero(np.diff(numbers)) + 1
        for start, stop in pairwise([0, *breaks.tolist(), len(rows)] if len(rows) else []):
            yield start, stop, self._segments[int(numbers[start])], rows[start:stop]

    def _positions(self, views: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self.views.id, views).astype(np.int64)
