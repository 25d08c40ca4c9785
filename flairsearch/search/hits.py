"""Contents that answer well -> hits: the regions of each phrase, and whether all is where the query wants it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.filters import Filter
from flairsearch.core.types import (
    Box,
    EncodedQuery,
    EncodedText,
    EncodedViews,
    Frame,
    Hit,
    Phrase,
    PoolWeights,
    Ranking,
)
from flairsearch.regions.boxes import area, merge_regions, patch_mask
from flairsearch.regions.locator import Locator
from flairsearch.search.aggregation import aggregate_views
from flairsearch.search.policy import SearchPolicy
from flairsearch.store.catalog import Catalog
from flairsearch.store.snapshot import Snapshot

LOOKED = 4  # views of a photo that a phrase's regions come from: the best
ALIKE = 1e-4  # scores of one text that was asked twice differ by less
UNWANTED = 0.9  # of the photos score less with a text that is not wanted: a place that scores more shows it

_Look = tuple[EncodedViews, Frame]  # of one view


class HitBuilder:
    """Makes hits, in one committed state of the index."""

    def __init__(self, reader: Snapshot, catalog: Catalog, weights: PoolWeights, policy: SearchPolicy) -> None:
        self._reader, self._catalog, self._weights, self._policy = reader, catalog, weights, policy
        self._locator = Locator(weights)
        self._judged: dict[Hashable, dict[int, list[Hit]]] = {}  # question -> content -> its hits

    def hits(
        self, ranked: Sequence[Ranking], asked: EncodedQuery, limits: NDArray[np.float32], scope: Filter | None = None
    ) -> Iterator[Hit]:
        """Hits without rank; one for each image in scope, as identical files share a content.

        limits f32[without]: a place that scores more shows what is not wanted; NaN: one that scores as the phrases do.
        A content is left out when a phrase has no region where the query wants it, or shows what is not wanted in the
        smallest box around the best region of each phrase.
        """
        judged = self._remembered(asked, limits, scope) if asked.narrows else {}
        fresh = [one for one in ranked if one.content not in judged]
        step = self._policy.inspection_batch
        for start in range(0, len(fresh), step):
            judged.update(self._look_at(fresh[start : start + step], asked, limits, scope))
        if sum(map(len, judged.values())) * len(asked.phrases) > self._policy.max_memo_hits:
            self._judged = {key: kept for key, kept in self._judged.items() if kept is not judged}
        for one in ranked:
            yield from judged.get(one.content, ())

    def _remembered(
        self, asked: EncodedQuery, limits: NDArray[np.float32], scope: Filter | None
    ) -> dict[int, list[Hit]]:
        """Who leafs on asks the same again, of what was judged for the page before too."""
        queries = tuple((query.text, query.vector.tobytes()) for query in (*asked.phrases, *asked.without))
        key = (queries, asked.weights, len(asked.without), asked.at, asked.min_area, limits.tobytes(), scope)
        judged = self._judged.pop(key, {})
        if len(self._judged) >= self._policy.max_memo_queries:
            del self._judged[next(iter(self._judged))]
        self._judged[key] = judged  # the latest last
        return judged

    def _look_at(
        self, ranked: Sequence[Ranking], asked: EncodedQuery, limits: NDArray[np.float32], scope: Filter | None
    ) -> Iterator[tuple[int, list[Hit]]]:
        """(content, its hits); of one that is gone, nothing."""
        images = self._catalog.images_of([one.content for one in ranked], scope)
        ranked = [one for one in ranked if one.content in images]
        dates = self._catalog.dates_of([image for found in images.values() for image, _ in found])
        best = [np.argsort(-one.scores, axis=0, kind="stable")[:LOOKED] for one in ranked]  # [LOOKED, phrases] each
        looks = self._look([one.views[places].ravel() for one, places in zip(ranked, best, strict=True)])
        for one, places in zip(ranked, best, strict=True):
            if not looks.keys() >= set(one.views[places].ravel().tolist()):
                continue  # gone since: who asked will see that this state is not the newest, and ask again
            seen = [[looks[view] for view in several] for several in one.views[places].T.tolist()]
            scores = aggregate_views(np.full(len(one.views), one.content), one.scores)[0].tolist()
            phrases = tuple(
                self._find(query, score, several, asked)
                for query, score, several in zip(asked.phrases, scores, seen, strict=True)
            )
            if not self._is_answer(phrases, asked, limits, list(chain(*seen))):
                yield one.content, []
                continue
            hit = self._hit(one, phrases, asked, [several[0] for several in seen])
            of_image = [replace(hit, path=path, image=i, date=dates.get(i)) for i, path in images[one.content]]
            yield one.content, of_image

    def _is_answer(
        self, phrases: Sequence[Phrase], asked: EncodedQuery, limits: NDArray[np.float32], looks: list[_Look]
    ) -> bool:
        """Whether a photo shows all phrases where the query wants them, and there nothing that it does not want."""
        if not all(phrase.regions for phrase in phrases):
            return False
        least = min(phrase.regions[0].score for phrase in phrases)
        enough = np.where(np.isnan(limits), least - ALIKE, limits)
        return not asked.without or bool((self._judge(asked.without, phrases, looks) <= enough).all())

    def _look(self, views: Sequence[NDArray[np.int64]]) -> dict[int, _Look]:
        """Of each view id what is stored, and its frame; of one that is gone from the catalogue, nothing."""
        ids = np.unique(np.concatenate([np.zeros(0, np.int64), *views]))
        frames, encoded = self._catalog.frames(ids.tolist()), self._reader.encoded(ids)
        return {view: (encoded.only(i), frames[view]) for i, view in enumerate(ids.tolist()) if view in frames}

    def _find(self, query: EncodedText, score: float, looks: Sequence[_Look], asked: EncodedQuery) -> Phrase:
        """Looks at views of a photo, the best first. Conditions are asked of the regions that stay of all of them."""
        heats, found = zip(*(self._locator.find(encoded, frame, query) for encoded, frame in looks), strict=True)
        frame = looks[0][1]
        heats[0].flags.writeable = False  # the same for all who ask again
        wanted = tuple(region for region in merge_regions(chain(*found)) if _is_wanted(region.box, frame, asked))
        return Phrase(query.text, score, wanted, heats[0], frame)

    def _judge(
        self, without: Sequence[EncodedText], phrases: Sequence[Phrase], looks: list[_Look]
    ) -> NDArray[np.float32]:
        """What each unwanted text scores where the phrases are, f32[without]: not what is elsewhere in the photo.

        Judged in the view that shows most of that place and, of several, least besides: the best one may show none.
        """
        left, top, right, bottom = zip(*(phrase.regions[0].box for phrase in phrases), strict=True)
        around = min(left), min(top), max(right), max(bottom)
        encoded, frame = max(looks, key=lambda look: _shown(around, look[1]))
        part = patch_mask(frame.to_view(around), round(encoded.tokens.shape[1] ** 0.5))[None]
        return np.array([self._locator.score_parts(encoded.tokens[0], query, part)[0] for query in without])

    def _hit(self, one: Ranking, phrases: tuple[Phrase, ...], asked: EncodedQuery, looks: Sequence[_Look]) -> Hit:
        near = [
            float(encoded.pooled[0].astype(np.float32) @ query.vector / max(float(np.linalg.norm(query.vector)), 1e-12))
            for (encoded, _), query in zip(looks, asked.phrases, strict=True)
        ]
        depth = max(len(phrase.regions) for phrase in phrases)
        regions = [phrase.regions[i] for i in range(depth) for phrase in phrases if i < len(phrase.regions)]
        frame, logit = looks[0][1], self._weights.logit_scale * one.score + self._weights.logit_bias
        size = (frame.width, frame.height)
        return Hit(0, "", one.score, float(asked.shares @ near), *size, tuple(regions), phrases, logit)


def _shown(box: Box, frame: Frame) -> tuple[float, float]:
    """How much of the box a view shows, and less than nothing for all that it shows; pixels."""
    wide = min(box[2], frame.right) - max(box[0], frame.left)
    high = min(box[3], frame.bottom) - max(box[1], frame.top)
    return max(wide, 0) * max(high, 0), -(frame.right - frame.left) * (frame.bottom - frame.top)


def _is_wanted(box: Box, frame: Frame, asked: EncodedQuery) -> bool:
    """Whether a region is large enough, and its middle in the half of the photo that is asked for.

    `center` is the middle half, both ways.
    """
    x, y = (box[0] + box[2]) / 2 / frame.width, (box[1] + box[3]) / 2 / frame.height
    there = {
        "left": x < 0.5,
        "right": x > 0.5,
        "top": y < 0.5,
        "bottom": y > 0.5,
        "center": 0.25 <= x <= 0.75 and 0.25 <= y <= 0.75,
    }
    return area(box) >= asked.min_area * frame.width * frame.height and all(there[place] for place in asked.at)


def passed_over(others: int) -> list[str]:
    """A warning where conditions were not judged on this number of images."""
    if not others:
        return []
    judged = "only the photos that answer best were judged by the conditions"
    return [f"{judged}, {others:,} others were not looked at - a smaller scope reaches them"]
