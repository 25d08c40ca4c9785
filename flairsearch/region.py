"""Attention + Frame -> boxes in pixels of the upright original."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flairsearch.records import Frame, Region

SMOOTHING = 1.0  # standard deviation in patches: single patches are noisy
THRESHOLD = 0.4  # of the largest smoothed attention: patches above it belong to a region
SMALLEST = 0.25  # of the best region's score: weaker regions are dropped
MOST = 3  # regions a view


def find_regions(attention: NDArray[np.float32], frame: Frame) -> tuple[Region, ...]:
    """attention f32[G, G] -> at least one region, best first; the score is the share of attention inside the box.

    A region is a connected part of the smoothed map above a share of its maximum. Smoothing and threshold were chosen
    on mosaics of training photos (benchmarks/regions.py).
    """
    grid = attention.shape[0]
    total, peak = float(attention.sum()), float(attention.max(initial=0))
    if peak <= 0:
        return (Region(frame.to_pixels(0, 0, 1, 1), 0.0),)
    smoothed = _smooth(attention)
    regions = []
    for top, left, bottom, right in _components(smoothed >= THRESHOLD * smoothed.max()):
        box = frame.to_pixels(left / grid, top / grid, right / grid, bottom / grid)
        regions.append(Region(box, float(attention[top:bottom, left:right].sum()) / total))
    regions.sort(key=lambda region: (-region.score, region.box))
    return tuple(region for region in regions[:MOST] if region.score >= SMALLEST * regions[0].score)


def _smooth(attention: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gaussian of SMOOTHING patches, f32[G, G]; beyond the edge the edge goes on."""
    places = np.arange(attention.shape[0])
    band = np.zeros(attention.shape)
    for shift in range(-3, 4):
        weight = np.exp(-0.5 * (shift / SMOOTHING) ** 2)
        np.add.at(band, (places, np.clip(places + shift, 0, len(places) - 1)), weight)
    band /= band.sum(1, keepdims=True)
    return (band @ attention @ band.T).astype(np.float32)


def _components(mask: NDArray[np.bool_]) -> list[tuple[int, int, int, int]]:
    """Bounding boxes (top, left, bottom, right), half-open, of 4-connected parts of a mask."""
    left_over = {(int(row), int(column)) for row, column in np.argwhere(mask)}
    boxes = []
    while left_over:
        stack = [left_over.pop()]
        part = list(stack)
        while stack:
            row, column = stack.pop()
            near = {(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)} & left_over
            left_over -= near
            stack.extend(near)
            part.extend(near)
        rows, columns = zip(*part, strict=True)
        boxes.append((min(rows), min(columns), max(rows) + 1, max(columns) + 1))
    return boxes
