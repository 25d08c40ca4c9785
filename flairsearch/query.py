"""READ: text -> encode -> prefilter -> store -> rerank -> region. The only place where this order is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from flairsearch.answer import UNWANTED, Answerer
from flairsearch.catalog import Catalog
from flairsearch.clock import Clock
from flairsearch.errors import StoreError, UsageError
from flairsearch.grouping import Grouped
from flairsearch.reader import Reader
from flairsearch.records import Asked, Candidates, Hit, PoolWeights, Query
from flairsearch.rerank import RowReranker, fused_on_gpu, with_global
from flairsearch.scope import Scope
from flairsearch.settings import EXHAUSTIVE_VIEWS
from flairsearch.shortlist import Shortlist

if TYPE_CHECKING:
    from torch import Tensor

    from flairsearch.residence import Resident

MUCH_THE_SAME = 2  # scores of all queries for all their candidates may be so many times those that are needed
ENOUGH = 5  # Where hits may be left out for what they show, the best 5 k contents are looked at first.
MORE = 4  # While those do not give k hits, four times as many are looked at.
FEWEST, MOST_ASKED = 20, 1000  # views that say what a text usually scores
MOST_LOOKED = 1000  # contents whose regions are looked at

# The shortlist of `auto` grows until no view outside of it is likely to be among the k best.
SURE = 3.0  # The k-th best score is to be so many standard deviations above the next view's predicted one.
FIRST = 4  # The shortlist begins with so many times k views.
GROWTH = 1.3  # Each step makes the shortlist so many times as long.
MOST, MOST_SHARE = 2000, 0.02  # The shortlist ends at this number of views, and at this share of all.


def shortlist_size(shortlist: str | int, views: int) -> int:
    """`auto`, `all` or a number -> how many views are re-ranked at most. Raises UsageError on anything else."""
    if shortlist == "all" or (shortlist == "auto" and views <= EXHAUSTIVE_VIEWS):
        return views
    if shortlist == "auto":
        return min(MOST + int(MOST_SHARE * views), views)
    try:
        number = int(shortlist)
    except ValueError:
        number = 0
    if number < 1:
        raise UsageError(f"shortlist {shortlist!r} is no size - use auto, all, or a number of views")
    return min(number, views)


@dataclass(frozen=True)
class _Page:
    """Which hits are wanted: k after the first `offset`."""

    k: int
    offset: int
    min_score: float | None
    scope: Scope | None

    @property
    def end(self) -> int:
        return self.offset + self.k

    @property
    def most(self) -> int:
        """Contents that are looked at, at most, where some may be left out for what they show,"""
        return max(self.end, MOST_LOOKED)

    @property
    def enough(self) -> int:
        """and so many are made sure first."""
        return min(ENOUGH * self.end, self.most)


class Searcher:
    """One committed state of the index, ready for queries."""

    def __init__(self, reader: Reader, catalog: Catalog, weights: PoolWeights, device: str) -> None:
        self.reader, self._catalog, self._weights, self._device = reader, catalog, weights, device
        self._shortlist, self._answerer = Shortlist(reader), Answerer(reader, catalog, weights)
        self.clock = Clock()
        self.in_scope = 0  # views, of the last search
        self.reranked: list[int] = []  # of them, of each of its queries
        self.passed_over: list[int] = []  # photos that nobody looked at though they may fulfil a query's conditions
        self._rerankers = {label: RowReranker(codec, weights, device) for label, codec in reader.codecs.items()}

    def search(
        self,
        asked: Asked,
        k: int,
        shortlist: str | int = "auto",
        min_score: float | None = None,
        scope: Scope | None = None,
        offset: int = 0,
    ) -> list[Hit]:
        """The k best images in scope after the first `offset`, best first; equal scores by image id."""
        return self.search_many([asked], k, shortlist, min_score, scope, offset)[0]

    def search_many(
        self,
        several: Sequence[Asked],
        k: int,
        shortlist: str | int = "auto",
        min_score: float | None = None,
        scope: Scope | None = None,
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
        size = shortlist_size(shortlist, self.in_scope)
        if shortlist == "auto":
            size = min(max(size, FIRST * page.end), self.in_scope)  # who asks for thousands gets them
        least = [0 if shortlist != "auto" else page.most if asked.narrows else page.end for asked in several]
        with self.clock.part("shortlist"):
            found = [self._candidates(asked, size, among, few) for asked, few in zip(several, least, strict=True)]
        grows = shortlist == "auto" and size < self.in_scope and self._shortlist.predicts
        with self.clock.part("rank"):
            if grows:
                ranked = [
                    self._grow(asked, candidates, page.enough if asked.narrows else page.end)
                    for asked, candidates in zip(several, found, strict=True)
                ]
            else:
                ranked = self._score_lists([self.reader.beside(candidates.views) for candidates in found], several)
        self.reranked, self.passed_over = [], []
        return [
            self._answer(asked, grouped, page, candidates if grows and asked.narrows else None)
            for asked, grouped, candidates in zip(several, ranked, found, strict=True)
        ]

    def _candidates(self, asked: Asked, size: int, among: np.ndarray | None, least: int) -> Candidates:
        """The shortlist of so many views; a longer one while they are of fewer photos than `least`."""
        if size >= self.in_scope:
            everything = np.asarray(self.reader.views.id if among is None else among)
            return Candidates(everything, np.zeros(len(everything), np.float32))
        while True:
            found = self._shortlist.search(asked.vectors, size, among, asked.shares)
            if size >= self.in_scope or len(np.unique(self.reader.contents(found.views))) >= least:
                return found
            size = min(2 * size, self.in_scope)

    def _score_lists(self, lists: list[np.ndarray], several: Sequence[Asked]) -> list[Grouped]:
        """View ids of each query, in the order on disk -> their photos with exact scores."""
        together = lists[0] if len(lists) == 1 else np.unique(np.concatenate([np.zeros(0, np.int64), *lists]))
        if len(together) * len(lists) > MUCH_THE_SAME * sum(map(len, lists)):
            return [self._score_one(views, asked) for views, asked in zip(lists, several, strict=True)]
        of_all = self._score(together, [phrase for asked in several for phrase in asked.phrases])
        ends = np.cumsum([len(asked.phrases) for asked in several])
        parts = np.split(of_all, ends[:-1], axis=1) if several else []
        return [
            self._group(views, part[np.searchsorted(together, views)], asked)
            for views, part, asked in zip(lists, parts, several, strict=True)
        ]

    def _score_one(self, views: np.ndarray, asked: Asked) -> Grouped:
        return self._group(views, self._score(views, asked.phrases), asked)

    def _group(self, views: np.ndarray, parts: np.ndarray, asked: Asked) -> Grouped:
        return Grouped.of(views, self.reader.contents(views), parts, asked.shares)

    def _grow(self, asked: Asked, candidates: Candidates, k: int, known: Grouped | None = None) -> Grouped:
        """Candidates with predicted scores, best first -> those photos ranked until the k best are sure.

        Sure: the next one's prediction, moved by the mean error of those ranked so far and SURE deviations of it, does
        not reach the k-th best. Errors are taken to be of one kind along the list; the benchmark shows how that holds.
        A photo is predicted to score what its best candidate does. known: what was ranked for fewer.
        """
        contents = self.reader.contents(candidates.views)
        first = np.sort(np.unique(contents, return_index=True)[1])
        contents, lead, predicted = contents[first], candidates.views[first], candidates.scores[first]
        unknown = int(np.isinf(predicted).sum())
        done, count = 0, min(len(lead), unknown + max(FIRST * k, 2))
        views, parts = np.zeros(0, np.int64), np.zeros((0, len(asked.phrases)), np.float32)
        if known is not None:
            views, parts, done = known.views, known.parts, len(known.contents)
            count = max(count, done)
        while True:
            some = self.reader.beside(lead[done:count])
            views, parts = np.concatenate([views, some]), np.concatenate([parts, self._score(some, asked.phrases)])
            grouped = self._group(views, parts, asked)
            if count == len(lead):
                return grouped
            exact = grouped.scores[np.searchsorted(grouped.contents, contents[:count])]
            errors = exact[unknown:] - predicted[unknown:count]
            best = grouped.scores[grouped.best(k)]
            if len(best) >= k and predicted[count] + errors.mean() + SURE * errors.std() < best[k - 1]:
                return grouped
            done, count = count, min(len(lead), int(GROWTH * count) + 1)

    def _answer(self, asked: Asked, grouped: Grouped, page: _Page, candidates: Candidates | None) -> list[Hit]:
        """Photos with exact scores -> the hits of the page.

        candidates: of which more are ranked while too many are left out for what they show; None: of no more.
        """
        with self.clock.part("regions"):
            limits = self._limits(asked)
        enough = page.most if candidates is None else page.enough
        while True:
            with self.clock.part("regions"):
                hits, passed_over = self._look(asked, grouped, page, limits, enough)
            if candidates is None or not passed_over or enough >= page.most:
                break
            enough = min(MORE * enough, page.most)
            with self.clock.part("rank"):
                grouped = self._grow(asked, candidates, enough, grouped)
        self.reranked.append(len(grouped.views))
        self.passed_over.append(passed_over)
        return hits

    def _look(
        self, asked: Asked, grouped: Grouped, page: _Page, limits: np.ndarray, most: int
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
            done, wanted = len(good), min(MORE * wanted, most)
        complete = not asked.narrows or len(found) >= page.end or len(good) < len(best)  # the others score too little
        found.sort(key=_order)
        hits = _ranked(found[page.offset : page.end], page)
        return hits, 0 if complete else max(0, self._photos(grouped) - len(best))

    def _hits_of_page(self, asked: Asked, grouped: Grouped, best: np.ndarray, page: _Page) -> list[Hit]:
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

    def _photos(self, grouped: Grouped) -> int:
        """How many are in scope: as many for a view as of those that were ranked."""
        return self.in_scope * len(grouped.scores) // max(1, len(grouped.views))

    def _limits(self, asked: Asked) -> np.ndarray:
        """f32[without]: what a place scores, at least, that shows what is not wanted.

        The UNWANTED quantile of each text's scores, of views spread evenly over the index; NaN where these are too few.
        """
        ids = self.reader.views.id
        if not asked.without or len(ids) < FEWEST:
            return np.full(len(asked.without), np.nan, np.float32)
        scores = self._condition(ids[_sample_places(len(ids))], asked.without)  # a place has no global token
        return np.asarray(np.quantile(scores, UNWANTED, axis=0), np.float32)

    def _score(self, views: np.ndarray, queries: Sequence[Query]) -> np.ndarray:
        """View ids i64[K] -> exact scores f32[K, Q]."""
        conditioned, share = self._condition(views, queries), self._weights.global_share
        if not share or not queries:
            return conditioned
        vectors = np.stack([query.vector for query in queries])
        return with_global(conditioned, self.reader.pooled(views), vectors, share)

    def _condition(self, views: np.ndarray, queries: Sequence[Query]) -> np.ndarray:
        """View ids i64[K] -> exact conditioned cosines f32[K, Q], codec by codec."""
        scores = np.empty((len(views), len(queries)), np.float32)
        for label, here in self.reader.by_codec(views):
            reranker = self._rerankers[label]
            if self._resident is None:
                scores[here] = reranker.score(self.reader.rows(views[here]), queries)
            else:
                order, rows = self._there(views[here], self._resident)
                scores[here[order]] = reranker.score_there(rows, queries)
        return scores

    @cached_property
    def _resident(self) -> Resident | None:
        """The segments that stay on the GPU, of all codecs; gone with this state of the index."""
        if not fused_on_gpu(self._device):
            return None
        from flairsearch.residence import Resident

        return Resident(self._device)

    def _there(self, views: np.ndarray, resident: Resident) -> tuple[np.ndarray, Iterator[Tensor]]:
        """View ids i64[K] of one codec -> an order of them i64[K], segment by segment, and so their rows on the GPU.

        Segments that are there already come first, before others take their room.
        """
        parts = sorted(self.reader.by_segment(views), key=lambda part: part[0] not in resident)
        pieces = (
            piece
            for number, segment, places, wanted in parts
            for piece in resident.rows(number, segment, wanted, self.reader.rows(views[places]))
        )
        return np.concatenate([places for _, _, places, _ in parts]), pieces

    def show(self, path: str, asked: Asked) -> Hit | None:
        """The hit of the image at an absolute path, whatever it shows; None when there is none in this state.

        Raises StoreError when its part of the index is damaged.
        """
        views = np.asarray(self._catalog.views_at(path), np.int64)
        if np.isin(views, self.reader.lost.id).any():
            raise StoreError(f"{path}: its part of the index is damaged - run flairsearch verify --repair")
        views = self.reader.readable(views)  # without those of a newer state
        if not len(views):
            return None
        ranking = self._score_one(views, asked).ranking(0)
        hits = self._answerer.hits([ranking], asked, np.zeros(0, np.float32))
        return next((replace(hit, rank=1) for hit in hits if hit.path == path), None)  # not a twin of it


def _sample_places(views: int) -> np.ndarray:
    """Which of N views are asked what a text usually scores: their places i64[min(N, MOST_ASKED)], evenly spaced."""
    count = min(views, MOST_ASKED)
    return np.arange(count) * views // max(1, count)


def _ranked(hits: Sequence[Hit], page: _Page) -> list[Hit]:
    return [replace(hit, rank=rank) for rank, hit in enumerate(hits, page.offset + 1)]


def _order(hit: Hit) -> tuple[float, int]:
    """Best first; equal scores by image id."""
    return -hit.score, hit.image
