"""Contents that score well -> what each shows of the query: the regions of its phrases, and whether conditions hold."""

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

MAX_VIEWS_PER_PHRASE = 4  # The regions of a phrase come from at most this many views of a photo: the best.
SCORE_TOLERANCE = 1e-4  # Scores of one text that was encoded twice differ by less.

_StoredView = tuple[EncodedViews, Frame]  # One view and its frame.


class Inspector:
    """Looks at contents of one snapshot, for any thread."""

    def __init__(self, snapshot: Snapshot, catalog: Catalog, weights: PoolWeights, policy: SearchPolicy) -> None:
        self._snapshot, self._catalog, self._weights, self._policy = snapshot, catalog, weights, policy
        self._locator = Locator(weights)
        self._memo: dict[Hashable, dict[int, ContentMatch | None]] = {}  # Query and thresholds -> content -> match.
        self._memo_lock = Lock()

    def inspect(
        self, ranked: Sequence[RankedContent], query: EncodedQuery, thresholds: NDArray[np.float32]
    ) -> dict[int, ContentMatch | None]:
        """search/places.Places.inspect. A content whose views are gone from the catalogue is not in the answer.

        Matches of a query with conditions are kept for a while: the next page judges the same contents again.
        """
        key = _memo_key(query, thresholds)
        known = self._remembered(key) if query.has_conditions else {}
        fresh = [one for one in ranked if one.content not in known]
        found: dict[int, ContentMatch | None] = {}
        step = self._policy.inspection_batch
        for start in range(0, len(fresh), step):
            found.update(self._inspect_batch(fresh[start : start + step], query, thresholds))
        if query.has_conditions:
            self._remember(key, known | found, len(query.phrases))
        wanted = {one.content for one in ranked}
        return {content: match for content, match in (known | found).items() if content in wanted}

    def _remembered(self, key: Hashable) -> dict[int, ContentMatch | None]:
        with self._memo_lock:
            return dict(self._memo.get(key, {}))

    def _remember(self, key: Hashable, matches: dict[int, ContentMatch | None], phrases: int) -> None:
        """Keep the matches as the latest; too many are not worth their memory."""
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
        """(content id, its match or None) of each content."""
        best = [np.argsort(-one.scores, axis=0, kind="stable")[:MAX_VIEWS_PER_PHRASE] for one in ranked]
        # Each is i64[views, phrases]: which views of the content answer the phrase best.
        stored = self._read([one.views[places].ravel() for one, places in zip(ranked, best, strict=True)])
        for one, places in zip(ranked, best, strict=True):
            if not stored.keys() >= set(one.views[places].ravel().tolist()):
                continue  # The views are gone since: the engine will see a newer state, and search again.
            views = [[stored[view] for view in of_phrase] for of_phrase in one.views[places].T.tolist()]
            scores = aggregate_views(np.full(len(one.views), one.content), one.scores)[0].tolist()
            phrases = tuple(
                self._find_phrase(text, score, of_phrase, query)
                for text, score, of_phrase in zip(query.phrases, scores, views, strict=True)
            )
            met = self._meets_conditions(phrases, query, thresholds, list(chain(*views)))
            yield one.content, self._match(one, phrases, query, [of[0] for of in views]) if met else None

    def _read(self, views: Sequence[NDArray[np.int64]]) -> dict[int, _StoredView]:
        """View ids -> what is stored of each view, and its frame; without views that are gone from the catalogue."""
        ids = np.unique(np.concatenate([np.zeros(0, np.int64), *views]))
        frames, encoded = self._catalog.frames(ids.tolist()), self._snapshot.encoded(ids)
        return {view: (encoded.only(i), frames[view]) for i, view in enumerate(ids.tolist()) if view in frames}

    def _find_phrase(
        self, text: EncodedText, score: float, views: Sequence[_StoredView], query: EncodedQuery
    ) -> PhraseMatch:
        """Views of a photo, the best first -> where they show the phrase, as far as the conditions are met there."""
        heats, found = zip(*(self._locator.find(encoded, frame, text) for encoded, frame in views), strict=True)
        frame = views[0][1]
        heats[0].flags.writeable = False  # The memo hands the same array to every later search.
        regions = tuple(region for region in merge_regions(chain(*found)) if _is_wanted(region.box, frame, query))
        return PhraseMatch(text.text, score, regions, heats[0], frame)

    def _meets_conditions(
        self,
        phrases: Sequence[PhraseMatch],
        query: EncodedQuery,
        thresholds: NDArray[np.float32],
        views: list[_StoredView],
    ) -> bool:
        """Whether a photo shows every phrase where the query wants it, and nothing that is excluded there."""
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
        """f32[E]: what each excluded text scores in the smallest box around the best region of every phrase.

        Judged in the view that shows most of that box and, of several such views, in the smallest.
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
        """best_views: of each phrase the view that answers it best."""
        cosines = [
            float(encoded.pooled[0].astype(np.float32) @ text.vector / max(float(np.linalg.norm(text.vector)), 1e-12))
            for (encoded, _), text in zip(best_views, query.phrases, strict=True)
        ]
        depth = max(len(phrase.regions) for phrase in phrases)
        regions = [phrase.regions[i] for i in range(depth) for phrase in phrases if i < len(phrase.regions)]
        frame, logit = best_views[0][1], self._weights.logit_scale * ranked.score + self._weights.logit_bias
        score_global = float(query.shares @ cosines)
        return ContentMatch(ranked.score, score_global, logit, frame.width, frame.height, tuple(regions), phrases)


def _memo_key(query: EncodedQuery, thresholds: NDArray[np.float32]) -> Hashable:
    texts = tuple((text.text, text.vector.tobytes()) for text in (*query.phrases, *query.exclusions))
    return texts, query.weights, len(query.exclusions), query.positions, query.min_area, thresholds.tobytes()


def _coverage(box: Box, frame: Frame) -> tuple[float, float]:
    """How much of the box a view shows, in square pixels; then minus the area of the view."""
    width = min(box[2], frame.right) - max(box[0], frame.left)
    height = min(box[3], frame.bottom) - max(box[1], frame.top)
    return max(width, 0) * max(height, 0), -(frame.right - frame.left) * (frame.bottom - frame.top)


def _is_wanted(box: Box, frame: Frame, query: EncodedQuery) -> bool:
    """Whether a region is large enough, and its middle in the half of the photo that the query asks for.

    `center` is the middle half in both directions.
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
