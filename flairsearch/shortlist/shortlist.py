"""Which views are likely to answer a text, best first: by predicted scores, or by global tokens without a predictor."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.arrays import chunks
from flairsearch.core.types import Candidates
from flairsearch.shortlist.code_scan import PREFIX_DIMS, CodeScan, prefix_of
from flairsearch.shortlist.predictor_file import CODES_OFFSET_BYTES, PredictorFile
from flairsearch.shortlist.score_predictor import ScorePredictor
from flairsearch.store.snapshot import Snapshot

if TYPE_CHECKING:
    from flairsearch.shortlist.faiss_index import FaissIndex

_PIECE = 8192  # Rows are read in pieces of this number.
_GLOBAL = "faiss"  # The kind of the derived file with the FAISS index of global tokens.


class Shortlist:
    """The candidates of one snapshot, for any thread."""

    def __init__(self, snapshot: Snapshot, is_compiled: bool = True) -> None:
        """is_compiled: codes are multiplied by loops that numba compiles; else by numpy, which loads at once."""
        self._snapshot = snapshot
        file = PredictorFile(snapshot.folder, snapshot.dim)
        self._predictor = file.load()
        self._scan: CodeScan | None = None
        self._without_codes = snapshot.views.id
        if self._predictor is not None:
            self._scan, self._without_codes = _open_codes(snapshot, file, self._predictor, is_compiled)
        self._building = Lock()  # Two threads must not build the same index.

    @property
    def _global_index(self) -> FaissIndex:
        """Of the global tokens of views without codes; FAISS is imported when there are any."""
        with self._building:
            return self._built_global_index

    @cached_property
    def _built_global_index(self) -> FaissIndex:
        from flairsearch.shortlist.faiss_index import FaissIndex

        if self._predictor is None:
            return self._whole_global_index
        ids = self._without_codes
        return FaissIndex.build(ids, self._snapshot.dim, (self._snapshot.pooled(some) for some in chunks(ids, _PIECE)))

    @property
    def predicts(self) -> bool:
        """Whether its scores predict exact ones."""
        return self._scan is not None and len(self._scan) > 0

    def search(
        self,
        texts: NDArray[np.float32],
        count: int,
        among: NDArray[np.int64] | None = None,
        shares: NDArray[np.float32] | None = None,
    ) -> Candidates:
        """texts f32[D] or f32[Q, D], any length -> `count` views and their predicted scores.

        The score of several texts is the mean of theirs, weighted by shares f32[Q].
        among: view ids i64[n], ascending: only these views are candidates.
        Views without codes come first, with infinity: at most half of the list, by the cosine of the global token.
        Where no view has codes, all scores are cosines of the global token and the mean of the texts' directions.
        """
        several = np.atleast_2d(texts)
        units = several / np.maximum(np.linalg.norm(several, axis=1, keepdims=True), 1e-12)
        if shares is None:
            shares = np.full(len(units), 1 / len(units), np.float32)
        mean = shares @ units
        if self._predictor is None or self._scan is None or not len(self._scan):
            return self._global_index.search(mean, count, among)
        features = np.stack([self._predictor.features(text) for text in several])
        predicted = self._scan.search(shares @ features, count, among)
        first = self._without_codes
        if len(first):
            first = self._global_index.search(mean, max(count // 2, count - len(predicted.views)), among).views
        unknown, left = np.full(len(first), np.inf, np.float32), max(0, count - len(first))
        return Candidates(
            np.concatenate([first, predicted.views[:left]]), np.concatenate([unknown, predicted.scores[:left]])
        )

    def search_global(
        self, texts: NDArray[np.float32], count: int, among: NDArray[np.int64] | None, shares: NDArray[np.float32]
    ) -> Candidates:
        """`search` by the global tokens of all views, whatever codes there are: exact scores, if only these count."""
        with self._building:
            index = self._whole_global_index
        units = texts / np.maximum(np.linalg.norm(texts, axis=1, keepdims=True), 1e-12)
        mean = shares @ units
        found = index.search(mean, count, among)
        return Candidates(found.views, found.scores * np.float32(np.linalg.norm(mean)))

    @cached_property
    def _whole_global_index(self) -> FaissIndex:
        """Of all views."""
        return _kept_global_index(self._snapshot) or _build_global_index(self._snapshot)


def make_derived_files(snapshot: Snapshot, exhaustive_views: int = 0) -> None:
    """Write the files that a Shortlist would otherwise compute when it opens, where one is missing or damaged.

    These are the columns of views and, with a predictor, where the codes of each view are, else the FAISS index of
    global tokens. Nothing is written of a damaged index, or where the folder cannot be written: opening takes longer
    then. exhaustive_views: an index of at most this number of views is ranked whole, and gets no FAISS index.
    """
    snapshot.save_columns()
    if snapshot.damage:
        return
    file = PredictorFile(snapshot.folder, snapshot.dim)
    predictor = file.load()
    with suppress(OSError):
        if predictor is not None:
            if _load_codes(snapshot, file, predictor) is None:
                _save_codes(snapshot, file, predictor)
        elif len(snapshot) > exhaustive_views and _kept_global_index(snapshot) is None:
            with snapshot.cache.atomic_write(_GLOBAL) as path:
                _build_global_index(snapshot).save(path)


def _build_global_index(snapshot: Snapshot) -> FaissIndex:
    """Of all views' global tokens; it is in memory meanwhile, 2 D bytes a view."""
    from flairsearch.shortlist.faiss_index import FaissIndex

    return FaissIndex.build(snapshot.views.id, snapshot.dim, snapshot.all_pooled())


def _kept_global_index(snapshot: Snapshot) -> FaissIndex | None:
    from flairsearch.shortlist.faiss_index import FaissIndex

    file = None if snapshot.damage else snapshot.cache.find(_GLOBAL)
    return FaissIndex.load(file, snapshot.views.id, snapshot.dim) if file else None


def _open_codes(
    snapshot: Snapshot, file: PredictorFile, predictor: ScorePredictor, is_compiled: bool
) -> tuple[CodeScan, NDArray[np.int64]]:
    """The codes of all views that have some; the ids of the other views."""
    ids, rows = snapshot.views.id, file.rows(predictor, snapshot.generation)
    flat = rows.view(np.int8).reshape(len(rows), rows.itemsize)
    places, prefixes = _load_codes(snapshot, file, predictor) or _find_codes(snapshot, file, predictor)
    has_codes = places >= 0
    if has_codes.all():
        return CodeScan(ids, prefixes, places, flat, CODES_OFFSET_BYTES, is_compiled), ids[:0]
    chosen = (ids[has_codes], prefixes[has_codes], places[has_codes])
    return CodeScan(*chosen, flat, CODES_OFFSET_BYTES, is_compiled), ids[~has_codes]


def _find_codes(
    snapshot: Snapshot, file: PredictorFile, predictor: ScorePredictor
) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Of each view the row of its codes i64[N], -1 without codes, and their prefix i8[N, PREFIX_DIMS]."""
    ids, rows = snapshot.views.id, file.rows(predictor, snapshot.generation)
    places = last_places(file, predictor, rows, ids)
    prefixes = np.zeros((len(ids), PREFIX_DIMS), np.int8)
    for first in range(0, len(ids), _PIECE):
        some = first + np.flatnonzero(places[first : first + _PIECE] >= 0)
        prefixes[some] = prefix_of(rows["codes"][places[some]])
    return places, prefixes


def _save_codes(snapshot: Snapshot, file: PredictorFile, predictor: ScorePredictor) -> None:
    """The file that `_load_codes` maps, once every view has codes. Raises OSError."""
    if len(file.rows(predictor, snapshot.generation)) < len(snapshot):
        return
    places, prefixes = _find_codes(snapshot, file, predictor)
    if (places >= 0).all():
        with snapshot.cache.atomic_write(_kind(predictor)) as path, path.open("wb") as stream:
            stream.write(places.astype("<i8").data)
            stream.write(prefixes.data)


def _load_codes(
    snapshot: Snapshot, file: PredictorFile, predictor: ScorePredictor
) -> tuple[NDArray[np.int64], NDArray[np.int8]] | None:
    """What `_find_codes` gives, memory-mapped; None where the index or the file is damaged, or there is no file."""
    count = len(snapshot)
    if snapshot.damage or not count:
        return None
    try:
        kept = snapshot.cache.find_intact(_kind(predictor))
        if kept is None or kept.stat().st_size != count * (8 + PREFIX_DIMS):
            return None
        data = np.memmap(kept, np.uint8, "r").view(np.ndarray)
    except OSError:
        return None
    places = data[: 8 * count].view("<i8")
    if places.min() < 0 or places.max() >= len(file.rows(predictor, snapshot.generation)):
        return None
    return places, data[8 * count :].view(np.int8).reshape(count, PREFIX_DIMS)


def drop_kept(snapshot: Snapshot, predictor: ScorePredictor) -> None:
    """Remove the file of `_save_codes` before new codes make it wrong. Raises OSError."""
    while file := snapshot.cache.find(_kind(predictor)):
        file.unlink()


def _kind(predictor: ScorePredictor) -> str:
    return f"{predictor.crc:08x}"


def last_places(
    file: PredictorFile, predictor: ScorePredictor, rows: NDArray[np.void], views: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Which row is the last whole one of each view, i64[N]; -1 where there is none. views i64[N], ascending."""
    places = np.full(len(views), -1, np.int64)
    for start in range(0, len(rows), _PIECE):
        piece = rows[start : start + _PIECE]
        at = np.searchsorted(views, piece["view"])
        good = (at < len(views)) & file.intact(predictor, piece)
        good[good] = views[at[good]] == piece["view"][good]
        places[at[good]] = start + np.flatnonzero(good)  # Of several rows of one view the last one stays.
    return places
