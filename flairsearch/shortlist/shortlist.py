"""Shortlist: find the views with the best predicted scores for texts or, without a predictor, by global tokens."""

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

_PIECE_ROWS = 8192  # Rows are read in pieces of this number.
_GLOBAL_KIND = "faiss"  # The kind of the derived file with the FAISS index of global tokens.

_FoundCodes = tuple[NDArray[np.int64], NDArray[np.int8]]  # The result of `_find_codes`.


class Shortlist:
    """The shortlist of one snapshot; threads may share it."""

    def __init__(self, snapshot: Snapshot, is_compiled: bool = True) -> None:
        """is_compiled: multiply codes with loops that numba compiles, else with numpy, which loads faster."""
        self._snapshot = snapshot
        file = PredictorFile(snapshot.folder, snapshot.dim)
        self._predictor = file.load()
        self._scan: CodeScan | None = None
        self._ids_without_codes = snapshot.views.id
        self._unsaved_codes: _FoundCodes | None = None
        if self._predictor is not None:
            codes = _load_codes(snapshot, file, self._predictor)
            if codes is None:
                codes = self._unsaved_codes = _find_codes(snapshot, file, self._predictor)
            rows = file.rows(self._predictor, snapshot.generation)
            self._scan, self._ids_without_codes = _open_codes(snapshot, rows, codes, is_compiled)
        self._building = Lock()  # Two threads must not build the same index.

    def save_derived_files(self, exhaustive_views: int) -> None:
        """Write the derived files that make the next opening fast, if they are missing or damaged.

        These are the columns of views and, with a predictor, the row and the prefix of each view's codes, else the
        FAISS index of global tokens. If the index is damaged, only columns are written; if the folder is read-only,
        nothing. exhaustive_views: an index of at most this number of views is ranked exhaustively, and gets no FAISS
        index.
        """
        snapshot = self._snapshot
        snapshot.save_columns()
        if snapshot.damage:
            return
        with suppress(OSError):
            if self._predictor is not None:
                if self._unsaved_codes is not None:
                    _save_codes(snapshot, self._predictor, self._unsaved_codes)
            elif len(snapshot) > exhaustive_views and _load_global_index(snapshot) is None:
                with snapshot.cache.atomic_write(_GLOBAL_KIND) as path:
                    self._full_global_index.save(path)
        self._unsaved_codes = None

    @property
    def _global_index(self) -> FaissIndex:
        """The index of the global tokens of views without codes; FAISS is imported only if there are any."""
        with self._building:
            return self._built_global_index

    @cached_property
    def _built_global_index(self) -> FaissIndex:
        from flairsearch.shortlist.faiss_index import FaissIndex

        if self._predictor is None:
            return self._full_global_index
        ids = self._ids_without_codes
        return FaissIndex.build(
            ids, self._snapshot.dim, (self._snapshot.pooled(piece) for piece in chunks(ids, _PIECE_ROWS))
        )

    @property
    def predicts(self) -> bool:
        """Whether its scores are predictions of exact scores."""
        return self._scan is not None and len(self._scan) > 0

    def search(
        self,
        texts: NDArray[np.float32],
        count: int,
        among: NDArray[np.int64] | None = None,
        shares: NDArray[np.float32] | None = None,
    ) -> Candidates:
        """Return `count` views and their predicted scores, best first.

        texts: f32[D] or f32[Q, D], vectors of any length. shares: f32[Q], the weights of the texts in the score.
        among: i64[n], ascending ids of the only views to return; None for all views.
        Views without codes come first, with infinite scores: at most half of the list unless too few views have codes,
        chosen by the cosine of the global token. If no view has codes, all scores are cosines of the global token and
        the weighted mean of the texts' unit vectors.
        """
        vectors = np.atleast_2d(texts)
        units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        if shares is None:
            shares = np.full(len(units), 1 / len(units), np.float32)
        mean = shares @ units
        if self._predictor is None or self._scan is None or not len(self._scan):
            return self._global_index.search(mean, count, among)
        features = np.stack([self._predictor.features(vector) for vector in vectors])
        predicted = self._scan.search(shares @ features, count, among)
        first = self._ids_without_codes
        if len(first):
            first = self._global_index.search(mean, max(count // 2, count - len(predicted.views)), among).views
        infinite, left = np.full(len(first), np.inf, np.float32), max(0, count - len(first))
        return Candidates(
            np.concatenate([first, predicted.views[:left]]), np.concatenate([infinite, predicted.scores[:left]])
        )

    def search_global(
        self, texts: NDArray[np.float32], count: int, among: NDArray[np.int64] | None, shares: NDArray[np.float32]
    ) -> Candidates:
        """Search by the global tokens of all views; the scores are exact if only the global token counts.

        The parameters are those of `search`.
        """
        with self._building:
            index = self._full_global_index
        units = texts / np.maximum(np.linalg.norm(texts, axis=1, keepdims=True), 1e-12)
        mean = shares @ units
        candidates = index.search(mean, count, among)
        return Candidates(candidates.views, candidates.scores * np.float32(np.linalg.norm(mean)))

    @cached_property
    def _full_global_index(self) -> FaissIndex:
        """The index of the global tokens of all views."""
        return _load_global_index(self._snapshot) or _build_global_index(self._snapshot)


def make_derived_files(snapshot: Snapshot, exhaustive_views: int = 0) -> None:
    """Open the shortlist of a snapshot and write its derived files: Shortlist.save_derived_files."""
    Shortlist(snapshot).save_derived_files(exhaustive_views)


def _build_global_index(snapshot: Snapshot) -> FaissIndex:
    """Build the index of all views' global tokens, which takes 2 D bytes of memory per view."""
    from flairsearch.shortlist.faiss_index import FaissIndex

    return FaissIndex.build(snapshot.views.id, snapshot.dim, snapshot.all_pooled())


def _load_global_index(snapshot: Snapshot) -> FaissIndex | None:
    """Load the FAISS index from its derived file; None if it is missing or damaged."""
    from flairsearch.shortlist.faiss_index import FaissIndex

    file = None if snapshot.damage else snapshot.cache.find(_GLOBAL_KIND)
    return FaissIndex.load(file, snapshot.views.id, snapshot.dim) if file else None


def _open_codes(
    snapshot: Snapshot, rows: NDArray[np.void], codes: _FoundCodes, is_compiled: bool
) -> tuple[CodeScan, NDArray[np.int64]]:
    """Return the codes of all views that have codes, and the ids i64[n] of the other views.

    rows: of the predictor's file. codes: the result of `_find_codes`.
    """
    ids, (rows_of_views, prefixes) = snapshot.views.id, codes
    flat = rows.view(np.int8).reshape(len(rows), rows.itemsize)
    has_codes = rows_of_views >= 0
    if has_codes.all():
        return CodeScan(ids, prefixes, rows_of_views, flat, CODES_OFFSET_BYTES, is_compiled), ids[:0]
    coded = (ids[has_codes], prefixes[has_codes], rows_of_views[has_codes])
    return CodeScan(*coded, flat, CODES_OFFSET_BYTES, is_compiled), ids[~has_codes]


def _find_codes(snapshot: Snapshot, file: PredictorFile, predictor: ScorePredictor) -> _FoundCodes:
    """Return the row i64[N] of each view's codes, -1 without codes, and their prefix i8[N, PREFIX_DIMS]."""
    ids, rows = snapshot.views.id, file.rows(predictor, snapshot.generation)
    rows_of_views = last_places(file, predictor, rows, ids)
    prefixes = np.zeros((len(ids), PREFIX_DIMS), np.int8)
    for first in range(0, len(ids), _PIECE_ROWS):
        with_codes = first + np.flatnonzero(rows_of_views[first : first + _PIECE_ROWS] >= 0)
        prefixes[with_codes] = prefix_of(rows["codes"][rows_of_views[with_codes]])
    return rows_of_views, prefixes


def _save_codes(snapshot: Snapshot, predictor: ScorePredictor, codes: _FoundCodes) -> None:
    """Write the file that `_load_codes` maps, if every view has codes. Raises OSError."""
    rows_of_views, prefixes = codes
    if (rows_of_views >= 0).all():
        with snapshot.cache.atomic_write(_kind(predictor)) as path, path.open("wb") as stream:
            stream.write(rows_of_views.astype("<i8").data)
            stream.write(prefixes.data)


def _load_codes(snapshot: Snapshot, file: PredictorFile, predictor: ScorePredictor) -> _FoundCodes | None:
    """Map the file with the result of `_find_codes`; None if the index or the file is damaged, or there is no file."""
    count = len(snapshot)
    if snapshot.damage or not count:
        return None
    try:
        derived = snapshot.cache.find_intact(_kind(predictor))
        if derived is None or derived.stat().st_size != count * (8 + PREFIX_DIMS):
            return None
        data = np.memmap(derived, np.uint8, "r").view(np.ndarray)
    except OSError:
        return None
    rows_of_views = data[: 8 * count].view("<i8")
    if rows_of_views.min() < 0 or rows_of_views.max() >= len(file.rows(predictor, snapshot.generation)):
        return None
    return rows_of_views, data[8 * count :].view(np.int8).reshape(count, PREFIX_DIMS)


def drop_kept(snapshot: Snapshot, predictor: ScorePredictor) -> None:
    """Remove the file of `_save_codes`, which new codes make wrong. Raises OSError."""
    while file := snapshot.cache.find(_kind(predictor)):
        file.unlink()


def _kind(predictor: ScorePredictor) -> str:
    """Return the kind of the derived file with the codes of a predictor."""
    return f"{predictor.crc:08x}"


def last_places(
    file: PredictorFile, predictor: ScorePredictor, rows: NDArray[np.void], views: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the last intact row i64[N] of each view, -1 if there is none.

    rows: the records of the file. views: i64[N], ids, ascending.
    """
    last_rows = np.full(len(views), -1, np.int64)
    for start in range(0, len(rows), _PIECE_ROWS):
        piece = rows[start : start + _PIECE_ROWS]
        positions = np.searchsorted(views, piece["view"])
        usable = (positions < len(views)) & file.intact(predictor, piece)
        usable[usable] = views[positions[usable]] == piece["view"][usable]
        last_rows[positions[usable]] = start + np.flatnonzero(usable)  # Of several rows of a view the last one counts.
    return last_rows
