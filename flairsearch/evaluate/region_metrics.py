"""Compare boxes and heat maps with true boxes: BoxRecall, pointing game, energy inside, and the best box of a grid.

Boxes are f64[..., 4] (left, top, right, bottom), half-open, in view coordinates: 0 to 1 across the view's square, and
below 0 or above 1 outside it. IoU is the same in view coordinates and in pixels of the photo. A text may have several
true boxes, and any of them counts. `truth` is always f64[M, 4], the true boxes of one text in one view.
Sources: arXiv 2506.18246 (BoxRecall) and arXiv 1608.00507 (pointing game).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RECALL_KS = (1, 5, 10)
IOU_LEVELS = (0.3, 0.5, 0.7)
PRECISION_K = 20  # Precision is measured over the first 20 views of a text: one page of hits.
PRECISION_IOU = 0.5  # IoU from which the box of a relevant view on that page counts as correct.

Boxes = NDArray[np.float64]


def iou(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """Return the intersection over union of boxes [..., 4], broadcast, f64[...]; 0 where both boxes are empty."""
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    union = _area(a) + _area(b) - intersection
    overlap: NDArray[np.float64] = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return overlap


def best_iou(box: Boxes, truth: Boxes) -> float:
    """Return the largest IoU of a box [4] with any true box."""
    return float(iou(box, truth).max(initial=0))


def box_recall(
    text: NDArray[np.int64], rank: NDArray[np.int64], overlap: NDArray[np.float64], texts: int
) -> dict[float, dict[int, float]]:
    """Return BoxRecall by IoU level and k: the share of texts with a relevant view in the top k whose box is correct.

    text: i64[Q], the text of each relevant view, below `texts`. rank: i64[Q], rank of the view, from 0. overlap:
    f64[Q], largest IoU of the view's first region with a true box of the text.
    Each view has one rank and is judged by its first region only. Level 0 ignores boxes, so it is plain recall; the
    value at 0.5 divided by it is the share of found views whose box is correct as well.
    """
    recall: dict[float, dict[int, float]] = {}
    for level in (0.0, *IOU_LEVELS):
        recall[level] = {}
        for k in RECALL_KS:
            found = np.zeros(texts, np.bool_)
            found[text[(rank < k) & (overlap >= level)]] = True
            recall[level][k] = float(found.mean())
    return recall


def pointing_game(heat: NDArray[np.float32], truth: Boxes) -> float:
    """Return 1 when the centre of the map's largest patch lies in a true box, else 0. The map is f32[G, G].

    When several patches share the maximum, returns the share of them that lie in a true box.
    """
    grid = len(heat)
    rows, columns = np.nonzero(heat == heat.max())
    x, y = (columns + 0.5) / grid, (rows + 0.5) / grid
    return float(_in_any_box(truth, x, y).mean())


def view_centre_hit(truth: Boxes) -> float:
    """Return 1 when the centre of the view lies in a true box, else 0."""
    return float(box_centre_hit(np.array([0.0, 0.0, 1.0, 1.0]), truth))


def box_centre_hit(box: Boxes, truth: Boxes) -> bool:
    """Return whether the centre of a box [4] lies in a true box."""
    x, y = box[[0, 2]].mean(keepdims=True), box[[1, 3]].mean(keepdims=True)
    return bool(_in_any_box(truth, x, y)[0])


def energy_inside(heat: NDArray[np.float32], truth: Boxes) -> float:
    """Return the share of a map f32[G, G], not negative, that lies inside the true boxes; 0 for an empty map.

    A patch on the edge of a box counts by its covered area. An area that several boxes cover counts once.
    """
    total = float(heat.sum(dtype=np.float64))
    return float((heat * patch_coverage(truth, len(heat))).sum()) / total if total > 0 else 0.0


def patch_coverage(truth: Boxes, grid: int) -> NDArray[np.float64]:
    """Return the share of each patch that the true boxes cover together, f64[G, G]."""
    lines = np.arange(grid + 1) / grid
    xs, ys = (np.unique(np.clip(np.concatenate([lines, *truth[:, i::2].T]), 0, 1)) for i in (0, 1))
    x, y = (xs[1:] + xs[:-1]) / 2, (ys[1:] + ys[:-1]) / 2  # Centres of rectangles that no edge of a box cuts.
    column, row = (np.minimum((centre * grid).astype(np.int64), grid - 1) for centre in (x, y))
    inside = np.zeros((len(y), len(x)), np.bool_)
    for left, top, right, bottom in truth:
        inside |= ((top <= y) & (y < bottom))[:, None] & ((left <= x) & (x < right))
    area = inside * np.diff(ys)[:, None] * np.diff(xs)
    covered = np.zeros((grid, grid))
    np.add.at(covered, (row[:, None], column), area)
    return covered * grid**2


def best_grid_box(truth: Boxes, grid: int) -> Boxes:
    """Return the rectangle of whole patches [4] with the largest IoU with one of the true boxes.

    Each of its edges is on the grid line just before or just after the true edge: beyond these two lines, one more
    patch inside the box, or one less outside, always raises the IoU. So 16 rectangles per true box are tried.
    """
    lines = np.clip(np.stack([np.floor(truth * grid), np.ceil(truth * grid)]), 0, grid) / grid  # Shape [2, M, 4].
    choice = np.indices((2, 2, 2, 2)).reshape(4, -1)  # For each edge: the line before or after it.
    boxes: Boxes = np.stack([lines[choice[edge], :, edge] for edge in range(4)], -1).reshape(-1, 4)
    best: Boxes = boxes[iou(boxes[:, None], truth).max(1).argmax()]
    return best


def _area(boxes: Boxes) -> NDArray[np.float64]:
    area: NDArray[np.float64] = np.maximum(boxes[..., 2] - boxes[..., 0], 0) * np.maximum(
        boxes[..., 3] - boxes[..., 1], 0
    )
    return area


def _in_any_box(truth: Boxes, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether each point (x, y), f64[n], lies in any of the boxes, bool[n]."""
    left, top, right, bottom = truth.T[..., None]
    inside: NDArray[np.bool_] = ((left <= x) & (x < right) & (top <= y) & (y < bottom)).any(0)
    return inside
