"""Places: the protocol between a search and the machine that holds the views of an index.

search/local_place.py implements it for an index on this machine; an index on many machines can implement it, too. All
arguments and results are plain values that can be sent to another machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.filters import Filter
from flairsearch.core.hits import PhraseMatch, Region
from flairsearch.core.types import EncodedQuery, EncodedText

Ids = NDArray[np.int64]
F32 = NDArray[np.float32]


@dataclass(frozen=True)
class CandidateViews:
    """Views of a shortlist, best first."""

    views: Ids  # i64[K]: view ids.
    contents: Ids  # i64[K]: content ids of the views.
    predicted: F32  # f32[K]: predicted scores; infinity if a view has no prediction, 0 if all views are candidates.
    has_predictions: bool  # Whether any score is predicted.


@dataclass(frozen=True)
class ViewScores:
    """Exact scores of views, by view id."""

    views: Ids  # i64[K]: view ids, ascending.
    contents: Ids  # i64[K]: content ids of the views.
    scores: F32  # f32[K, T]: exact scores.


@dataclass(frozen=True)
class RankedContent:
    """A content that scores well, with its views."""

    content: int  # The id of the content.
    views: Ids  # i64[V]: view ids.
    scores: F32  # f32[V, phrases]: exact scores of the views.
    score: float  # The score of the content: see search/aggregation.ScoredImages.


@dataclass(frozen=True)
class IndexedImage:
    """An image that has a content; identical files are several images with one content."""

    image: int  # The id of the image.
    path: str  # The absolute path.
    date: datetime | None  # Local time without a zone: from the camera, else from the file.


@dataclass(frozen=True)
class ContentMatch:
    """What a content shows of a query; core/hits.Hit has the same fields."""

    score: float
    score_global: float
    logit: float
    width: int  # The width of the upright photo in pixels.
    height: int  # The height of the upright photo in pixels.
    regions: tuple[Region, ...]
    phrases: tuple[PhraseMatch, ...]


class Places(Protocol):
    """The views of one state of an index; threads may share it."""

    def count(self, query_filter: Filter) -> int:
        """Return the number of views within the filter.

        Raises UsageError when the filter's folder holds no indexed photo.
        """
        ...

    def candidates(
        self, query: EncodedQuery, size: int | None, query_filter: Filter, global_share: float | None
    ) -> CandidateViews:
        """Return the `size` views within the filter with the best predicted scores; None: all, without predictions.

        global_share: the share of the global token's cosine in the score; None: the model's default.
        """
        ...

    def score(self, views: Ids, texts: Sequence[EncodedText], global_share: float | None) -> ViewScores:
        """Return the exact scores of views i64[K] and of all other views of the same contents."""
        ...

    def images(self, contents: Sequence[int], query_filter: Filter) -> dict[int, list[IndexedImage]]:
        """Return the images within the filter of each content, by content id; images are in the order of their ids."""
        ...

    def inspect(
        self, ranked: Sequence[RankedContent], query: EncodedQuery, thresholds: F32
    ) -> dict[int, ContentMatch | None]:
        """Return what each content shows of the query, by content id; None if it does not meet the conditions.

        thresholds: f32[E]. A content does not meet them if the place of the phrases scores above thresholds[e] for the
        excluded text e or, if the threshold is NaN, not clearly below the weakest phrase.
        """
        ...

    def sample(self, texts: Sequence[EncodedText], count: int) -> F32:
        """Return conditioned scores f32[n, T] of texts for at most `count` views, evenly spaced over the index."""
        ...

    def views_at(self, path: str) -> Ids:
        """Return the views i64[n] of the image at an absolute path; none if it is not in the index.

        Raises StoreError when its part of the index is damaged.
        """
        ...
