"""Codes of views -> those of largest inner product: the first numbers of all of them, then whole codes of the best.

The axes of a fit come in the order of how much scores vary along them (shortlist/score_predictor.py), so that a view's
first numbers and its mean tell nearly all: of a million views they are 64 MB, read at the speed of memory. No lists of
clusters and no graph: texts lie where no view does, and it is there that those lose.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.arrays import positions_of
from flairsearch.core.types import Candidates

PREFIX_DIMS = 64  # numbers of a view that are always read: the first, and the last, which is the mean of its scores
MIN_REFINED = 16384  # The whole codes of at least this number of views are read.
REFINE_FACTOR = 4  # The whole codes of at least this factor times the views asked for are read.
SAMPLED_SCORES = 16384  # This number of scores estimate the bound that lets enough views through.
_PIECE_BYTES = 1 << 20  # A thread takes about this number of bytes of codes at a time.

F32 = NDArray[np.float32]
_Number = TypeVar("_Number", np.int8, np.float32)


class CodeScan:
    """Codes somewhere in rows of bytes, and the heads of those of some views."""

    def __init__(
        self,
        ids: NDArray[np.int64],
        heads: NDArray[np.int8],
        places: NDArray[np.int64],
        rows: NDArray[np.int8],
        start: int,
    ) -> None:
        """ids i64[N] ascending; heads i8[N, PREFIX_DIMS]; codes i8[W] of a view: rows i8[M, _][place, start:]."""
        self._ids, self._heads, self._places, self._rows, self._start = ids, heads, places, rows, start

    def __len__(self) -> int:
        return len(self._ids)

    def search(
        self,
        features: F32,
        count: int,
        among: NDArray[np.int64] | None = None,
        *,
        min_refined: int = MIN_REFINED,
        sampled_scores: int = SAMPLED_SCORES,
        is_compiled: bool = True,
    ) -> Candidates:
        """features f32[W] -> the `count` views of largest inner product with their codes; ties by view id.

        among: view ids i64[n], ascending: no others are looked at.
        Exact as long as no view of them has a head that 4 `count` others surpass (benchmarks/shortlist_large.py).
        """
        chosen = None if among is None else positions_of(self._ids, among)
        count = min(count, len(self) if chosen is None else len(chosen))
        if not count:
            return Candidates(np.zeros(0, np.int64), np.zeros(0, np.float32))
        some = self.likely(features, max(min_refined, REFINE_FACTOR * count), chosen, sampled_scores, is_compiled)
        scores = self._whole(features, some, is_compiled)
        best = np.arange(len(some))
        if count < len(some):
            best = np.flatnonzero(scores >= -np.partition(-scores, count - 1)[count - 1])
        best = best[np.argsort(-scores[best], kind="stable")][:count]  # places ascend, and ids with them
        return Candidates(self._ids[some[best]], scores[best])

    def likely(
        self,
        features: F32,
        count: int,
        chosen: NDArray[np.int64] | None = None,
        sampled_scores: int = SAMPLED_SCORES,
        is_compiled: bool = True,
    ) -> NDArray[np.int64]:
        """Which of the N, or of those chosen, are the `count` best by their heads, or some more; ascending."""
        total = len(self) if chosen is None else len(chosen)
        if count >= total:
            return np.arange(total) if chosen is None else chosen
        query, scores = prefix_of(features[None])[0], np.empty(total, np.float32)

        multiply_codes(self._heads, chosen, 0, query, scores, is_compiled)
        sample = scores[:: max(1, len(scores) // sampled_scores)]
        place = min(len(sample) - 1, int(1.1 * count * len(sample) / len(scores)) + 32)
        some = np.flatnonzero(scores >= -np.partition(-sample, place)[place])
        if len(some) < count:  # neighbours were too much alike for the sample
            some = np.flatnonzero(scores >= -np.partition(-scores, count - 1)[count - 1])
        return some if chosen is None else chosen[some]

    def _whole(self, features: F32, some: NDArray[np.int64], is_compiled: bool) -> F32:
        """Inner products of whole codes."""
        scores = np.empty(len(some), np.float32)
        multiply_codes(self._rows, self._places[some], self._start, features, scores, is_compiled)
        return scores


def prefix_of(codes: NDArray[_Number]) -> NDArray[_Number]:
    """[n, W] -> [n, HEAD]: the first numbers and the last; zeros where W is smaller."""
    heads = np.zeros((len(codes), PREFIX_DIMS), codes.dtype)
    first = min(PREFIX_DIMS, codes.shape[1]) - 1
    heads[:, :first], heads[:, -1] = codes[:, :first], codes[:, -1]
    return heads


def multiply_codes(
    rows: NDArray[np.int8],
    places: NDArray[np.int64] | None,
    start: int,
    features: F32,
    scores: F32,
    is_compiled: bool = True,
) -> None:
    """scores[i] = rows[places[i], start : start + W] . features; places None: rows[i].

    is_compiled: by loops that numba compiles, in threads; else by numpy, which loads at once.
    """
    size = max(1, _PIECE_BYTES // len(features))
    if not is_compiled:
        for first in range(0, len(scores), size):
            some = slice(first, first + size) if places is None else places[first : first + size]
            codes = rows[some, start : start + len(features)].astype(np.float32)
            scores[first : first + size] = np.einsum("ij,j->i", codes, features)  # @ sums equal rows in unequal ways
        return
    from flairsearch.core.numba_runtime import run_in_threads
    from flairsearch.shortlist import code_scan_numba

    def work(pieces: Iterator[tuple[int, int]]) -> None:
        for first, last in pieces:
            if places is None:
                code_scan_numba.multiply(rows, features, scores, first, last)
            else:
                code_scan_numba.multiply_rows(rows, places, start, features, scores, first, last)

    run_in_threads(work, len(scores), size)
