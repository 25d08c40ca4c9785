"""From the attention and similarity of a view's patches to a heat map, to boxes, and to the regions of an image.

Attention shows where the pool looks, similarity which patches resemble the text; each corrects errors of the other.
The constants were chosen on boxes, mosaics and pasted photos of the training set: benchmarks/regions.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.hits import Region
from flairsearch.core.types import Box

ViewBox = tuple[float, float, float, float]
"""The edges left, top, right, bottom of a box as fractions of the view's sides, 0 to 1."""

SIMILARITY_WEIGHT = 0.7  # The weight of similarity in the heat map; attention has weight 1.
SMOOTHING_SIGMA = 1.0  # The standard deviation of the blur, in patches; single patches are noisy.
CELLS_PER_PATCH = 2  # The heat map is refined to this number of cells along each side of a patch.
MIN_PART_FRACTION = 0.1  # Parts with fewer cells than this fraction of the largest part are dropped.
MIN_SCORE_RATIO = 0.5  # Regions that score below this fraction of the best region's score are dropped.
MAX_REGIONS = 3  # An image has at most this number of regions for a text.
NMS_OVERLAP = 0.5  # Two boxes show one object if they share more than this fraction of the smaller box.


def find_heat(attention: NDArray[np.float32], similarity: NDArray[np.float32]) -> NDArray[np.float32]:
    """Combine the attention f32[P] and the similarity f32[P] of one view into a smoothed heat map f32[G, G].

    Both are first standardised: mean 0, standard deviation 1. The heat is constant where no patch stands out.
    """
    grid = round(attention.size**0.5)
    return _smooth((_standardise(attention) + SIMILARITY_WEIGHT * _standardise(similarity)).reshape(grid, grid))


def find_boxes(heat: NDArray[np.float32]) -> list[ViewBox]:
    """Find at most MAX_REGIONS boxes in a heat map f32[G, G], the one with the most heat first.

    Boxes surround 4-connected cells above Otsu's threshold (Otsu 1979). A constant heat map gives the whole view.
    """
    fine = _refine(heat)
    side, threshold = len(fine), _otsu(fine)
    if threshold is None:
        return [(0.0, 0.0, 1.0, 1.0)]
    parts = _connected_parts(fine, threshold)
    min_cells = MIN_PART_FRACTION * max(part.cells for part in parts)
    kept = sorted((part for part in parts if part.cells >= min_cells), key=lambda part: -part.heat)[:MAX_REGIONS]
    return [(left / side, top / side, right / side, bottom / side) for (left, top, right, bottom), _, _ in kept]


def patch_mask(box: ViewBox, grid: int) -> NDArray[np.bool_]:
    """Mark the patches whose centre lies in the box, bool[P]; without any, the one nearest to the box's centre."""
    left, top, right, bottom = (round(edge * grid, 9) for edge in box)  # Rounding keeps an edge on a patch's centre.
    centres = np.arange(grid) + 0.5
    rows, columns = (top <= centres) & (centres < bottom), (left <= centres) & (centres < right)
    if not rows.any():
        rows[np.abs(centres - (top + bottom) / 2).argmin()] = True
    if not columns.any():
        columns[np.abs(centres - (left + right) / 2).argmin()] = True
    return np.outer(rows, columns).ravel()


def merge_regions(regions: Iterable[Region]) -> tuple[Region, ...]:
    """Select the best MAX_REGIONS regions among all views of an image by non-maximum suppression, best first."""
    kept: list[Region] = []
    for region in sorted(regions, key=lambda region: (-region.score, region.box)):
        is_strong = not kept or region.score >= MIN_SCORE_RATIO * kept[0].score
        is_distinct = all(_overlap(region.box, other.box) <= NMS_OVERLAP for other in kept)
        if is_strong and is_distinct and len(kept) < MAX_REGIONS:
            kept.append(region)
    return tuple(kept)


def area(box: Box) -> int:
    """Return the area of a box in pixels."""
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(a: Box, b: Box) -> float:
    """Return the intersection of two boxes as a share of the smaller one's area."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(wide, 0) * max(high, 0) / min(area(a), area(b))


def _standardise(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Shift and scale to mean 0 and standard deviation 1; zeros where the values are equal but for rounding errors."""
    exact = values.astype(np.float64)  # Squares of float32 values neither overflow nor underflow in float64.
    exact[~np.isfinite(exact)] = 0
    centred = exact - exact.mean()
    deviation = float(centred.std())
    if deviation <= 1e-6 * float(np.abs(exact).max()):
        return np.zeros(exact.shape)
    return np.asarray(centred / deviation)


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Blur values [G, G] by a Gaussian of SMOOTHING_SIGMA patches, f32[G, G]; values at the edge repeat beyond it."""
    matrix = _smoothing_matrix(len(values))
    return np.asarray(matrix @ values @ matrix.T, np.float32)


@lru_cache(8)
def _smoothing_matrix(grid: int) -> NDArray[np.float64]:
    """Weights of the blur along one axis, f64[G, G]: row i has the weight of each patch in the blurred patch i."""
    shifts = np.arange(-3, 4)
    weights = np.exp(-0.5 * (shifts / SMOOTHING_SIGMA) ** 2)
    return np.asarray(weights / weights.sum() @ np.eye(grid)[np.clip(np.arange(grid)[:, None] + shifts, 0, grid - 1)])


def _refine(heat: NDArray[np.float32]) -> NDArray[np.float64]:
    """Interpolate a heat map f32[G, G] bilinearly to f64[CELLS_PER_PATCH G, CELLS_PER_PATCH G]."""
    matrix = _interpolation_matrix(len(heat))
    return np.asarray(matrix @ heat @ matrix.T)


@lru_cache(8)
def _interpolation_matrix(grid: int) -> NDArray[np.float64]:
    """Weights of the interpolation along one axis, f64[CELLS_PER_PATCH G, G]: of each patch in each cell."""
    position = np.clip((np.arange(CELLS_PER_PATCH * grid) + 0.5) / CELLS_PER_PATCH - 0.5, 0, grid - 1)
    low = position.astype(int)
    fraction, eye = (position - low)[:, None], np.eye(grid)
    return np.asarray((1 - fraction) * eye[low] + fraction * eye[np.minimum(low + 1, grid - 1)])


def _otsu(values: NDArray[np.float64]) -> float | None:
    """Return the threshold with the least variance within the two classes; None if all values are equal."""
    ordered = np.sort(values, axis=None)
    if ordered[-1] - ordered[0] <= 1e-6 * np.abs(ordered).max():
        return None
    below = np.arange(1, len(ordered))
    sums = ordered.cumsum()
    means = sums[:-1] / below, (sums[-1] - sums[:-1]) / (len(ordered) - below)
    cut = int((below * (len(ordered) - below) * (means[1] - means[0]) ** 2).argmax())
    return float(ordered[cut] + ordered[cut + 1]) / 2


class _Part(NamedTuple):
    """A set of 4-connected cells."""

    box: Box  # The edges in cells.
    cells: int  # The number of cells.
    heat: float  # The sum over the cells of the heat above the threshold.


def _connected_parts(values: NDArray[np.float64], threshold: float) -> list[_Part]:
    """Label the 4-connected components of the cells at or above the threshold, in the order of their first cell.

    A run of neighbouring cells in one row is joined to every run that it touches in the row above (union-find).
    """
    mask = np.zeros((len(values), values.shape[1] + 2), np.int8)
    mask[:, 1:-1] = values >= threshold
    edges = np.diff(mask)
    (rows, starts), ends = np.nonzero(edges > 0), np.nonzero(edges < 0)[1]
    runs = list(zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True))
    parent = list(range(len(runs)))  # An earlier run of the same part; the first run of a part is its own parent.

    def root_of(run: int) -> int:
        while parent[run] != run:
            run = parent[run]
        return run

    above = 0  # The first run of the row above that may touch the current run or a later one.
    for run, (row, start, end) in enumerate(runs):
        while runs[above][0] < row - 1 or (runs[above][0] < row and runs[above][2] <= start):
            above += 1
        for other in range(above, run):
            if runs[other][0] == row or runs[other][1] >= end:
                break
            low, high = sorted((root_of(run), root_of(other)))
            parent[high] = low
    numbers: list[list[float]] = values.tolist()
    parts: dict[int, list[tuple[int, int, int]]] = {}
    for run, cells in enumerate(runs):
        parts.setdefault(root_of(run), []).append(cells)
    return [_measure(part, numbers, threshold) for part in parts.values()]


def _measure(runs: Sequence[tuple[int, int, int]], values: list[list[float]], threshold: float) -> _Part:
    """Return the bounding box, size and heat of a part, given as runs (row, first column, end column)."""
    rows, starts, ends = zip(*runs, strict=True)
    cells = sum(ends) - sum(starts)
    heat = math.fsum(chain.from_iterable(values[row][start:end] for row, start, end in runs)) - cells * threshold
    return _Part((min(starts), min(rows), max(ends), max(rows) + 1), cells, heat)
