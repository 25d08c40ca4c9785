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
NO_THRESHOLDS = np.zeros(0, np.float32)  # These are the thresholds of a query without exclusions.


class Searcher:
    """Searches one state of an index, on any machine; threads may share it."""

    def __init__(self, places: Places, policy: SearchPolicy) -> None:
        self._places, self._policy = places, policy
        self._ranker = Ranker(places, policy)

    def search_many(
        self, queries: Sequence[EncodedQuery], request: SearchRequest, timer: StageTimer
    ) -> list[SearchResult]:
        """Return the result of each query. request: its filter and options hold for all; its own query is ignored.

        If the shortlists of several queries are nearly the same, tokens are read once for all of them. The engine adds
        warnings about damage, unseen words and times to the results.
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
        """Return the hits of the page; rank more images while too few of them meet the conditions."""
        images, policy, end = ranked.images, self._policy, request.offset + request.k
        with timer.stage("regions"):
            thresholds = self._exclusion_thresholds(query)
        max_images = policy.inspected(end)
        limit = max_images if ranked.candidates is None else policy.verified(end)
        while True:
            with timer.stage("regions"):
                found, inspected = self._inspect(query, images, request, thresholds, limit)
            not_judged = 0 if inspected is None else max(0, _estimated_images(images, in_filter) - inspected)
            if ranked.candidates is None or not not_judged or limit >= max_images:
                break
            limit = min(policy.verify_growth * limit, max_images)
            with timer.stage("rank"):
                images = self._ranker.rank_until_stable(query, ranked.candidates, limit, request.global_share, images)
        stats = SearchStats(in_filter, len(images.views), not_judged)
        return SearchResult(build_hits(found, request.offset), stats, _warnings(not_judged), complete=not not_judged)

    def _inspect(
        self, query: EncodedQuery, images: ScoredImages, request: SearchRequest, thresholds: F32, limit: int
    ) -> tuple[list[FoundImage], int | None]:
        """Return the images of the page, and None if they are certainly the best that meet the conditions.

        Else the second value is the number of inspected contents: others might meet the conditions, too. More contents
        are inspected while too few meet the conditions, but not more than the `limit` best.
        """
        end = request.offset + request.k
        found: list[FoundImage] = []
        done, count = 0, end
        while True:
            best = images.top_k(count)  # Contents with equal last scores are all included: image ids decide among them.
            good = best if request.min_score is None else best[images.scores[best] >= request.min_score]
            if request.offset and not query.has_conditions:  # Contents of earlier pages need not be inspected.
                return self._page(query, images, good, request), None
            found += self._inspect_contents(query, images, good[done:], request.filter, thresholds)
            if len(found) >= end or len(good) < count or count >= limit:
                break
            done, count = len(good), min(self._policy.verify_growth * count, limit)
        # If some of the best score below min_score, so do all others.
        is_sure = not query.has_conditions or len(found) >= end or len(good) < len(best)
        found.sort(key=lambda image: image.order)
        return found[request.offset : end], None if is_sure else len(best)

    def _inspect_contents(
        self, query: EncodedQuery, images: ScoredImages, positions: Ids, query_filter: Filter, thresholds: F32
    ) -> list[FoundImage]:
        """Return the images that meet the conditions. positions: i64[n], of the contents to inspect in `images`."""
        indexed = self._places.images(images.contents[positions].tolist(), query_filter)
        ranked = [
            images.ranked(position) for position in positions.tolist() if int(images.contents[position]) in indexed
        ]
        return found_images(ranked, self._places.inspect(ranked, query, thresholds), indexed)

    def _page(self, query: EncodedQuery, images: ScoredImages, best: Ids, request: SearchRequest) -> list[FoundImage]:
        """Return the images of a page, and inspect only their contents. best: i64[n], positions in `images`."""
        indexed = self._places.images(images.contents[best].tolist(), request.filter)
        page = sorted(
            (-images.scores[position], image.image, position)
            for position in best.tolist()
            for image in indexed.get(int(images.contents[position]), [])
        )[request.offset : request.offset + request.k]
        page_images = {image for _, image, _ in page}
        ranked = [images.ranked(position) for position in dict.fromkeys(position for _, _, position in page)]
        found = found_images(ranked, self._places.inspect(ranked, query, NO_THRESHOLDS), indexed)
        return sorted((image for image in found if image.image.image in page_images), key=lambda image: image.order)

    def _exclusion_thresholds(self, query: EncodedQuery) -> F32:
        """Return thresholds f32[E]: a region that scores above thresholds[e] shows the excluded text e.

        A threshold is the EXCLUSION_QUANTILE of the text's scores over evenly spaced views of the index; NaN if the
        index has too few views.
        """
        if not query.exclusions:
            return NO_THRESHOLDS
        if self._places.count(NO_FILTER) < self._policy.min_background_views:
            return np.full(len(query.exclusions), np.nan, np.float32)
        # A region has no global token, so these scores do not include its share either.
        scores = self._places.sample(query.exclusions, self._policy.max_background_views)
        return np.asarray(np.quantile(scores, EXCLUSION_QUANTILE, axis=0), np.float32)

    def show(self, path: str, query: EncodedQuery) -> Hit | None:
        """Return the hit of the image at an absolute path, whatever it scores; None if this state does not have it.

        Raises StoreError when its part of the index is damaged.
        """
        views = self._places.views_at(path)
        if not len(views):
            return None
        images = self._ranker.rank(views, query)
        found = self._inspect_contents(query, images, np.zeros(1, np.int64), NO_FILTER, NO_THRESHOLDS)
        own = [image for image in found if image.image.path == path]  # Other images may have the same content.
        return next(iter(build_hits(own, 0)), None)


def _estimated_images(images: ScoredImages, in_filter: int) -> int:
    """Return about how many images are within the filter, from the images per view among the ranked views."""
    return in_filter * len(images.scores) // max(1, len(images.views))


def _warnings(not_judged: int) -> tuple[str, ...]:
    """Return a warning if there are images on which the conditions were not judged."""
    if not not_judged:
        return ()
    judged = "only the photos that answer best were judged by the conditions"
    return (f"{judged}, {not_judged:,} others were not looked at - a narrower filter reaches them",)
