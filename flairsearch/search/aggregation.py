"""Views with exact scores -> images with theirs: what an image scores, from all of its views."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flairsearch.search.places import RankedContent, ViewScores

TOP_VIEWS_PER_IMAGE = 3  # The best views of an image count for a phrase: a single best one is often there by chance.


@dataclass(frozen=True)
class ScoredImages:
    """K views of C contents, the views of a content side by side."""

    views: NDArray[np.int64]  # [K] View ids.
    view_scores: NDArray[np.float32]  # [K, phrases] Exact scores.
    contents: NDArray[np.int64]  # [C] Content ids, ascending.
    starts: NDArray[np.int64]  # [C + 1] Where the views of each content begin.
    scores: NDArray[np.float32]  # [C] Weighted mean over the phrases of the mean of the best views.

    @staticmethod
    def of(scored: ViewScores, shares: NDArray[np.float32]) -> ScoredImages:
        """Scores of views -> scores of their contents. shares f32[phrases]: weights of the phrases, of sum 1."""
        order = np.argsort(scored.contents, kind="stable")
        views, view_scores = scored.views[order], scored.scores[order]
        contents, starts = np.unique(scored.contents[order], return_index=True)
        scores = np.asarray(_mean_of_best(view_scores, starts) @ shares, np.float32)
        return ScoredImages(views, view_scores, contents, np.append(starts, len(views)), scores)

    def top_k(self, k: int) -> NDArray[np.int64]:
        """Places in `contents` of the k best, best first, equal ones by id; with all that score as the k-th does."""
        places = np.arange(len(self.scores))
        if k < len(places):  # A million are not sorted for ten.
            places = np.flatnonzero(self.scores >= -np.partition(-self.scores, k - 1)[k - 1])
        return places[np.argsort(-self.scores[places], kind="stable")]

    def ranked(self, place: int) -> RankedContent:
        """The content at a place, with its views."""
        span = slice(int(self.starts[place]), int(self.starts[place + 1]))
        return RankedContent(
            int(self.contents[place]), self.views[span], self.view_scores[span], float(self.scores[place])
        )


def aggregate_views(contents: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Exact scores of views f32[K, Q] and their contents i64[K] -> scores of the contents by id, f32[C, Q]."""
    order = np.argsort(contents, kind="stable")
    return _mean_of_best(scores[order], np.unique(contents[order], return_index=True)[1])


def _mean_of_best(scores: NDArray[np.float32], starts: NDArray[np.int64]) -> NDArray[np.float32]:
    """f32[K, Q], and where each content's views begin i64[C] -> f32[C, Q]: the mean of each content's best views."""
    if len(starts) == len(scores):
        return scores
    sizes = np.diff(starts, append=len(scores))
    group, counts = np.repeat(np.arange(len(starts)), sizes), np.minimum(sizes, TOP_VIEWS_PER_IMAGE)
    result = np.empty((len(starts), scores.shape[1]), np.float32)
    for column in range(scores.shape[1]):
        ordered = scores[np.lexsort((-scores[:, column], group)), column]
        total = ordered[starts]
        for i in range(1, TOP_VIEWS_PER_IMAGE):
            has_more = counts > i
            total[has_more] += ordered[starts[has_more] + i]
        result[:, column] = total / counts
    return result
