"""Search the codes of views for the largest inner products with a text's features, in two passes.

The values of a code are sorted by how much scores vary along their axes (shortlist/score_predictor.py). So a coarse
pass over the first values of all codes and the last one, the mean score, finds nearly all candidates; a second pass
reads their full codes. For a million views the coarse pass reads 64 MB at memory speed. Inverted lists and graphs are
not used: texts are out of distribution for clusters of views, and recall is low there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.arrays import positions_of
from flairsearch.core.types import Candidates

PREFIX_DIMS = 64  # The coarse pass reads the first 63 values of a code and the last one, the mean score.
MIN_REFINED = 16384  # The full codes of at least this number of views are read.
REFINE_FACTOR = 4  # The full codes of at least this factor times the requested number of views are read.
SAMPLED_SCORES = 16384  # This number of coarse scores estimates the threshold that enough candidates pass.
_BYTES_PER_TASK = 1 << 20  # A thread takes about this number of bytes of codes at a time.

F32 = NDArray[np.float32]
_Number = TypeVar("_Number", np.int8, np.float32)


class CodeScan:
    """The codes of views, stored somewhere in rows of bytes, and their prefixes in one contiguous array."""

    def __init__(
        self,
        ids: NDArray[np.int64],
        prefixes: NDArray[np.int8],
        row_of_view: NDArray[np.int64],
        rows: NDArray[np.int8],
        start: int,
        is_compiled: bool = True,
    ) -> None:
        """Hold N views; the code i8[W] of view i is rows[row_of_view[i], start : start + W].

        ids: i64[N], view ids, ascending. prefixes: i8[N, PREFIX_DIMS], from prefix_of. row_of_view: i64[N].
        rows: i8[M, stride]. start: the first byte of a code in its row.
        is_compiled: loops that numba compiles multiply codes; else numpy does, which loads at once.
        """
        self._is_compiled = is_compiled
        self._ids, self._prefixes, self._row_of_view, self._rows, self._start = ids, prefixes, row_of_view, rows, start

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
    ) -> Candidates:
        """Return the `count` views whose codes have the largest inner products with features f32[W]; ties by view id.

        among: view ids i64[n], ascending; only these views are searched.
        The result is exact unless a view of it is outside the best 4 `count` of the coarse pass
        (benchmarks/shortlist_large.py).
        """
        allowed = None if among is None else positions_of(self._ids, among)
        count = min(count, len(self) if allowed is None else len(allowed))
        if not count:
            return Candidates(np.zeros(0, np.int64), np.zeros(0, np.float32))
        candidates = self.coarse_candidates(features, max(min_refined, REFINE_FACTOR * count), allowed, sampled_scores)
        scores = self._refine_scores(features, candidates)
        best = np.arange(len(candidates))
        if count < len(candidates):
            best = np.flatnonzero(scores >= -np.partition(-scores, count - 1)[count - 1])
        best = best[np.argsort(-scores[best], kind="stable")][:count]  # Candidates ascend, so ties are in order of id.
        return Candidates(self._ids[candidates[best]], scores[best])

    def coarse_candidates(
        self,
        features: F32,
        count: int,
        allowed: NDArray[np.int64] | None = None,
        sampled_scores: int = SAMPLED_SCORES,
    ) -> NDArray[np.int64]:
        """Return the positions of at least the best `count` views by their prefixes, ascending.

        allowed: i64[n], positions from 0 to N - 1, ascending; only these views are considered.
        """
        total = len(self) if allowed is None else len(allowed)
        if count >= total:
            return np.arange(total) if allowed is None else allowed
        query, scores = prefix_of(features[None])[0], np.empty(total, np.float32)
        multiply_codes(self._prefixes, allowed, 0, query, scores, self._is_compiled)
        sample = scores[:: max(1, len(scores) // sampled_scores)]
        rank = min(len(sample) - 1, int(1.1 * count * len(sample) / len(scores)) + 32)
        passing = np.flatnonzero(scores >= -np.partition(-sample, rank)[rank])
        if len(passing) < count:  # The sample was not representative, as neighbouring views may be alike.
            passing = np.flatnonzero(scores >= -np.partition(-scores, count - 1)[count - 1])
        return passing if allowed is None else allowed[passing]

    def _refine_scores(self, features: F32, candidates: NDArray[np.int64]) -> F32:
        """Return the inner products f32[n] of features f32[W] and the full codes at positions i64[n]."""
        scores = np.empty(len(candidates), np.float32)
        row_numbers = self._row_of_view[candidates]
        multiply_codes(self._rows, row_numbers, self._start, features, scores, self._is_compiled)
        return scores


def prefix_of(codes: NDArray[_Number]) -> NDArray[_Number]:
    """Return the first values and the last one of codes [n, W], as [n, PREFIX_DIMS]; zeros where W is smaller."""
    prefixes = np.zeros((len(codes), PREFIX_DIMS), codes.dtype)
    first = min(PREFIX_DIMS, codes.shape[1]) - 1
    prefixes[:, :first], prefixes[:, -1] = codes[:, :first], codes[:, -1]
    return prefixes


def multiply_codes(
    rows: NDArray[np.int8],
    row_numbers: NDArray[np.int64] | None,
    start: int,
    features: F32,
    scores: F32,
    is_compiled: bool,
) -> None:
    """Fill scores[i] = rows[row_numbers[i], start : start + W] . features.

    row_numbers: i64[n]; None: all rows in order, with start 0.
    is_compiled: loops that numba compiles do the work, in threads; else numpy does.
    """
    size = max(1, _BYTES_PER_TASK // len(features))
    if not is_compiled:
        for first in range(0, len(scores), size):
            part = slice(first, first + size) if row_numbers is None else row_numbers[first : first + size]
            codes = rows[part, start : start + len(features)].astype(np.float32)
            # einsum gives equal rows equal sums; the operator @ may not.
            scores[first : first + size] = np.einsum("ij,j->i", codes, features)
        return
    from flairsearch.core.numba_runtime import run_in_threads
    from flairsearch.shortlist import code_scan_numba

    def work(pieces: Iterator[tuple[int, int]]) -> None:
        for first, last in pieces:
            if row_numbers is None:
                code_scan_numba.multiply(rows, features, scores, first, last)
            else:
                code_scan_numba.multiply_rows(rows, row_numbers, start, features, scores, first, last)

    run_in_threads(work, len(scores), size)
