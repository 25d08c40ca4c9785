"""Which views may answer a text, best first: by their fitted vectors, or the global token of those that have none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from flairsearch.fit import Fit
from flairsearch.fitted import Fitted
from flairsearch.prefilter import Prefilter
from flairsearch.reader import Reader
from flairsearch.records import Candidates

_PIECE = 8192  # rows at once
_CODES = np.dtype("i1")


class Shortlist:
    """The prefilter of one state of an index."""

    def __init__(self, reader: Reader) -> None:
        fitted = Fitted(reader.folder, reader.dim)
        self._fit = fitted.fit()
        self._near: Prefilter | None = None
        if self._fit is None:
            self._rest = reader.prefilter()
        else:
            self._near, self._rest = _open(reader, fitted, self._fit)

    @property
    def predicts(self) -> bool:
        """Whether its scores are those that exact ones should be."""
        return self._near is not None and len(self._near) > 0

    def search(self, text: NDArray[np.float32], count: int) -> Candidates:
        """text f32[D], any length -> `count` views and what their exact scores should be.

        Views without a fitted vector come first, with infinity: those of the largest global cosine, at most half.
        Where no view has one, scores are global cosines.
        """
        unit = text / max(float(np.linalg.norm(text)), 1e-12)
        if self._fit is None or self._near is None or not len(self._near):
            return self._rest.search(unit, count)
        rest = self._rest.search(unit, max(count // 2, count - len(self._near))).views
        near = self._near.search(self._fit.features(unit), count - len(rest))
        unknown = np.full(len(rest), np.inf, np.float32)
        return Candidates(np.concatenate([rest, near.views]), np.concatenate([unknown, near.scores]))


def _open(reader: Reader, fitted: Fitted, fit: Fit) -> tuple[Prefilter, Prefilter]:
    """Of the codes, from a file of this state where there is one; and of the pooled vectors of views without codes."""
    ids, width, kind = reader.views.id, len(fit.steps), f"{fit.crc:08x}"
    none = Prefilter.build(np.zeros(0, np.int64), reader.dim, [])
    file = None if reader.damage else reader.cache.find(kind)
    found = Prefilter.load(file, ids, width, _CODES) if file else None
    if found is not None:
        return found, none
    rows = fitted.rows(fit, reader.generation)
    places = last_places(fitted, fit, rows, ids)
    there = places >= 0
    if there.all() and not reader.damage:
        with suppress(OSError), reader.cache.writing(kind) as path:
            Prefilter.write(path, len(ids), width, _codes(rows, places), _CODES)
        file = reader.cache.find(kind)
        found = Prefilter.load(file, ids, width, _CODES) if file else None
        if found is not None:
            return found, none
    near = Prefilter.build(ids[there], width, _codes(rows, places[there]), _CODES)
    without = ids[~there]
    pieces = (reader.pooled(without[i : i + _PIECE]) for i in range(0, len(without), _PIECE))
    return near, Prefilter.build(without, reader.dim, pieces)


def last_places(fitted: Fitted, fit: Fit, rows: NDArray[np.void], views: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which row is the last whole one of each view, i64[N]; -1 where there is none. views i64[N], ascending."""
    places = np.full(len(views), -1, np.int64)
    for start in range(0, len(rows), _PIECE):
        piece = rows[start : start + _PIECE]
        at = np.searchsorted(views, piece["view"])
        good = (at < len(views)) & fitted.whole(fit, piece)
        good[good] = views[at[good]] == piece["view"][good]
        places[at[good]] = start + np.flatnonzero(good)  # of several of one view the last one stays
    return places


def _codes(rows: NDArray[np.void], places: NDArray[np.int64]) -> Iterator[NDArray[np.int8]]:
    for start in range(0, len(places), _PIECE):
        yield rows["codes"][places[start : start + _PIECE]]
