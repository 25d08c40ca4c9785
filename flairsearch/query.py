"""READ: text -> encode -> prefilter -> store -> rerank -> region. The only place where this order is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from flairsearch.catalog import Catalog
from flairsearch.errors import UsageError
from flairsearch.reader import Reader
from flairsearch.records import Candidates, Hit, PoolWeights, Query, Ranking
from flairsearch.region import find_regions
from flairsearch.rerank import RowReranker, fused_on_gpu
from flairsearch.scope import Scope
from flairsearch.settings import EXHAUSTIVE_VIEWS
from flairsearch.shortlist import Shortlist

if TYPE_CHECKING:
    from torch import Tensor

    from flairsearch.residence import Resident

MUCH_THE_SAME = 2  # scores of all queries for all their candidates may be so many times those that are needed
MORE = 4  # times k views are looked at first for the k best contents: as many views of one content cost nothing


# `auto`: the shortlist grows until the k-th best score is so many deviations above what the next view may reach,
SURE = 3.0  # deviations of exact scores from predicted ones, of the views ranked so far for this text
FIRST = 4  # times k views to start with,
GROWTH = 1.3  # times as many each time,
MOST, MOST_SHARE = 2000, 0.02  # and no more than so many and that share of all


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


class Searcher:
    """One committed state of the index, ready for queries."""

    def __init__(self, reader: Reader, catalog: Catalog, weights: PoolWeights, device: str) -> None:
        self.reader, self._catalog, self._weights, self._device = reader, catalog, weights, device
        self._shortlist = Shortlist(reader)
        self.in_scope = 0  # views, of the last search
        self.reranked: list[int] = []  # of them, of each of its texts
        self._rerankers = {label: RowReranker(codec, weights, device) for label, codec in reader.codecs.items()}

    def search(
        self,
        query: Query,
        k: int,
        shortlist: str | int = "auto",
        min_score: float | None = None,
        scope: Scope | None = None,
    ) -> list[Hit]:
        """The k best images in scope, best first; equal scores by image id."""
        return self.search_many([query], k, shortlist, min_score, scope)[0]

    def search_many(
        self,
        queries: Sequence[Query],
        k: int,
        shortlist: str | int = "auto",
        min_score: float | None = None,
        scope: Scope | None = None,
    ) -> list[list[Hit]]:
        """`search` for each query. Where their shortlists are much the same, tokens are read once for all of them.

        Raises UsageError when k or shortlist is no size, or the scope's folder holds no indexed photo.
        """
        if k < 1:
            raise UsageError(f"k is {k} - ask for at least one hit")
        among = self.reader.readable(self._catalog.views_in(scope)) if scope else None
        self.in_scope = len(self.reader if among is None else among)
        size = shortlist_size(shortlist, self.in_scope)
        if shortlist == "auto":
            size = min(max(size, FIRST * k), self.in_scope)  # who asks for thousands gets them
        found = [self._shortlist.search(query.vector, size, among) for query in queries]
        if shortlist == "auto" and size < self.in_scope and self._shortlist.predicts:
            ranked = [self._grow(query, candidates, k) for query, candidates in zip(queries, found, strict=True)]
        else:
            ranked = self._score_lists([np.sort(candidates.views) for candidates in found], queries)
        self.reranked = [len(views) for views, _ in ranked]
        return [
            self._hits(self._rank(views, scores, query, k, min_score), query, scope)[:k]
            for query, (views, scores) in zip(queries, ranked, strict=True)
        ]

    def _score_lists(self, lists: list[np.ndarray], queries: Sequence[Query]) -> list[tuple[np.ndarray, np.ndarray]]:
        """View ids of each query, in the order on disk -> the same and their exact scores f32[K]."""
        together = lists[0] if len(lists) == 1 else np.unique(np.concatenate([np.zeros(0, np.int64), *lists]))
        if len(together) * len(queries) <= MUCH_THE_SAME * sum(map(len, lists)):
            of_all = self._score(together, queries)
            return [(views, of_all[np.searchsorted(together, views), i]) for i, views in enumerate(lists)]
        return [(views, self._score(views, [query])[:, 0]) for views, query in zip(lists, queries, strict=True)]

    def _grow(self, query: Query, candidates: Candidates, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Candidates with predicted scores, best first -> those ranked until the k best are sure, and their scores.

        Sure: the next one's prediction, moved by the mean error of those ranked so far and SURE deviations of it, does
        not reach the k-th best. Errors are taken to be of one kind along the list; the benchmark shows how that holds.
        """
        views, predicted = candidates.views, candidates.scores
        unknown = int(np.isinf(predicted).sum())
        scores = np.zeros(0, np.float32)
        count = min(len(views), unknown + max(FIRST * k, 2))
        while True:
            some = np.sort(views[len(scores) : count])
            exact = self._score(some, [query])[:, 0]
            scores = np.append(scores, exact[np.searchsorted(some, views[len(scores) : count])])
            if count == len(views):
                break
            errors = scores[unknown:] - predicted[unknown:count]
            best = scores[self._best(views[:count], scores, k)]
            reach = predicted[count] + errors.mean() + SURE * errors.std()
            if len(best) >= k and reach < best[k - 1]:
                break
            count = min(len(views), int(GROWTH * count) + 1)
        order = np.argsort(views[:count])
        return views[:count][order], scores[order]

    def _rank(self, views: np.ndarray, scores: np.ndarray, query: Query, k: int, min_score: float | None) -> Ranking:
        """Views i64[K] with their exact scores f32[K] -> the best view of each of the k best contents, with attention.

        More than k where the k-th score is shared: image ids decide there, and contents know none.
        """
        best = self._best(views, scores, k)
        if min_score is not None:
            best = best[scores[best] >= min_score]
        if len(best) > k:
            best = best[scores[best] >= scores[best[k - 1]]]
        winners = views[best]
        return Ranking(winners, scores[best], self._attend(winners, query))

    def _best(self, views: np.ndarray, scores: np.ndarray, k: int) -> np.ndarray:
        """Views i64[K], scores f32[K] -> places of each content's best view, best first, equal ones by view id.

        Of the k best contents, of those that share the k-th score, perhaps of more: a million are not sorted for ten.
        """
        count = 0
        while True:
            count = MORE * max(k, count)
            some = np.arange(len(views))
            if count < len(views):  # all that are no worse than the count-th: what is left out is worse than each here
                some = np.flatnonzero(scores >= -np.partition(-scores, count - 1)[count - 1])
            order = some[np.lexsort((views[some], -scores[some]))]
            _, first = np.unique(self.reader.contents(views[order]), return_index=True)
            if len(first) >= k or count >= len(views):
                return order[np.sort(first)]

    def _score(self, views: np.ndarray, queries: Sequence[Query]) -> np.ndarray:
        """View ids i64[K] -> exact scores f32[K, Q], codec by codec."""
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

    def _attend(self, views: np.ndarray, query: Query) -> np.ndarray:
        """View ids i64[K] -> attention f32[K, P]."""
        attention = np.zeros((len(views), self.reader.patches if len(views) else 0), np.float32)
        for label, here in self.reader.by_codec(views):
            attention[here] = self._rerankers[label].attend(self.reader.rows(views[here]), query)
        return attention

    def _hits(self, ranking: Ranking, query: Query, scope: Scope | None = None) -> list[Hit]:
        """One hit per image in scope; identical files are several images of one content."""
        unit = query.vector / max(float(np.linalg.norm(query.vector)), 1e-12)
        globals_ = self.reader.pooled(ranking.views).astype(np.float32) @ unit
        contents = self.reader.contents(ranking.views).tolist()
        frames = self._catalog.frames(ranking.views.tolist())
        images = self._catalog.images_of(contents, scope)
        rows = [
            (-float(ranking.scores[i]), image, path, i)
            for i, content in enumerate(contents)
            for image, path in images.get(content, [])
        ]
        hits = []
        for rank, (_, _, path, i) in enumerate(sorted(rows), 1):
            view, score = int(ranking.views[i]), float(ranking.scores[i])
            grid = round(ranking.attention.shape[1] ** 0.5)
            attention, frame = ranking.attention[i].reshape(grid, grid), frames[view]
            logit = self._weights.logit_scale * score + self._weights.logit_bias
            size = (frame.width, frame.height)
            regions = find_regions(attention, frame)
            hits.append(Hit(rank, path, score, float(globals_[i]), *size, regions, logit, attention, frame))
        return hits

    def show(self, path: str, views: list[int], query: Query) -> Hit:
        """The hit of one image, given its absolute path and its views."""
        ids = np.asarray(views, np.int64)
        scores = self._score(ids, [query])[:, 0]
        best = int(np.argmax(scores))
        attention = self._attend(ids[best : best + 1], query)
        ranking = Ranking(ids[best : best + 1], scores[best : best + 1], attention)
        hits = self._hits(ranking, query)
        return next(replace(hit, rank=1) for hit in hits if hit.path == path)  # not a twin of it
