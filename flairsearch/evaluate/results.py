"""Results of measurements, one record per row of output; and the ground truth that boxes are compared with."""

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
    bytes: int  # Bytes per view.
    recall: dict[int, float] | None  # By k: share of texts with a relevant view among the k best.
    difference: tuple[float, float] | None  # 95 % interval of R@10 minus fp16's R@10 (paired bootstrap over texts).
    overlap: float  # Mean share of fp16's top 10 that is in this codec's top 10.
    box_iou: float  # Mean IoU of the best region's box with fp16's, over fp16's top 10.
    speed: float  # Views re-ranked per second.


@dataclass(frozen=True)
class RetrievalRow:
    """How well one score retrieves the relevant items in one direction."""

    mode: str
    direction: str  # Either "text to image" or "image to text".
    recall: dict[int, float]  # By k: share of queries with a relevant item among the k best.
    mean_rank: float  # Mean rank of the best relevant item, from 1.
    median_rank: int  # Median rank of the best relevant item, from 1.


class ShortlistSize(NamedTuple):
    """The length of a shortlist."""

    name: str  # The length as a number of views or as a share of the collection, for people.
    views: int


@dataclass(frozen=True)
class ShortlistRow:
    """How much of the exhaustive top views the shortlists of one prefilter contain."""

    prefilter: str
    top: int  # Number of views of the exhaustive ranking that are looked for.
    sizes: tuple[ShortlistSize, ...]
    recall: tuple[float, ...]  # For each size: mean share of the top views that the shortlist contains.


@dataclass(frozen=True)
class GroundTruth:
    """M true boxes of labels in N views, and the label that each of T texts names.

    view, label: i64[M], of each box. box: f64[M, 4], pixels of the upright original of the view's Frame. label_of_text:
    i64[T]; each of these labels has at least one box. annotated: i64[A, 2], pairs (view, text) that were annotated
    together; maps are measured on these pairs.
    """

    view: NDArray[np.int64]
    label: NDArray[np.int64]
    box: NDArray[np.float64]
    label_of_text: NDArray[np.int64]
    annotated: NDArray[np.int64]


@dataclass(frozen=True)
class RegionRow:
    """How well one source of boxes locates texts, over a gallery and given the relevant view. Shares are 0 to 1."""

    source: str
    recall: dict[float, dict[int, float]]  # BoxRecall by IoU level (0: any box will do) and by k.
    iou: float  # Mean IoU of the first region.
    reached: dict[float, float]  # By IoU level: share of first regions that reach it.
    pointing: float | None  # Share of maxima inside a true box; None when the source has no map.
    energy: float | None  # Share of the map inside the true boxes; None when the source has no map.
    precision: float  # Share of relevant views among the first PRECISION_K, mean over the texts.
    hits_reached: float  # Of those relevant views, the share whose first region reaches an IoU of 0.5.
    hits_centred: float  # Of those relevant views, the share whose first region's centre lies in a true box.


@dataclass(frozen=True)
class SegmentationRow:
    """How well the pixels of photos are assigned to classes."""

    mean_iou: float  # Mean IoU of the classes that occur in the masks or in the predictions.
    accuracy: float  # Share of pixels with the correct class.
    iou: dict[str, float | None]  # IoU of each class; None when the class does not occur.
