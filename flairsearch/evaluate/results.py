"""What evaluations find, a row for each thing that was measured; and `Truth`, what they are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class CodecRow:
    """One codec on one set of views."""

    codec: str
    bytes: int  # of one view
    recall: dict[int, float] | None  # k -> share of texts whose right view is among the k best
    difference: tuple[float, float] | None  # R@10 minus fp16's: 95 % interval, paired bootstrap over the texts
    overlap: float  # mean share of fp16's top 10 in this codec's top 10
    box_iou: float  # mean over fp16's top 10 of the best region's box against fp16's
    speed: float  # views/s of re-ranking


@dataclass(frozen=True)
class RetrievalRow:
    """How well one way to score finds what belongs together."""

    mode: str
    direction: str  # "text to image" or "image to text"
    recall: dict[int, float]  # k -> share of queries whose right answer is among the k best
    mean_rank: float  # from 1
    median_rank: int  # from 1


class Shortlist(NamedTuple):
    """A size of a shortlist."""

    name: str  # as it was asked for: a number of views or a share of them
    views: int


@dataclass(frozen=True)
class ShortlistRow:
    """How much of the exhaustive best one prefilter hands on."""

    prefilter: str
    top: int  # of the exhaustive ranking
    lists: tuple[Shortlist, ...]
    recall: tuple[float, ...]  # of each list: mean share of the top that it holds


@dataclass(frozen=True)
class Truth:
    """Where things are in N views, M places of them; and which thing each of T texts speaks of."""

    view: NDArray[np.int64]  # [M]
    thing: NDArray[np.int64]  # [M]
    box: NDArray[np.float64]  # [M, 4] pixels, as its view's Frame counts them
    asked: NDArray[np.int64]  # [T] the text's thing; it has one place at least
    given: NDArray[np.int64]  # [A, 2] a view and a text that is right there: where maps are measured


@dataclass(frozen=True)
class RegionRow:
    """One way to say where a text is: over a gallery, and given the right view. Shares are 0 to 1."""

    source: str
    recall: dict[float, dict[int, float]]  # IoU (0: the right view will do) -> k -> share of texts: BoxRecall
    iou: float  # of the first region, mean
    reached: dict[float, float]  # IoU -> share of first regions that reach it
    pointing: float | None  # share of maxima inside a true box; None where there is no map
    energy: float | None  # share of the map inside
    precision: float  # share of right views among the first region_metrics.PAGE, mean over the texts
    hits_reached: float  # of those right views, the share whose first region reaches an IoU of 0.5,
    hits_centred: float  # and the share whose first region's centre lies in a true box


@dataclass(frozen=True)
class SegmentationRow:
    """How well the pixels of photos are told apart by class."""

    mean_iou: float  # of the classes that were there, or taken to be
    accuracy: float  # share of pixels
    iou: dict[str, float | None]  # of each class; None: nowhere
