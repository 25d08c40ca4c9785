"""READ: text -> encode -> prefilter -> store -> rerank -> region. The only place where this order is written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flairsearch.catalog import Catalog
from flairsearch.errors import UsageError
from flairsearch.reader import Reader
from flairsearch.records import Hit, PoolWeights, Query, Ranking
from flairsearch.region import find_regions
from flairsearch.rerank import Reranker
from flairsearch.settings import SHORTLIST_AUTO


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
        self.reader, self._catalog, self._weights = reader, catalog, weights
        self._prefilter = reader.prefilter()
        self._rerankers = {
            label: Reranker(codec.fold_weights(weights), device, spatial=codec.spatial)
            for label, codec in reader.codecs.items()
        }

    def search(self, query: Query, k: int, shortlist: str | int = "auto", min_score: float | None = None) -> list[Hit]:
        """The k best images, best first; equal scores by image id."""
        if k < 1:
            raise UsageError(f"k is {k} - ask for at least one hit")
        candidates = self._prefilter.search(query.vector, shortlist_size(shortlist, len(self.reader)))
        views = np.sort(candidates.views)  # the order on disk
        ranking = self._rank(views, query, k, min_score)
        globals_ = dict(zip(candidates.views.tolist(), candidates.scores.tolist(), strict=True))
        return self._hits(ranking, globals_)[:k]

    def _rank(self, views: np.ndarray, query: Query, k: int, min_score: float | None) -> Ranking:
        """Exact scores of all candidates; the best view of each of the k best contents, with its attention.

        More than k where the k-th score is shared: image ids decide there, and contents know none.
        """
        scores = self._score(views, query)
        contents = self.reader.contents(views)
        order = np.lexsort((views, -scores))
        _, first = np.unique(contents[order], return_index=True)
        best = order[np.sort(first)]
        if min_score is not None:
            best = best[scores[best] >= min_score]
        if len(best) > k:
            best = best[scores[best] >= scores[best[k - 1]]]
        winners = views[best]
        return Ranking(winners, scores[best], self._attend(winners, query))

    def _score(self, views: np.ndarray, query: Query) -> np.ndarray:
        """View ids i64[K] -> exact scores f32[K]; each codec's views with the query in its coordinates."""
        scores = np.empty(len(views), np.float32)
        for label, here in self.reader.by_codec(views):
            folded = self.reader.codecs[label].fold(query)
            scores[here] = self._rerankers[label].score(self.reader.tokens(views[here]), folded)
        return scores

    def _attend(self, views: np.ndarray, query: Query) -> np.ndarray:
        """View ids i64[K] -> attention f32[K, P]."""
        pieces = [
            (
                here,
                self._rerankers[label].attend(self.reader.tokens(views[here]), self.reader.codecs[label].fold(query)),
            )
            for label, here in self.reader.by_codec(views)
        ]
        attention = np.zeros((len(views), pieces[0][1].shape[1] if pieces else 0), np.float32)
        for here, part in pieces:
            attention[here] = part
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
        scores = self._score(ids, query)
        best = int(np.argmax(scores))
        attention = self._attend(ids[best : best + 1], query)
        cosine = (
            self.reader.pooled(ids[best : best + 1]).astype(np.float32) @ query.vector / np.linalg.norm(query.vector)
        )
        ranking = Ranking(ids[best : best + 1], scores[best : best + 1], attention)
        hits = self._hits(ranking, {int(ids[best]): float(cosine[0])})
        return next(replace(hit, rank=1) for hit in hits if hit.path == path)  # not a twin of it
