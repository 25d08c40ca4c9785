"""The views of an index on this machine, as a search asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import numpy as np

from flairsearch.core.arrays import evenly_spaced
from flairsearch.core.errors import StoreError
from flairsearch.core.filters import Filter
from flairsearch.core.types import Candidates, EncodedQuery, EncodedText, PoolWeights
from flairsearch.rerank.backend import Backend
from flairsearch.search.inspection import Inspector
from flairsearch.search.places import F32, CandidateViews, ContentMatch, Ids, IndexedImage, RankedContent, ViewScores
from flairsearch.search.policy import SearchPolicy
from flairsearch.search.scorer import Scorer
from flairsearch.shortlist.shortlist import Shortlist
from flairsearch.store.catalog import Catalog
from flairsearch.store.snapshot import Snapshot

MAX_KNOWN_FILTERS = 4  # The views of the last filters are kept: pages of one search have the same.


class LocalPlace:
    """A search/places.Places over one snapshot, and the catalogue beside it."""

    def __init__(
        self, snapshot: Snapshot, catalog: Catalog, weights: PoolWeights, backend: Backend, policy: SearchPolicy
    ) -> None:
        self.snapshot, self._catalog = snapshot, catalog
        self._shortlist = Shortlist(snapshot, backend.is_compiled)
        self._scorer = Scorer(snapshot, weights, backend)
        self._inspector = Inspector(snapshot, catalog, weights, policy)
        self._views_in: dict[Filter, Ids] = {}
        self._lock = Lock()  # Of _views_in.

    def count(self, query_filter: Filter) -> int:
        """How many views the filter lets through. Raises UsageError when its folder holds no indexed photo."""
        among = self._among(query_filter)
        return len(self.snapshot if among is None else among)

    def candidates(
        self, query: EncodedQuery, size: int | None, query_filter: Filter, global_share: float | None
    ) -> CandidateViews:
        """The `size` views within the filter that are most likely to answer the query; None: all views, unpredicted."""
        among = self._among(query_filter)
        if size is None:
            views = np.asarray(self.snapshot.views.id if among is None else among)
            found = Candidates(views, np.zeros(len(views), np.float32))
        elif global_share == 1:
            found = self._shortlist.search_global(query.vectors, size, among, query.shares)
        else:
            found = self._shortlist.search(query.vectors, size, among, query.shares)
        has_predictions = global_share == 1 or self._shortlist.predicts
        return CandidateViews(found.views, self.snapshot.contents(found.views), found.scores, has_predictions)

    def score(self, views: Ids, texts: Sequence[EncodedText], global_share: float | None) -> ViewScores:
        """The exact scores of views i64[K], and of all other views of the same contents."""
        siblings = self.snapshot.sibling_views(views)
        scores = self._scorer.score(siblings, texts, global_share)
        return ViewScores(siblings, self.snapshot.contents(siblings), scores)

    def images(self, contents: Sequence[int], query_filter: Filter) -> dict[int, list[IndexedImage]]:
        """Content ids -> the images within the filter that have the content, by image id."""
        found = self._catalog.images_of(contents, query_filter)
        dates = self._catalog.dates_of([image for images in found.values() for image, _ in images])
        return {
            content: [IndexedImage(image, path, dates.get(image)) for image, path in images]
            for content, images in found.items()
        }

    def inspect(
        self, ranked: Sequence[RankedContent], query: EncodedQuery, thresholds: F32
    ) -> dict[int, ContentMatch | None]:
        """Content ids -> what each content shows of the query; None where the query's conditions are not met."""
        return self._inspector.inspect(ranked, query, thresholds)

    def sample(self, texts: Sequence[EncodedText], count: int) -> F32:
        """Conditioned scores f32[n, T] of texts over at most `count` views, spread evenly over the index."""
        ids = self.snapshot.views.id
        return self._scorer.condition(ids[evenly_spaced(len(ids), count)], texts)

    def views_at(self, path: str) -> Ids:
        """The views i64[n] of the image at an absolute path; none where it is not in the index.

        Raises StoreError when its part of the index is damaged.
        """
        views = np.asarray(self._catalog.views_at(path), np.int64)
        if np.isin(views, self.snapshot.unreadable_views.id).any():
            raise StoreError(f"{path}: its part of the index is damaged - run flairsearch verify --repair")
        return self.snapshot.intersect(views)  # Without views of a newer state.

    def _among(self, query_filter: Filter) -> Ids | None:
        """The views within the filter, ascending; None for all views."""
        if not query_filter:
            return None
        with self._lock:
            known = self._views_in.get(query_filter)
        if known is None:
            known = self.snapshot.intersect(self._catalog.views_in(query_filter))
            with self._lock:
                while len(self._views_in) >= MAX_KNOWN_FILTERS:
                    del self._views_in[next(iter(self._views_in))]
                self._views_in[query_filter] = known
        return known
