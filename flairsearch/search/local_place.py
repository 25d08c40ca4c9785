"""LocalPlace: the implementation of search/places.Places for an index on this machine."""

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

MAX_KNOWN_FILTERS = 4  # The views of this many filters are kept, since all pages of a search have the same filter.


class LocalPlace:
    """The views of one snapshot, with paths and dates from the catalogue."""

    def __init__(
        self, snapshot: Snapshot, catalog: Catalog, weights: PoolWeights, backend: Backend, policy: SearchPolicy
    ) -> None:
        self.snapshot, self._catalog, self._policy = snapshot, catalog, policy
        self._shortlist = Shortlist(snapshot, backend.is_compiled)
        self._scorer = Scorer(snapshot, weights, backend)
        self._inspector = Inspector(snapshot, catalog, weights, policy)
        self._views_in: dict[Filter, Ids] = {}
        self._lock = Lock()  # The lock guards _views_in.

    def save_derived_files(self) -> None:
        """Write the derived files that make the next opening fast, if they are missing or damaged."""
        self._shortlist.save_derived_files(self._policy.exhaustive_views)

    def count(self, query_filter: Filter) -> int:
        """Return the number of views within the filter.

        Raises UsageError when the filter's folder holds no indexed photo.
        """
        allowed = self._filtered_views(query_filter)
        return len(self.snapshot if allowed is None else allowed)

    def candidates(
        self, query: EncodedQuery, size: int | None, query_filter: Filter, global_share: float | None
    ) -> CandidateViews:
        """Return the `size` views within the filter with the best predicted scores; None: all, without predictions."""
        allowed = self._filtered_views(query_filter)
        if size is None:
            views = np.asarray(self.snapshot.views.id if allowed is None else allowed)
            candidates = Candidates(views, np.zeros(len(views), np.float32))
        elif global_share == 1:
            candidates = self._shortlist.search_global(query.vectors, size, allowed, query.shares)
        else:
            candidates = self._shortlist.search(query.vectors, size, allowed, query.shares)
        has_predictions = global_share == 1 or self._shortlist.predicts
        contents = self.snapshot.contents(candidates.views)
        return CandidateViews(candidates.views, contents, candidates.scores, has_predictions)

    def score(self, views: Ids, texts: Sequence[EncodedText], global_share: float | None) -> ViewScores:
        """Return the exact scores of views i64[K] and of all other views of the same contents."""
        siblings = self.snapshot.sibling_views(views)
        scores = self._scorer.score(siblings, texts, global_share)
        return ViewScores(siblings, self.snapshot.contents(siblings), scores)

    def images(self, contents: Sequence[int], query_filter: Filter) -> dict[int, list[IndexedImage]]:
        """Return the images within the filter of each content, by content id; images are in the order of their ids."""
        paths = self._catalog.images_of(contents, query_filter)
        dates = self._catalog.dates_of([image for images in paths.values() for image, _ in images])
        return {
            content: [IndexedImage(image, path, dates.get(image)) for image, path in images]
            for content, images in paths.items()
        }

    def inspect(
        self, ranked: Sequence[RankedContent], query: EncodedQuery, thresholds: F32
    ) -> dict[int, ContentMatch | None]:
        """Return what each content shows of the query, by content id; None if it does not meet the conditions."""
        return self._inspector.inspect(ranked, query, thresholds)

    def sample(self, texts: Sequence[EncodedText], count: int) -> F32:
        """Return conditioned scores f32[n, T] of texts for at most `count` views, evenly spaced over the index."""
        ids = self.snapshot.views.id
        return self._scorer.condition(ids[evenly_spaced(len(ids), count)], texts)

    def views_at(self, path: str) -> Ids:
        """Return the views i64[n] of the image at an absolute path; none if it is not in the index.

        Raises StoreError when its part of the index is damaged.
        """
        views = np.asarray(self._catalog.views_at(path), np.int64)
        if np.isin(views, self.snapshot.unreadable_views.id).any():
            raise StoreError(f"{path}: its part of the index is damaged - run flairsearch verify --repair")
        return self.snapshot.intersect(views)  # The catalogue may already list views of a newer state.

    def _filtered_views(self, query_filter: Filter) -> Ids | None:
        """Return the views i64[n] within the filter, ascending; None for all views."""
        if not query_filter:
            return None
        with self._lock:
            views = self._views_in.get(query_filter)
        if views is None:
            views = self.snapshot.intersect(self._catalog.views_in(query_filter))
            with self._lock:
                while len(self._views_in) >= MAX_KNOWN_FILTERS:
                    del self._views_in[next(iter(self._views_in))]
                self._views_in[query_filter] = views
        return views
