"""Attention and similarity of a view's patches -> heat -> boxes; boxes of several views -> regions of a photo.

Attention says where the pool looks, similarity what a patch is like; each errs where the other does not. Chosen on
boxes, mosaics and pasted photos of the training set: benchmarks/regions.py.
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

ViewBox = tuple[float, float, float, float]  # left, top, right, bottom; 0 to 1 across the view

SIMILARITY = 0.7  # its weight in the heat, where attention weighs 1
SMOOTHING = 1.0  # standard deviation in patches: single patches are noisy
FINE = 2  # cells a patch, along each side, that boxes are made of
SMALLEST = 0.1  # of the largest part's cells: smaller parts are dropped
WEAKEST = 0.5  # of the best region's score: weaker regions are dropped
MOST = 3  # regions
SAME = 0.5  # two boxes whose common part is more than this share of the smaller one are one thing


def find_heat(attention: NDArray[np.float32], similarity: NDArray[np.float32]) -> NDArray[np.float32]:
    """attention f32[P], similarity f32[P] -> heat f32[G, G]: both in standard deviations, added and smoothed.

    Any real numbers; all equal where nothing stands out.
    """
    grid = round(attention.size**0.5)
    return _smooth((_standardise(attention) + SIMILARITY * _standardise(similarity)).reshape(grid, grid))


def find_boxes(heat: NDArray[np.float32]) -> list[ViewBox]:
    """heat f32[G, G] -> boxes of the parts that stand out, the most heat first; of all, where nothing does.

    Parts are 4-connected cells above Otsu's threshold (1979): the one that leaves the least variance on both sides.
    """
    fine = _refine(heat)
    side, level = len(fine), _otsu(fine)
    if level is None:
        return [(0.0, 0.0, 1.0, 1.0)]
    parts = _parts(fine, level)
    least = SMALLEST * max(part.cells for part in parts)
    found = sorted((part for part in parts if part.cells >= least), key=lambda part: -part.heat)
    return [(left / side, top / side, right / side, bottom / side) for (left, top, right, bottom), _, _ in found[:MOST]]


def inside(box: ViewBox, grid: int) -> NDArray[np.bool_]:
    """bool[P]: the patches whose centre lies in the box; the one nearest to its middle, where none does."""
    left, top, right, bottom = (round(edge * grid, 9) for edge in box)  # An edge on a centre stays on it.
    centres = np.arange(grid) + 0.5
    rows, columns = (top <= centres) & (centres < bottom), (left <= centres) & (centres < right)
    if not rows.any():
        rows[np.abs(centres - (top + bottom) / 2).argmin()] = True
    if not columns.any():
        columns[np.abs(centres - (left + right) / 2).argmin()] = True
    return np.outer(rows, columns).ravel()


def merge(regions: Iterable[Region]) -> tuple[Region, ...]:
    """Regions of all views of a photo -> the best MOST, best first; of several of one thing the best (NMS)."""
    kept: list[Region] = []
    for region in sorted(regions, key=lambda region: (-region.score, region.box)):
        strong = not kept or region.score >= WEAKEST * kept[0].score
        if strong and len(kept) < MOST and all(_common(region.box, other.box) <= SAME for other in kept):
            kept.append(region)
    return tuple(kept)


def area(box: Box) -> int:
    """Pixels."""
    return (box[2] - box[0]) * (box[3] - box[1])


def _common(a: Box, b: Box) -> float:
    """Share of the smaller box that both have."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(wide, 0) * max(high, 0) / min(area(a), area(b))


def _standardise(values: NDArray[np.float32]) -> NDArray[np.float64]:
    exact = values.astype(np.float64)  # no square overflows or vanishes there
    exact[~np.isfinite(exact)] = 0
    centred = exact - exact.mean()
    spread = float(centred.std())
    if spread <= 1e-6 * float(np.abs(exact).max()):  # rounding errors do not stand out
        return np.zeros(exact.shape)
    return np.asarray(centred / spread)


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Gaussian of SMOOTHING patches, f32[G, G]; beyond the edge the edge goes on."""
    band = _band(len(values))
    return np.asarray(band @ values @ band.T, np.float32)


@lru_cache(8)
def _band(grid: int) -> NDArray[np.float64]:
    """What each of G patches takes from each, f64[G, G]."""
    shifts = np.arange(-3, 4)
    weights = np.exp(-0.5 * (shifts / SMOOTHING) ** 2)
    return np.asarray(weights / weights.sum() @ np.eye(grid)[np.clip(np.arange(grid)[:, None] + shifts, 0, grid - 1)])


def _refine(heat: NDArray[np.float32]) -> NDArray[np.float64]:
    """f32[G, G] -> f64[FINE G, FINE G], bilinear."""
    spread = _spread(len(heat))
    return np.asarray(spread @ heat @ spread.T)


@lru_cache(8)
def _spread(grid: int) -> NDArray[np.float64]:
    """What each cell takes from each of G patches, f64[FINE G, G]."""
    place = np.clip((np.arange(FINE * grid) + 0.5) / FINE - 0.5, 0, grid - 1)
    low = place.astype(int)
    rest, eye = (place - low)[:, None], np.eye(grid)
    return np.asarray((1 - rest) * eye[low] + rest * eye[np.minimum(low + 1, grid - 1)])


def _otsu(values: NDArray[np.float64]) -> float | None:
    """The threshold that leaves the least variance within both sides; None where all values are equal."""
    ordered = np.sort(values, axis=None)
    if ordered[-1] - ordered[0] <= 1e-6 * np.abs(ordered).max():
        return None
    below = np.arange(1, len(ordered))
    sums = ordered.cumsum()
    means = sums[:-1] / below, (sums[-1] - sums[:-1]) / (len(ordered) - below)
    cut = int((below * (len(ordered) - below) * (means[1] - means[0]) ** 2).argmax())
    return float(ordered[cut] + ordered[cut + 1]) / 2


class _Part(NamedTuple):
    """4-connected cells."""

    box: Box  # in cells
    cells: int
    heat: float  # above the level


def _parts(values: NDArray[np.float64], level: float) -> list[_Part]:
    """Of the cells at the level or above, by their first cell: a run in a row joins all that it touches above."""
    mask = np.zeros((len(values), values.shape[1] + 2), np.int8)
    mask[:, 1:-1] = values >= level
    edges = np.diff(mask)
    (rows, starts), ends = np.nonzero(edges > 0), np.nonzero(edges < 0)[1]
    runs = list(zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True))
    of_part = list(range(len(runs)))  # an earlier run of the same part; the first one's is itself

    def first(run: int) -> int:
        while of_part[run] != run:
            run = of_part[run]
        return run

    above = 0  # the first run that may touch the next
    for run, (row, start, end) in enumerate(runs):
        while runs[above][0] < row - 1 or (runs[above][0] < row and runs[above][2] <= start):
            above += 1
        for other in range(above, run):
            if runs[other][0] == row or runs[other][1] >= end:
                break
            low, high = sorted((first(run), first(other)))
            of_part[high] = low
    numbers: list[list[float]] = values.tolist()
    parts: dict[int, list[tuple[int, int, int]]] = {}
    for run, place in enumerate(runs):
        parts.setdefault(first(run), []).append(place)
    return [_measure(part, numbers, level) for part in parts.values()]


def _measure(runs: Sequence[tuple[int, int, int]], values: list[list[float]], level: float) -> _Part:
    rows, starts, ends = zip(*runs, strict=True)
    cells = sum(ends) - sum(starts)
    heat = math.fsum(chain.from_iterable(values[row][start:end] for row, start, end in runs)) - cells * level
    return _Part((min(starts), min(rows), max(ends), max(rows) + 1), cells, heat)
