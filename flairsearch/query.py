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
from flairsearch.records import Hit, PoolWeights, Query, Ranking
from flairsearch.region import find_regions
from flairsearch.rerank import RowReranker, fused_on_gpu
from flairsearch.settings import SHORTLIST_AUTO

if TYPE_CHECKING:
    from torch import Tensor

    from flairsearch.residence import Resident

MUCH_THE_SAME = 2  # scores of all queries for all their candidates may be so many times those that are needed
MORE = 4  # times k views are looked at first for the k best contents: as many views of one content cost nothing


def shortlist_size(shortlist: str | int, views: int) -> int:
    """`auto`, `all` or a number -> how many views are re-ranked. Raises UsageError on anything else."""
    if shortlist == "all":
        return views
    if shortlist == "auto":
        return min(SHORTLIST_AUTO, views)
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
        self._prefilter = reader.prefilter()
        self._rerankers = {label: RowReranker(codec, weights, device) for label, codec in reader.codecs.items()}

    def search(self, query: Query, k: int, shortlist: str | int = "auto", min_score: float | None = None) -> list[Hit]:
        """The k best images, best first; equal scores by image id."""
        return self.search_many([query], k, shortlist, min_score)[0]

    def search_many(
        self, queries: Sequence[Query], k: int, shortlist: str | int = "auto", min_score: float | None = None
    ) -> list[list[Hit]]:
        """`search` for each query. Where their shortlists are much the same, tokens are read once for all of them."""
        if k < 1:
            raise UsageError(f"k is {k} - ask for at least one hit")
        size = shortlist_size(shortlist, len(self.reader))
        found = [self._prefilter.search(query.vector, size) for query in queries]
        lists = [np.sort(candidates.views) for candidates in found]  # the order on disk
        together = lists[0] if len(lists) == 1 else np.unique(np.concatenate([np.zeros(0, np.int64), *lists]))
        if len(together) * len(queries) <= MUCH_THE_SAME * sum(map(len, lists)):
            of_all = self._score(together, queries)
            scores = [of_all[np.searchsorted(together, views), i] for i, views in enumerate(lists)]
        else:
            scores = [self._score(views, [query])[:, 0] for views, query in zip(lists, queries, strict=True)]
        hits = []
        for query, candidates, views, of_it in zip(queries, found, lists, scores, strict=True):
            ranking = self._rank(views, of_it, query, k, min_score)
            near = np.isin(candidates.views, ranking.views)
            globals_ = dict(zip(candidates.views[near].tolist(), candidates.scores[near].tolist(), strict=True))
            hits.append(self._hits(ranking, globals_)[:k])
        return hits

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

    def _hits(self, ranking: Ranking, globals_: dict[int, float]) -> list[Hit]:
        """One hit per image; identical files are several images of one content."""
        contents = self.reader.contents(ranking.views).tolist()
        frames = self._catalog.frames(ranking.views.tolist())
        images = self._catalog.images_of(contents)
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
            hits.append(Hit(rank, path, score, globals_[view], *size, regions, logit, attention, frame))
        return hits

    def show(self, path: str, views: list[int], query: Query) -> Hit:
        """The hit of one image, given its absolute path and its views."""
        ids = np.asarray(views, np.int64)
        scores = self._score(ids, [query])[:, 0]
        best = int(np.argmax(scores))
        attention = self._attend(ids[best : best + 1], query)
        cosine = (
            self.reader.pooled(ids[best : best + 1]).astype(np.float32) @ query.vector / np.linalg.norm(query.vector)
        )
        ranking = Ranking(ids[best : best + 1], scores[best : best + 1], attention)
        hits = self._hits(ranking, {int(ids[best]): float(cosine[0])})
        return next(replace(hit, rank=1) for hit in hits if hit.path == path)  # not a twin of it
