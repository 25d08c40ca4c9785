"""READ: request -> model -> shortlist -> rerank -> regions -> result. The only place where this order is written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flairsearch.core.filters import NO_FILTER, Filter
from flairsearch.core.hits import Hit
from flairsearch.core.request import SearchRequest, SearchResult, SearchStats
from flairsearch.core.timing import StageTimer
from flairsearch.core.types import EncodedQuery
from flairsearch.search.aggregation import ScoredImages
from flairsearch.search.hit_builder import FoundImage, build_hits, found_images
from flairsearch.search.places import F32, Ids, Places
from flairsearch.search.policy import SearchPolicy
from flairsearch.search.ranker import RankedImages, Ranker

EXCLUSION_QUANTILE = 0.9  # A region shows an excluded text if it scores above 90 % of the index for it.
NO_THRESHOLDS = np.zeros(0, np.float32)  # What is given where nothing is excluded.


class Searcher:
    """Searches one state of an index, wherever its views are, for any thread."""

    def __init__(self, places: Places, policy: SearchPolicy) -> None:
        self._places, self._policy = places, policy
        self._ranker = Ranker(places, policy)

    def search_many(
        self, queries: Sequence[EncodedQuery], request: SearchRequest, timer: StageTimer
    ) -> list[SearchResult]:
        """The result of each query for a request, whose own query does not matter here.

        Where the shortlists of several queries are much the same, tokens are read once for all of them. Results have no
        warnings of the index, no unseen words and no times yet: the engine knows those.
        Raises UsageError when the filter's folder holds no indexed photo.
        """
        in_filter = self._places.count(request.filter)
        ranked = self._ranker.rank_many(queries, request, timer)
        return [
            self._answer(query, images, request, in_filter, timer)
            for query, images in zip(queries, ranked, strict=True)
        ]

    def _answer(
        self, query: EncodedQuery, ranked: RankedImages, request: SearchRequest, in_filter: int, timer: StageTimer
    ) -> SearchResult:
        """Images with exact scores -> the hits of the page; more are ranked while conditions leave too many out."""
        images, policy, end = ranked.images, self._policy, request.offset + request.k
        with timer.stage("regions"):
            thresholds = self._exclusion_thresholds(query)
        most = policy.inspected(end)
        enough = most if ranked.candidates is None else policy.verified(end)
        while True:
            with timer.stage("regions"):
                found, inspected = self._inspect(query, images, request, thresholds, enough)
            not_judged = 0 if inspected is None else max(0, _estimated_images(images, in_filter) - inspected)
            if ranked.candidates is None or not not_judged or enough >= most:
                break
            enough = min(policy.verify_growth * enough, most)
            with timer.stage("rank"):
                images = self._ranker.rank_until_stable(query, ranked.candidates, enough, request.global_share, images)
        stats = SearchStats(in_filter, len(images.views), not_judged)
        return SearchResult(build_hits(found, request.offset), stats, _warnings(not_judged), complete=not not_judged)

    def _inspect(
        self, query: EncodedQuery, images: ScoredImages, request: SearchRequest, thresholds: F32, most: int
    ) -> tuple[list[FoundImage], int | None]:
        """The images of the page among the `most` best contents; then None where these are sure to be the best.

        Else the number of contents that were looked at: others may meet the conditions too. More are looked at while
        the conditions leave some out.
        """
        end = request.offset + request.k
        found: list[FoundImage] = []
        done, wanted = 0, end
        while True:
            best = images.top_k(wanted)  # More, where several have the last score: image ids decide between them.
            good = best if request.min_score is None else best[images.scores[best] >= request.min_score]
            if request.offset and not query.has_conditions:  # No image is left out: the pages before need no look.
                return self._page(query, images, good, request), None
            found += self._look_at(query, images, good[done:], request.filter, thresholds)
            if len(found) >= end or len(good) < wanted or wanted >= most:
                break
            done, wanted = len(good), min(self._policy.verify_growth * wanted, most)
        is_sure = not query.has_conditions or len(found) >= end or len(good) < len(best)  # The others score too little.
        found.sort(key=lambda one: one.order)
        return found[request.offset : end], None if is_sure else len(best)

    def _look_at(
        self, query: EncodedQuery, images: ScoredImages, chosen: Ids, query_filter: Filter, thresholds: F32
    ) -> list[FoundImage]:
        """The images that meet the conditions, of the contents at these places i64[n] of `images`."""
        with_images = self._places.images(images.contents[chosen].tolist(), query_filter)
        ranked = [images.ranked(place) for place in chosen.tolist() if int(images.contents[place]) in with_images]
        return found_images(ranked, self._places.inspect(ranked, query, thresholds), with_images)

    def _page(self, query: EncodedQuery, images: ScoredImages, best: Ids, request: SearchRequest) -> list[FoundImage]:
        """The images of a page: only their contents are looked at. best i64[n]: places in `images`."""
        with_images = self._places.images(images.contents[best].tolist(), request.filter)
        page = sorted(
            (-images.scores[place], image.image, place)
            for place in best.tolist()
            for image in with_images.get(int(images.contents[place]), [])
        )[request.offset : request.offset + request.k]
        wanted = {image for _, image, _ in page}
        ranked = [images.ranked(place) for place in dict.fromkeys(place for _, _, place in page)]
        found = found_images(ranked, self._places.inspect(ranked, query, NO_THRESHOLDS), with_images)
        return sorted((one for one in found if one.image.image in wanted), key=lambda one: one.order)

    def _exclusion_thresholds(self, query: EncodedQuery) -> F32:
        """f32[E]: a region that scores above thresholds[e] shows the excluded text e.

        The EXCLUSION_QUANTILE of the text's scores over views spread evenly over the index; NaN where there are too few
        views to tell.
        """
        if not query.exclusions:
            return NO_THRESHOLDS
        if self._places.count(NO_FILTER) < self._policy.min_background_views:
            return np.full(len(query.exclusions), np.nan, np.float32)
        # A place in an image has no global token, so the scores are without its share.
        scores = self._places.sample(query.exclusions, self._policy.max_background_views)
        return np.asarray(np.quantile(scores, EXCLUSION_QUANTILE, axis=0), np.float32)

    def show(self, path: str, query: EncodedQuery) -> Hit | None:
        """The hit of the image at an absolute path, whatever it shows; None when there is none in this state.

        Raises StoreError when its part of the index is damaged.
        """
        views = self._places.views_at(path)
        if not len(views):
            return None
        images = self._ranker.rank(views, query)
        found = self._look_at(query, images, np.zeros(1, np.int64), NO_FILTER, NO_THRESHOLDS)
        return next(iter(build_hits([one for one in found if one.image.path == path], 0)), None)  # Not its twin.


def _estimated_images(images: ScoredImages, in_filter: int) -> int:
    """How many images the filter lets through: as many for a view as among the views that were ranked."""
    return in_filter * len(images.scores) // max(1, len(images.views))


def _warnings(not_judged: int) -> tuple[str, ...]:
    """A warning where the conditions were not judged on this number of images."""
    if not not_judged:
        return ()
    judged = "only the photos that answer best were judged by the conditions"
    return (f"{judged}, {not_judged:,} others were not looked at - a narrower filter reaches them",)
