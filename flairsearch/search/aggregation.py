"""Views with exact scores -> photos with theirs: what a photo scores, from all of its views."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.types import Ranking

VIEWS = 3  # of a photo count for a phrase, the best ones; the best of many alone is often there by chance


@dataclass(frozen=True)
class ScoredImages:
    """K views of C contents, the views of a content side by side."""

    views: NDArray[np.int64]  # [K] ids
    parts: NDArray[np.float32]  # [K, phrases] exact scores
    contents: NDArray[np.int64]  # [C] ids, ascending
    starts: NDArray[np.int64]  # [C + 1] where the views of each begin
    scores: NDArray[np.float32]  # [C] weighted mean over the phrases; of each the mean of its VIEWS best views

    @staticmethod
    def of(
        views: NDArray[np.int64],
        contents: NDArray[np.int64],
        parts: NDArray[np.float32],
        shares: NDArray[np.float32],
    ) -> ScoredImages:
        """views i64[K], ascending, contents i64[K] of them, parts f32[K, phrases], shares f32[phrases]."""
        order = np.argsort(contents, kind="stable")
        views, parts = views[order], parts[order]
        ids, starts = np.unique(contents[order], return_index=True)
        best = _mean_of_best(parts, starts)
        return ScoredImages(views, parts, ids, np.append(starts, len(views)), np.asarray(best @ shares, np.float32))

    def best(self, k: int) -> NDArray[np.int64]:
        """Places of the k best contents, best first, equal ones by id; and of all that score as the k-th does."""
        some = np.arange(len(self.scores))
        if k < len(some):  # a million are not sorted for ten
            some = np.flatnonzero(self.scores >= -np.partition(-self.scores, k - 1)[k - 1])
        return some[np.argsort(-self.scores[some], kind="stable")]

    def ranking(self, place: int) -> Ranking:
        """One content with its views."""
        here = slice(int(self.starts[place]), int(self.starts[place + 1]))
        return Ranking(int(self.contents[place]), self.views[here], self.parts[here], float(self.scores[place]))


def aggregate_views(contents: NDArray[np.int64], parts: NDArray[np.float32]) -> NDArray[np.float32]:
    """contents i64[K] of views, their exact scores f32[K, Q] -> what each content scores, by its id, f32[C, Q]."""
    order = np.argsort(contents, kind="stable")
    return _mean_of_best(parts[order], np.unique(contents[order], return_index=True)[1])


def _mean_of_best(parts: NDArray[np.float32], starts: NDArray[np.int64]) -> NDArray[np.float32]:
    """parts f32[K, Q], where each content's begin i64[C] -> f32[C, Q]: the mean of the VIEWS best of each."""
    if len(starts) == len(parts):
        return parts
    several = np.diff(starts, append=len(parts))
    group, counts = np.repeat(np.arange(len(starts)), several), np.minimum(several, VIEWS)
    result = np.empty((len(starts), parts.shape[1]), np.float32)
    for column in range(parts.shape[1]):
        ordered = parts[np.lexsort((-parts[:, column], group)), column]
        total = ordered[starts]
        for i in range(1, VIEWS):
            more = counts > i
            total[more] += ordered[starts[more] + i]
        result[:, column] = total / counts
    return result
