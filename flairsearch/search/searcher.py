"""READ: request -> model -> shortlist -> rerank -> regions -> result. The only place where this order is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from flairsearch.core.errors import StoreError, UsageError
from flairsearch.core.filters import Filter
from flairsearch.core.timing import StageTimer
from flairsearch.core.types import EncodedQuery, Hit, PoolWeights
from flairsearch.search.aggregation import ScoredImages
from flairsearch.search.hits import UNWANTED, HitBuilder
from flairsearch.search.policy import DEFAULT_POLICY, SearchPolicy
from flairsearch.search.ranker import Ranked, Ranker
from flairsearch.search.scorer import Scorer
from flairsearch.shortlist.shortlist import Shortlist
from flairsearch.store.catalog import Catalog
from flairsearch.store.snapshot import Snapshot


@dataclass(frozen=True)
class _Page:
    """Which hits are wanted: k after the first `offset`."""

    k: int
    offset: int
    min_score: float | None
    scope: Filter | None

    @property
    def end(self) -> int:
        return self.offset + self.k


class Searcher:
    """One committed state of the index, ready for queries."""

    def __init__(
        self,
        reader: Snapshot,
        catalog: Catalog,
        weights: PoolWeights,
        device: str,
        policy: SearchPolicy = DEFAULT_POLICY,
    ) -> None:
        self.reader, self._catalog, self._policy = reader, catalog, policy
        self._scorer = Scorer(reader, weights, device)
        self._ranker = Ranker(reader, Shortlist(reader), self._scorer, policy)
        self._answerer = HitBuilder(reader, catalog, weights, policy)
        self.clock = StageTimer()
        self.in_scope = 0  # The number of views that the last search was about.
        self.reranked: list[int] = []  # How many of them each query of the last search ranked exactly.
        self.passed_over: list[int] = []  # Images that nobody looked at though they may meet a query's conditions.

    def search(
        self,
        asked: EncodedQuery,
        k: int,
        shortlist: str | int = "auto",
        min_score: float | None = None,
        scope: Filter | None = None,
        offset: int = 0,
    ) -> list[Hit]:
        """The k best images in scope after the first `offset`, best first; equal scores by image id."""
        return self.search_many([asked], k, shortlist, min_score, scope, offset)[0]

    def search_many(
        self,
        several: Sequence[EncodedQuery],
        k: int,
        shortlist: str | int = "auto",
        min_score: float | None = None,
        scope: Filter | None = None,
        offset: int = 0,
    ) -> list[list[Hit]]:
        """`search` for each query. Where their shortlists are much the same, tokens are read once for all of them.

        Raises UsageError when k or shortlist is no size, or the scope's folder holds no indexed photo.
        """
        if k < 1:
            raise UsageError(f"k is {k} - ask for at least one hit")
        if offset < 0:
            raise UsageError(f"the offset is {offset} - give how many hits to leave out before the first")
        page = _Page(k, offset, min_score, scope)
        among = self.reader.readable(self._catalog.views_in(scope)) if scope else None
        self.in_scope = len(self.reader if among is None else among)
        ranked = self._ranker.rank_many(several, page.end, shortlist, among, self.clock)
        self.reranked, self.passed_over = [], []
        return [self._answer(asked, one, page) for asked, one in zip(several, ranked, strict=True)]

    def _answer(self, asked: EncodedQuery, ranked: Ranked, page: _Page) -> list[Hit]:
        """Photos with exact scores -> the hits of the page; more are ranked while conditions leave too many out."""
        grouped, policy = ranked.images, self._policy
        with self.clock.part("regions"):
            limits = self._limits(asked)
        most = policy.inspected(page.end)
        enough = most if ranked.more is None else policy.verified(page.end)
        while True:
            with self.clock.part("regions"):
                hits, passed_over = self._look(asked, grouped, page, limits, enough)
            if ranked.more is None or not passed_over or enough >= most:
                break
            enough = min(policy.verify_growth * enough, most)
            with self.clock.part("rank"):
                grouped = self._ranker.rank_until_stable(asked, ranked.more, enough, grouped)
        self.reranked.append(len(grouped.views))
        self.passed_over.append(passed_over)
        return hits

    def _look(
        self, asked: EncodedQuery, grouped: ScoredImages, page: _Page, limits: np.ndarray, most: int
    ) -> tuple[list[Hit], int]:
        """The hits of the page among the `most` best photos, and how many photos nobody looked at.

        More are looked at while some are left out for what they show.
        """
        found: list[Hit] = []
        done, wanted = 0, page.end
        while True:
            best = grouped.best(wanted)  # more, where some share the last score: image ids decide among those
            good = best if page.min_score is None else best[grouped.scores[best] >= page.min_score]
            if page.offset and not asked.narrows:  # nothing is left out: those before need no look
                return _ranked(self._hits_of_page(asked, grouped, good, page), page), 0
            rankings = [grouped.ranking(place) for place in good[done:].tolist()]
            found += self._answerer.hits(rankings, asked, limits, page.scope)
            if len(found) >= page.end or len(good) < wanted or wanted >= most:
                break
            done, wanted = len(good), min(self._policy.verify_growth * wanted, most)
        complete = not asked.narrows or len(found) >= page.end or len(good) < len(best)  # the others score too little
        found.sort(key=_order)
        hits = _ranked(found[page.offset : page.end], page)
        return hits, 0 if complete else max(0, self._photos(grouped) - len(best))

    def _hits_of_page(self, asked: EncodedQuery, grouped: ScoredImages, best: np.ndarray, page: _Page) -> list[Hit]:
        """Of the photos at these places: who they are is known before they are looked at."""
        images = self._catalog.images_of(grouped.contents[best].tolist(), page.scope)
        known = sorted(
            (-grouped.scores[place], image, place)
            for place in best.tolist()
            for image, _ in images.get(int(grouped.contents[place]), [])
        )[page.offset : page.end]
        wanted = {image for _, image, _ in known}
        rankings = [grouped.ranking(place) for place in dict.fromkeys(place for _, _, place in known)]
        found = self._answerer.hits(rankings, asked, np.zeros(0, np.float32), page.scope)
        return sorted((hit for hit in found if hit.image in wanted), key=_order)

    def _photos(self, grouped: ScoredImages) -> int:
        """How many are in scope: as many for a view as of those that were ranked."""
        return self.in_scope * len(grouped.scores) // max(1, len(grouped.views))

    def _limits(self, asked: EncodedQuery) -> np.ndarray:
        """f32[without]: what a place scores, at least, that shows what is not wanted.

        The UNWANTED quantile of each text's scores, of views spread evenly over the index; NaN where these are too few.
        """
        ids = self.reader.views.id
        if not asked.without or len(ids) < self._policy.min_background_views:
            return np.full(len(asked.without), np.nan, np.float32)
        places = evenly_spaced(len(ids), self._policy.max_background_views)
        scores = self._scorer.condition(ids[places], asked.without)  # A place in an image has no global token.
        return np.asarray(np.quantile(scores, UNWANTED, axis=0), np.float32)

    def show(self, path: str, asked: EncodedQuery) -> Hit | None:
        """The hit of the image at an absolute path, whatever it shows; None when there is none in this state.

        Raises StoreError when its part of the index is damaged.
        """
        views = np.asarray(self._catalog.views_at(path), np.int64)
        if np.isin(views, self.reader.lost.id).any():
            raise StoreError(f"{path}: its part of the index is damaged - run flairsearch verify --repair")
        views = self.reader.readable(views)  # without those of a newer state
        if not len(views):
            return None
        ranking = self._ranker.rank(views, asked).ranking(0)
        hits = self._answerer.hits([ranking], asked, np.zeros(0, np.float32))
        return next((replace(hit, rank=1) for hit in hits if hit.path == path), None)  # not a twin of it


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """Places i64[min(count, most)] of `count` things, evenly spaced."""
    chosen = min(count, most)
    return np.arange(chosen) * count // max(1, chosen)


def _ranked(hits: Sequence[Hit], page: _Page) -> list[Hit]:
    return [replace(hit, rank=rank) for rank, hit in enumerate(hits, page.offset + 1)]


def _order(hit: Hit) -> tuple[float, int]:
    """Best first; equal scores by image id."""
    return -hit.score, hit.image
