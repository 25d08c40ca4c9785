"""What a search asks of the place where views are: one protocol, for an index here and for many machines later.

Five questions do the work: which views are candidates, what do they score, which images have this content, what does
an image show where, and what does a sample of the index score. Everything asked and answered is a value.
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

    views: Ids  # [K] View ids.
    contents: Ids  # [K] Ids of their contents.
    predicted: F32  # [K] Predicted scores; infinity where none can be predicted, 0 where all views are candidates.
    has_predictions: bool  # Whether any score is predicted.


@dataclass(frozen=True)
class ViewScores:
    """Exact scores of views, by view id."""

    views: Ids  # [K] View ids, ascending.
    contents: Ids  # [K] Ids of their contents.
    scores: F32  # [K, T]


@dataclass(frozen=True)
class RankedContent:
    """A content that scores well, with its views."""

    content: int  # Its id.
    views: Ids  # [V] View ids.
    scores: F32  # [V, phrases] Exact scores of the views.
    score: float  # Of the content: search/aggregation.ScoredImages.


@dataclass(frozen=True)
class IndexedImage:
    """An image that has a content; identical files share one."""

    image: int  # Its id.
    path: str  # Absolute.
    date: datetime | None  # Local time: when it was taken, else when the file was saved.


@dataclass(frozen=True)
class ContentMatch:
    """What a content shows of a query."""

    score: float
    score_global: float
    logit: float
    width: int  # Of the upright photo, in pixels.
    height: int  # Of the upright photo, in pixels.
    regions: tuple[Region, ...]
    phrases: tuple[PhraseMatch, ...]


class Places(Protocol):
    """The views of one state of an index. Any thread may ask."""

    def count(self, query_filter: Filter) -> int:
        """How many views the filter lets through. Raises UsageError when its folder holds no indexed photo."""
        ...

    def candidates(
        self, query: EncodedQuery, size: int | None, query_filter: Filter, global_share: float | None
    ) -> CandidateViews:
        """The `size` views within the filter that are most likely to answer the query; None: all views, unpredicted.

        global_share: of the global token's cosine in the score; None: as the model says.
        """
        ...

    def score(self, views: Ids, texts: Sequence[EncodedText], global_share: float | None) -> ViewScores:
        """The exact scores of views i64[K], and of all other views of the same contents."""
        ...

    def images(self, contents: Sequence[int], query_filter: Filter) -> dict[int, list[IndexedImage]]:
        """Content ids -> the images within the filter that have the content, by image id."""
        ...

    def inspect(
        self, ranked: Sequence[RankedContent], query: EncodedQuery, thresholds: F32
    ) -> dict[int, ContentMatch | None]:
        """Content ids -> what each content shows of the query; None where the query's conditions are not met.

        thresholds f32[E]: a content is left out if its region scores above thresholds[e] for exclusion e; where the
        threshold is NaN, above the region's own score.
        """
        ...

    def sample(self, texts: Sequence[EncodedText], count: int) -> F32:
        """Conditioned scores f32[n, T] of texts over at most `count` views, spread evenly over the index."""
        ...

    def views_at(self, path: str) -> Ids:
        """The views i64[n] of the image at an absolute path; none where it is not in the index.

        Raises StoreError when its part of the index is damaged.
        """
        ...
