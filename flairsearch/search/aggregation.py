"""Compute the score of each image from the exact scores of its views."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flairsearch.search.places import RankedContent, ViewScores

TOP_VIEWS_PER_IMAGE = (
    3  # A phrase scores the mean of this many best views; one view alone scores high by chance too often.
)


@dataclass(frozen=True)
class ScoredImages:
    """Scores of C contents and of their K views, sorted by content."""

    views: NDArray[np.int64]  # i64[K]: view ids.
    view_scores: NDArray[np.float32]  # f32[K, phrases]: exact scores of the views.
    contents: NDArray[np.int64]  # i64[C]: content ids, ascending.
    starts: NDArray[np.int64]  # i64[C + 1]: content c has the views from starts[c] to starts[c + 1].
    scores: NDArray[np.float32]  # f32[C]: weighted mean over the phrases of the mean of the best views.

    @staticmethod
    def of(scored: ViewScores, shares: NDArray[np.float32]) -> ScoredImages:
        """Return the scores of the views' contents. shares: f32[phrases], weights of the phrases with sum 1."""
        order = np.argsort(scored.contents, kind="stable")
        views, view_scores = scored.views[order], scored.scores[order]
        contents, starts = np.unique(scored.contents[order], return_index=True)
        scores = np.asarray(_mean_of_best(view_scores, starts) @ shares, np.float32)
        return ScoredImages(views, view_scores, contents, np.append(starts, len(views)), scores)

    def top_k(self, k: int) -> NDArray[np.int64]:
        """Return positions i64[n] of the k best contents, best first, and of all with the same score as the k-th.

        Contents of equal score are in the order of their ids.
        """
        positions = np.arange(len(self.scores))
        if k < len(positions):  # Of a million contents only the k best are sorted.
            positions = np.flatnonzero(self.scores >= -np.partition(-self.scores, k - 1)[k - 1])
        return positions[np.argsort(-self.scores[positions], kind="stable")]

    def ranked(self, position: int) -> RankedContent:
        """Return the content at a position, with its views."""
        span = slice(int(self.starts[position]), int(self.starts[position + 1]))
        return RankedContent(
            int(self.contents[position]), self.views[span], self.view_scores[span], float(self.scores[position])
        )


def aggregate_views(contents: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the scores f32[C, Q] of contents, by id, from scores f32[K, Q] and contents i64[K] of their views."""
    order = np.argsort(contents, kind="stable")
    return _mean_of_best(scores[order], np.unique(contents[order], return_index=True)[1])


def _mean_of_best(scores: NDArray[np.float32], starts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return f32[C, Q]: the mean score of each content's best views.

    scores: f32[K, Q], sorted by content. starts: i64[C], the first view of each content.
    """
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
