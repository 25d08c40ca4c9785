"""Boxes and maps against true boxes: BoxRecall, pointing game, energy inside, the best that a grid can do.

Boxes are f64[..., 4] (left, top, right, bottom), half-open, in view coordinates: 0 to 1 across the view's square, less
or more outside of it. IoU is the same there as in pixels of the photo. A thing may have several true boxes: any counts.
Metrics of arXiv 2506.18246 (BoxRecall) and arXiv 1608.00507 (pointing game).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KS = (1, 5, 10)
LEVELS = (0.3, 0.5, 0.7)  # of IoU
PAGE = 20  # first views of a text, whose precision is measured
PAGE_LEVEL = 0.5  # of IoU, that a right view of the page is to reach

Boxes = NDArray[np.float64]


def iou(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """Boxes [..., 4] and [..., 4], broadcast -> intersection over union f64[...]; 0 where both are empty."""
    wide = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    high = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    both = np.maximum(wide, 0) * np.maximum(high, 0)
    union = _area(a) + _area(b) - both
    overlap: NDArray[np.float64] = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return overlap


def best_iou(box: Boxes, truth: Boxes) -> float:
    """A box [4] against the true boxes [M, 4]: the largest IoU."""
    return float(iou(box, truth).max(initial=0))


def box_recall(
    text: NDArray[np.int64], rank: NDArray[np.int64], overlap: NDArray[np.float64], texts: int
) -> dict[float, dict[int, float]]:
    """Q right views of texts -> IoU -> k -> the share of all texts with one among their first k that reaches it.

    text i64[Q]: number below `texts`; rank i64[Q]: the view's, from 0; overlap f64[Q]: of the first region of the view
    with any true box of the text. Every view has one rank and speaks by its first region alone. At IoU 0 the right view
    will do: what remains of it at 0.5 is the share of right views whose box is right as well.
    """
    recall: dict[float, dict[int, float]] = {}
    for level in (0.0, *LEVELS):
        recall[level] = {}
        for k in KS:
            found = np.zeros(texts, np.bool_)
            found[text[(rank < k) & (overlap >= level)]] = True
            recall[level][k] = float(found.mean())
    return recall


def pointing(heat: NDArray[np.float32], truth: Boxes) -> float:
    """Map f32[G, G] -> whether the middle of its largest patch lies in a true box [M, 4]; of equal ones the share."""
    grid = len(heat)
    rows, columns = np.nonzero(heat == heat.max())
    x, y = (columns + 0.5) / grid, (rows + 0.5) / grid
    return float(_holds(truth, x, y).mean())


def centre(truth: Boxes) -> float:
    """1 when the middle of the view lies in a true box [M, 4], else 0."""
    return float(holds_middle(np.array([0.0, 0.0, 1.0, 1.0]), truth))


def holds_middle(box: Boxes, truth: Boxes) -> bool:
    """Whether the middle of a box [4] lies in a true box [M, 4]."""
    x, y = box[[0, 2]].mean(keepdims=True), box[[1, 3]].mean(keepdims=True)
    return bool(_holds(truth, x, y)[0])


def energy(heat: NDArray[np.float32], truth: Boxes) -> float:
    """Map f32[G, G], none below 0 -> the share of it inside the true boxes [M, 4]; of nothing, 0.

    A patch that an edge cuts is split by area; what several boxes cover counts once.
    """
    total = float(heat.sum(dtype=np.float64))
    return float((heat * cover(truth, len(heat))).sum()) / total if total > 0 else 0.0


def cover(truth: Boxes, grid: int) -> NDArray[np.float64]:
    """Boxes [M, 4] -> the share of each patch that they cover together, f64[G, G]."""
    patches = np.arange(grid + 1) / grid
    xs, ys = (np.unique(np.clip(np.concatenate([patches, *truth[:, i::2].T]), 0, 1)) for i in (0, 1))
    x, y = (xs[1:] + xs[:-1]) / 2, (ys[1:] + ys[:-1]) / 2  # of rectangles that no edge cuts
    column, row = (np.minimum((middle * grid).astype(np.int64), grid - 1) for middle in (x, y))
    inside = np.zeros((len(y), len(x)), np.bool_)
    for left, top, right, bottom in truth:
        inside |= ((top <= y) & (y < bottom))[:, None] & ((left <= x) & (x < right))
    area = inside * np.diff(ys)[:, None] * np.diff(xs)
    covered = np.zeros((grid, grid))
    np.add.at(covered, (row[:, None], column), area)
    return covered * grid**2


def best_grid_box(truth: Boxes, grid: int) -> Boxes:
    """The rectangle of whole patches [4] that has the largest IoU with one of the true boxes [M, 4].

    An edge of it is the line of the grid before or after the true one: beyond these a patch more inside, or less
    outside, is always better. So 16 rectangles hold the best of all.
    """
    lines = np.clip(np.stack([np.floor(truth * grid), np.ceil(truth * grid)]), 0, grid) / grid  # [2, M, 4]
    choice = np.indices((2, 2, 2, 2)).reshape(4, -1)  # of each edge
    boxes: Boxes = np.stack([lines[choice[edge], :, edge] for edge in range(4)], -1).reshape(-1, 4)  # [16 M, 4]
    best: Boxes = boxes[iou(boxes[:, None], truth).max(1).argmax()]
    return best


def _area(boxes: Boxes) -> NDArray[np.float64]:
    area: NDArray[np.float64] = np.maximum(boxes[..., 2] - boxes[..., 0], 0) * np.maximum(
        boxes[..., 3] - boxes[..., 1], 0
    )
    return area


def _holds(truth: Boxes, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Points f64[n] -> whether any box [M, 4] holds them, bool[n]."""
    left, top, right, bottom = truth.T[..., None]
    held: NDArray[np.bool_] = ((left <= x) & (x < right) & (top <= y) & (y < bottom)).any(0)
    return held
