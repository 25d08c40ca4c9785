"""Which views may answer a text, best first: by their fitted vectors, or the global token of those that have none."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.types import Candidates
from flairsearch.shortlist.code_scan import PREFIX_DIMS, CodeScan, prefix_of
from flairsearch.shortlist.predictor_file import CODES_OFFSET_BYTES, PredictorFile
from flairsearch.shortlist.score_predictor import ScorePredictor
from flairsearch.store.derived_files import DerivedFiles, checksum_matches
from flairsearch.store.snapshot import Snapshot

if TYPE_CHECKING:
    from flairsearch.shortlist.faiss_index import FaissIndex

_PIECE = 8192  # rows at once


class Shortlist:
    """The prefilter of one state of an index."""

    def __init__(self, reader: Snapshot) -> None:
        self._reader, fitted = reader, PredictorFile(reader.folder, reader.dim)
        self._fit = fitted.load()
        self._near: CodeScan | None = None
        self._without = reader.views.id  # views without a fitted vector
        if self._fit is not None:
            self._near, self._without = _open(reader, fitted, self._fit)

    @cached_property
    def _rest(self) -> FaissIndex:
        """Of those without; FAISS is imported when there are any."""
        if self._fit is None:
            return open_prefilter(self._reader)
        from flairsearch.shortlist.faiss_index import FaissIndex

        without = self._without
        pieces = (self._reader.pooled(without[i : i + _PIECE]) for i in range(0, len(without), _PIECE))
        return FaissIndex.build(without, self._reader.dim, pieces)

    @property
    def predicts(self) -> bool:
        """Whether its scores are those that exact ones should be."""
        return self._near is not None and len(self._near) > 0

    def search(
        self,
        texts: NDArray[np.float32],
        count: int,
        among: NDArray[np.int64] | None = None,
        shares: NDArray[np.float32] | None = None,
    ) -> Candidates:
        """texts f32[D] or f32[Q, D], any length -> `count` views and what their exact scores should be.

        Of several, the mean of their scores, weighted by shares f32[Q].
        among: view ids i64[n], ascending: no others.
        Views without a fitted vector come first, with infinity: those of the largest global cosine, at most half.
        Where no view has one, scores are global cosines; of several texts, of the mean of their directions.
        """
        several = np.atleast_2d(texts)
        units = several / np.maximum(np.linalg.norm(several, axis=1, keepdims=True), 1e-12)
        if shares is None:
            shares = np.full(len(units), 1 / len(units), np.float32)
        mean = shares @ units
        if self._fit is None or self._near is None or not len(self._near):
            return self._rest.search(mean, count, among)
        features = np.stack([self._fit.features(text) for text in several])  # predictions are linear in them
        near = self._near.search(shares @ features, count, among)
        rest = self._without
        if len(rest):
            rest = self._rest.search(mean, max(count // 2, count - len(near.views)), among).views
        unknown, left = np.full(len(rest), np.inf, np.float32), max(0, count - len(rest))
        return Candidates(np.concatenate([rest, near.views[:left]]), np.concatenate([unknown, near.scores[:left]]))


def open_prefilter(reader: Snapshot) -> FaissIndex:
    """Of all views: from its file, memory-mapped; else made from the pooled vectors, and kept for the next opening.

    While it is made it is in memory, 2 D bytes a view. Only an index without a fit needs it.
    """
    from flairsearch.shortlist.faiss_index import FaissIndex

    found = _kept_prefilter(reader)
    if found is not None:
        return found
    made = FaissIndex.build(reader.views.id, reader.dim, reader.all_pooled())
    if not reader.damage:
        with suppress(OSError), reader.cache.atomic_write("faiss") as path:
            made.save(path)
    return _kept_prefilter(reader) or made


def _kept_prefilter(reader: Snapshot) -> FaissIndex | None:
    from flairsearch.shortlist.faiss_index import FaissIndex

    file = None if reader.damage else reader.cache.find("faiss")
    return FaissIndex.load(file, reader.views.id, reader.dim) if file else None


def _open(reader: Snapshot, fitted: PredictorFile, fit: ScorePredictor) -> tuple[CodeScan, NDArray[np.int64]]:
    """The codes of all views that have some; the ids of the others."""
    ids, rows = reader.views.id, fitted.rows(fit, reader.generation)
    flat = rows.view(np.int8).reshape(len(rows), rows.itemsize)
    kind = _kind(fit)
    kept = None if reader.damage else _load(reader.cache, kind, len(ids), len(rows))
    if kept is None:
        places = last_places(fitted, fit, rows, ids)
        heads = np.zeros((len(ids), PREFIX_DIMS), np.int8)
        for first in range(0, len(ids), _PIECE):
            some = first + np.flatnonzero(places[first : first + _PIECE] >= 0)
            heads[some] = prefix_of(rows["codes"][places[some]])
        if (places >= 0).all() and not reader.damage:
            with suppress(OSError), reader.cache.atomic_write(kind) as path, path.open("wb") as stream:
                stream.write(places.astype("<i8").data)
                stream.write(heads.data)
        kept = places, heads
    places, heads = kept
    there = places >= 0
    if there.all():
        return CodeScan(ids, heads, places, flat, CODES_OFFSET_BYTES), ids[:0]
    return CodeScan(ids[there], heads[there], places[there], flat, CODES_OFFSET_BYTES), ids[~there]


def _load(cache: DerivedFiles, kind: str, count: int, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int8]] | None:
    """Of each view the place of its row i64[N], and its head i8[N, HEAD], memory-mapped; None without a file."""
    file = cache.find(kind)
    try:
        if file is None or not count or file.stat().st_size != count * (8 + PREFIX_DIMS) or not checksum_matches(file):
            return None
        data = np.memmap(file, np.uint8, "r").view(np.ndarray)
    except OSError:
        return None
    places = data[: 8 * count].view("<i8")
    if places.min() < 0 or places.max() >= rows:
        return None
    return places, data[8 * count :].view(np.int8).reshape(count, PREFIX_DIMS)


def drop_kept(reader: Snapshot, fit: ScorePredictor) -> None:
    """The file of places, before rows come that change them: of a state that had lost codes. Raises OSError."""
    while file := reader.cache.find(_kind(fit)):
        file.unlink()


def _kind(fit: ScorePredictor) -> str:
    return f"{fit.crc:08x}"


def last_places(
    fitted: PredictorFile, fit: ScorePredictor, rows: NDArray[np.void], views: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Which row is the last whole one of each view, i64[N]; -1 where there is none. views i64[N], ascending."""
    places = np.full(len(views), -1, np.int64)
    for start in range(0, len(rows), _PIECE):
        piece = rows[start : start + _PIECE]
        at = np.searchsorted(views, piece["view"])
        good = (at < len(views)) & fitted.intact(fit, piece)
        good[good] = views[at[good]] == piece["view"][good]
        places[at[good]] = start + np.flatnonzero(good)  # of several of one view the last one stays
    return places
