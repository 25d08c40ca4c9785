"""Rank images by exact scores: those of a shortlist of fixed length, or of one that grows until the best are sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flairsearch.core.request import SearchRequest
from flairsearch.core.timing import StageTimer
from flairsearch.core.types import EncodedQuery
from flairsearch.search.aggregation import ScoredImages
from flairsearch.search.places import CandidateViews, Ids, Places, ViewScores
from flairsearch.search.policy import SearchPolicy


@dataclass(frozen=True)
class RankedImages:
    """The images of a query with exact scores, and the candidates from which more images can be ranked."""

    images: ScoredImages
    candidates: CandidateViews | None  # None if no more images are to be ranked.


class Ranker:
    """Ranks the images of one state of the index by score alone; search/inspection.py checks the conditions."""

    def __init__(self, places: Places, policy: SearchPolicy) -> None:
        self._places, self._policy = places, policy

    def rank_many(
        self,
        queries: Sequence[EncodedQuery],
        request: SearchRequest,
        timer: StageTimer,
    ) -> list[RankedImages]:
        """Return the images of each query, with certainty about the best ones up to the end of the requested page.

        With conditions more images are ranked, since some may not meet them. request: its own query is ignored.
        """
        end, share = request.offset + request.k, request.global_share
        total, is_auto = self._places.count(request.filter), request.shortlist == "auto"
        size = self._policy.shortlist_size(request.shortlist, total)
        if is_auto:
            size = min(max(size, self._policy.initial_factor * end), total)
        with timer.stage("shortlist"):
            candidates = [
                self._candidates(query, size, request, total, self._min_images(query, end) if is_auto else 0)
                for query in queries
            ]
        grows = is_auto and size < total and all(shortlist.has_predictions for shortlist in candidates)
        with timer.stage("rank"):
            if grows:
                ranked = [
                    self.rank_until_stable(
                        query, shortlist, self._policy.verified(end) if query.has_conditions else end, share
                    )
                    for query, shortlist in zip(queries, candidates, strict=True)
                ]
            else:
                ranked = self._rank_all(candidates, queries, share)
        return [
            RankedImages(images, shortlist if grows and query.has_conditions else None)
            for query, images, shortlist in zip(queries, ranked, candidates, strict=True)
        ]

    def _min_images(self, query: EncodedQuery, end: int) -> int:
        """Return the smallest number of images in a growing shortlist."""
        return self._policy.inspected(end) if query.has_conditions else end

    def _candidates(
        self, query: EncodedQuery, size: int, request: SearchRequest, total: int, min_images: int
    ) -> CandidateViews:
        """Return the shortlist of `size` views, or a longer one that holds at least `min_images` images."""
        if size >= total:
            return self._places.candidates(query, None, request.filter, request.global_share)
        while True:
            shortlist = self._places.candidates(query, size, request.filter, request.global_share)
            if size >= total or len(np.unique(shortlist.contents)) >= min_images:
                return shortlist
            size = min(2 * size, total)

    def _rank_all(
        self, candidates: Sequence[CandidateViews], queries: Sequence[EncodedQuery], global_share: float | None
    ) -> list[ScoredImages]:
        """Return the images of each query's candidates with exact scores, from all views of each image."""
        if len(queries) == 1:
            return [self.rank(candidates[0].views, queries[0], global_share)]
        lists = [shortlist.views for shortlist in candidates]
        union = np.unique(np.concatenate([np.zeros(0, np.int64), *lists]))
        if len(union) * len(lists) > self._policy.shared_scoring_max_waste * sum(map(len, lists)):
            return [self.rank(views, query, global_share) for views, query in zip(lists, queries, strict=True)]
        phrases = [phrase for query in queries for phrase in query.phrases]
        scored = self._places.score(union, phrases, global_share)
        ends = np.cumsum([len(query.phrases) for query in queries])
        columns = np.split(scored.scores, ends[:-1], axis=1) if queries else []
        result = []
        for shortlist, scores, query in zip(candidates, columns, queries, strict=True):
            own = np.isin(scored.contents, shortlist.contents)
            result.append(
                ScoredImages.of(ViewScores(scored.views[own], scored.contents[own], scores[own]), query.shares)
            )
        return result

    def rank(self, views: Ids, query: EncodedQuery, global_share: float | None = None) -> ScoredImages:
        """Return the images of views i64[K] with exact scores."""
        return ScoredImages.of(self._places.score(views, query.phrases, global_share), query.shares)

    def rank_until_stable(
        self,
        query: EncodedQuery,
        candidates: CandidateViews,
        k: int,
        global_share: float | None,
        known: ScoredImages | None = None,
    ) -> ScoredImages:
        """Rank candidates with predictions, best first, until the k best images are sure; return the ranked images.

        They are sure when the prediction of the next candidate, plus the mean and `stop_sigma` standard deviations of
        the prediction errors so far, stays below the k-th best score. This assumes that errors are distributed alike
        along the list; benchmarks/shortlist.py measures how well that holds. The prediction of an image is that of its
        best candidate. known: the images that were ranked for a smaller k.
        """
        first = np.sort(np.unique(candidates.contents, return_index=True)[1])
        contents, views, predicted = candidates.contents[first], candidates.views[first], candidates.predicted[first]
        unpredicted = int(np.isinf(predicted).sum())
        done, count = 0, min(len(views), unpredicted + max(self._policy.initial_factor * k, 2))
        images = known
        if known is not None:
            done = len(known.contents)
            count = max(count, done)
        while True:
            scored = self._places.score(views[done:count], query.phrases, global_share)
            images = ScoredImages.of(_joined(images, scored), query.shares)
            if count == len(views):
                return images
            exact = images.scores[np.searchsorted(images.contents, contents[:count])]
            errors = exact[unpredicted:] - predicted[unpredicted:count]
            reach = predicted[count] + errors.mean() + self._policy.stop_sigma * errors.std()
            best = images.scores[images.top_k(k)]
            if len(best) >= k and reach < best[k - 1]:
                return images
            done, count = count, min(len(views), int(self._policy.growth_factor * count) + 1)


def _joined(images: ScoredImages | None, more: ViewScores) -> ViewScores:
    """Return the scored views of images that were ranked before, and those of more images."""
    if images is None:
        return more
    contents = np.repeat(images.contents, np.diff(images.starts))
    return ViewScores(
        np.concatenate([images.views, more.views]),
        np.concatenate([contents, more.contents]),
        np.concatenate([images.view_scores, more.scores]),
    )
