"""Inspect contents that score well: find the regions of the phrases, and check the conditions of the query."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import chain
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.hits import PhraseMatch
from flairsearch.core.types import Box, EncodedQuery, EncodedText, EncodedViews, Frame, PoolWeights
from flairsearch.regions.boxes import area, merge_regions, patch_mask
from flairsearch.regions.locator import Locator
from flairsearch.search.aggregation import aggregate_views
from flairsearch.search.places import ContentMatch, RankedContent
from flairsearch.search.policy import SearchPolicy
from flairsearch.store.catalog import Catalog
from flairsearch.store.snapshot import Snapshot

MAX_VIEWS_PER_PHRASE = 4  # The regions of a phrase come from at most this many best views of a photo.
SCORE_TOLERANCE = 1e-4  # Encoding a text twice changes its scores by less than this.

_StoredView = tuple[EncodedViews, Frame]  # One view and its frame.


class Inspector:
    """Inspects contents of one snapshot; threads may share it."""

    def __init__(self, snapshot: Snapshot, catalog: Catalog, weights: PoolWeights, policy: SearchPolicy) -> None:
        self._snapshot, self._catalog, self._weights, self._policy = snapshot, catalog, weights, policy
        self._locator = Locator(weights)
        self._memo: dict[Hashable, dict[int, ContentMatch | None]] = {}  # `_memo_key` -> content id -> match.
        self._memo_lock = Lock()

    def inspect(
        self, ranked: Sequence[RankedContent], query: EncodedQuery, thresholds: NDArray[np.float32]
    ) -> dict[int, ContentMatch | None]:
        """Implement search/places.Places.inspect; contents whose views the catalogue has lost are left out.

        The matches of the last queries with conditions are kept, since the next page inspects the same contents.
        """
        key = _memo_key(query, thresholds)
        known = self._remembered(key) if query.has_conditions else {}
        unknown = [content for content in ranked if content.content not in known]
        matches = dict(known)
        step = self._policy.inspection_batch
        for start in range(0, len(unknown), step):
            matches.update(self._inspect_batch(unknown[start : start + step], query, thresholds))
        if query.has_conditions:
            self._remember(key, matches, len(query.phrases))
        requested = {content.content for content in ranked}
        return {content: match for content, match in matches.items() if content in requested}

    def _remembered(self, key: Hashable) -> dict[int, ContentMatch | None]:
        with self._memo_lock:
            return dict(self._memo.get(key, {}))

    def _remember(self, key: Hashable, matches: dict[int, ContentMatch | None], phrases: int) -> None:
        """Keep the matches of the latest query, unless they need too much memory; forget those of the oldest."""
        with self._memo_lock:
            self._memo.pop(key, None)
            if sum(match is not None for match in matches.values()) * phrases > self._policy.max_memo_hits:
                return
            if len(self._memo) >= self._policy.max_memo_queries:
                del self._memo[next(iter(self._memo))]
            self._memo[key] = matches

    def _inspect_batch(
        self, ranked: Sequence[RankedContent], query: EncodedQuery, thresholds: NDArray[np.float32]
    ) -> Iterator[tuple[int, ContentMatch | None]]:
        """Yield (content id, its match or None) of each content."""
        # The view ids i64[n, phrases] of each content that score best for each phrase, best first.
        best_views = [
            content.views[np.argsort(-content.scores, axis=0, kind="stable")[:MAX_VIEWS_PER_PHRASE]]
            for content in ranked
        ]
        stored = self._read([views.ravel() for views in best_views])
        for content, best in zip(ranked, best_views, strict=True):
            if not stored.keys() >= set(best.ravel().tolist()):
                continue  # The catalogue has lost views meanwhile; the engine will open a newer state and search again.
            views = [[stored[view] for view in phrase_views] for phrase_views in best.T.tolist()]
            scores = aggregate_views(np.full(len(content.views), content.content), content.scores)[0].tolist()
            phrases = tuple(
                self._find_phrase(text, score, phrase_views, query)
                for text, score, phrase_views in zip(query.phrases, scores, views, strict=True)
            )
            is_match = self._meets_conditions(phrases, query, thresholds, list(chain(*views)))
            first_views = [phrase_views[0] for phrase_views in views]
            yield content.content, self._match(content, phrases, query, first_views) if is_match else None

    def _read(self, views: Sequence[NDArray[np.int64]]) -> dict[int, _StoredView]:
        """Return what is stored of views, and their frames, by view id, without views that the catalogue has lost."""
        ids = np.unique(np.concatenate([np.zeros(0, np.int64), *views]))
        frames, encoded = self._catalog.frames(ids.tolist()), self._snapshot.encoded(ids)
        return {view: (encoded.only(i), frames[view]) for i, view in enumerate(ids.tolist()) if view in frames}

    def _find_phrase(
        self, text: EncodedText, score: float, views: Sequence[_StoredView], query: EncodedQuery
    ) -> PhraseMatch:
        """Find a phrase in views of a photo, best first; keep only regions of the wanted position and size."""
        heats, regions_by_view = zip(
            *(self._locator.find(encoded, frame, text) for encoded, frame in views), strict=True
        )
        frame = views[0][1]
        heats[0].flags.writeable = False  # Later searches get the same array from the memo.
        regions = tuple(
            region for region in merge_regions(chain(*regions_by_view)) if _is_wanted(region.box, frame, query)
        )
        return PhraseMatch(text.text, score, regions, heats[0], frame)

    def _meets_conditions(
        self,
        phrases: Sequence[PhraseMatch],
        query: EncodedQuery,
        thresholds: NDArray[np.float32],
        views: list[_StoredView],
    ) -> bool:
        """Return whether a photo shows every phrase where the query wants it, and no excluded text there."""
        if not all(phrase.regions for phrase in phrases):
            return False
        if not query.exclusions:
            return True
        weakest = min(phrase.regions[0].score for phrase in phrases)
        limits = np.where(np.isnan(thresholds), weakest - SCORE_TOLERANCE, thresholds)
        return bool((self._score_exclusions(query.exclusions, phrases, views) <= limits).all())

    def _score_exclusions(
        self, exclusions: Sequence[EncodedText], phrases: Sequence[PhraseMatch], views: list[_StoredView]
    ) -> NDArray[np.float32]:
        """Return scores f32[E] of the excluded texts in the smallest box around the best region of every phrase.

        They are computed in the view that shows most of the box; of several such views, in the smallest.
        """
        left, top, right, bottom = zip(*(phrase.regions[0].box for phrase in phrases), strict=True)
        around = min(left), min(top), max(right), max(bottom)
        encoded, frame = max(views, key=lambda view: _coverage(around, view[1]))
        part = patch_mask(frame.to_view(around), round(encoded.tokens.shape[1] ** 0.5))[None]
        return np.array([self._locator.score_parts(encoded.tokens[0], text, part)[0] for text in exclusions])

    def _match(
        self,
        ranked: RankedContent,
        phrases: tuple[PhraseMatch, ...],
        query: EncodedQuery,
        best_views: Sequence[_StoredView],
    ) -> ContentMatch:
        """Return the match of a content. best_views: for each phrase, the view that scores best."""
        cosines = [
            float(encoded.pooled[0].astype(np.float32) @ text.vector / max(float(np.linalg.norm(text.vector)), 1e-12))
            for (encoded, _), text in zip(best_views, query.phrases, strict=True)
        ]
        depth = max(len(phrase.regions) for phrase in phrases)
        # The best region of each phrase comes first, then the second best of each, and so on.
        regions = [phrase.regions[i] for i in range(depth) for phrase in phrases if i < len(phrase.regions)]
        frame, logit = best_views[0][1], self._weights.logit_scale * ranked.score + self._weights.logit_bias
        score_global = float(query.shares @ cosines)
        return ContentMatch(ranked.score, score_global, logit, frame.width, frame.height, tuple(regions), phrases)


def _memo_key(query: EncodedQuery, thresholds: NDArray[np.float32]) -> Hashable:
    texts = tuple((text.text, text.vector.tobytes()) for text in (*query.phrases, *query.exclusions))
    return texts, query.weights, len(query.exclusions), query.positions, query.min_area, thresholds.tobytes()


def _coverage(box: Box, frame: Frame) -> tuple[float, float]:
    """Return the area of the box that a view shows, in square pixels, and minus the area of the view, as a sort key."""
    width = min(box[2], frame.right) - max(box[0], frame.left)
    height = min(box[3], frame.bottom) - max(box[1], frame.top)
    return max(width, 0) * max(height, 0), -(frame.right - frame.left) * (frame.bottom - frame.top)


def _is_wanted(box: Box, frame: Frame, query: EncodedQuery) -> bool:
    """Return whether a region is large enough, and its middle in the parts of the photo that the query asks for.

    `left`, `right`, `top` and `bottom` are halves; `center` is the middle half in both directions.
    """
    x, y = (box[0] + box[2]) / 2 / frame.width, (box[1] + box[3]) / 2 / frame.height
    is_at = {
        "left": x < 0.5,
        "right": x > 0.5,
        "top": y < 0.5,
        "bottom": y > 0.5,
        "center": 0.25 <= x <= 0.75 and 0.25 <= y <= 0.75,
    }
    large_enough = area(box) >= query.min_area * frame.width * frame.height
    return large_enough and all(is_at[position] for position in query.positions)
