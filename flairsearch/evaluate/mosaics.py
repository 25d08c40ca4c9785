"""Compose pictures of several photos, whose true boxes are known to the pixel: mosaics, and photos pasted on photos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.types import Frame, Picture
from flairsearch.images import decoding

MIN_PASTED_SIDE = 0.25  # Smallest side of a pasted photo, as a share of the picture's side.
MAX_PASTED_SIDE = 0.6  # Largest side of a pasted photo, as a share of the picture's side.


@dataclass(frozen=True)
class MosaicPlan:
    """Number and layout of mosaics: `count` mosaics of side x side photos."""

    count: int
    side: int = 2
    factor: int = 1  # Width of a mosaic as a multiple of a photo's view.
    seed: int = 0


@dataclass(frozen=True)
class PastePlan:
    """N photos to paste on N other photos.

    background, pasted: i64[N], numbers of photos. box: i64[N, 4], where the photo is pasted, in pixels. caption:
    i64[N], which caption of the pasted photo is the query.
    """

    background: NDArray[np.int64]
    pasted: NDArray[np.int64]
    box: NDArray[np.int64]
    caption: NDArray[np.int64]


def assign_cells(photos: int, count: int, seed: int, side: int = 2) -> NDArray[np.int64]:
    """Return the photo in each cell of each mosaic, row by row, i64[count, side^2].

    The photos are shuffled, and shuffled anew each time they are used up.
    """
    return _repeat_shuffled(np.random.default_rng(seed), np.arange(photos), count * side * side).reshape(count, -1)


def plan_mosaics(caption_counts: Sequence[int], plan: MosaicPlan) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose the photo in each cell, as assign_cells does, and a caption of it, both i64[count, side^2].

    caption_counts: number of captions of each photo. The captions are drawn cell by cell after all photos.
    """
    rng = np.random.default_rng(plan.seed)
    cells = _repeat_shuffled(rng, np.arange(len(caption_counts)), plan.count * plan.side**2)
    captions = np.array([rng.integers(caption_counts[photo]) for photo in cells.tolist()], np.int64)
    return cells.reshape(plan.count, -1), captions.reshape(plan.count, -1)


def plan_pastes(caption_counts: Sequence[int], count: int, size: int, seed: int = 0) -> PastePlan:
    """Choose `count` pairs of photos, and boxes on pictures of `size` pixels.

    caption_counts: number of captions of each photo; there must be two photos at least. One half of the photos is only
    pasted and the other half only serves as background, so no caption describes a background. Both halves are shuffled
    anew when used up. Sides are uniform between MIN_PASTED_SIDE and MAX_PASTED_SIDE, positions uniform within the
    picture.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(caption_counts))
    background, pasted = (_repeat_shuffled(rng, half, count) for half in np.array_split(order, 2))
    sides = np.rint(rng.uniform(MIN_PASTED_SIDE, MAX_PASTED_SIDE, count) * size).astype(np.int64)
    left, top = (rng.integers(size - sides + 1) for _ in range(2))
    captions = np.array([rng.integers(caption_counts[photo]) for photo in pasted.tolist()], np.int64)
    return PastePlan(background, pasted, np.stack([left, top, left + sides, top + sides], 1), captions)


def _repeat_shuffled(rng: np.random.Generator, numbers: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the first `count` numbers of a sequence of random permutations."""
    return np.concatenate([rng.permutation(numbers) for _ in range(-(-count // len(numbers)))])[:count]


def cell_boxes(size: int, side: int) -> NDArray[np.int64]:
    """Return the boxes of a mosaic's cells, row by row, i64[side^2, 4] in pixels; edges are at round(i size / side)."""
    edges = np.rint(np.arange(side + 1) * size / side).astype(np.int64)
    rows, columns = np.divmod(np.arange(side * side), side)
    return np.stack([edges[columns], edges[rows], edges[columns + 1], edges[rows + 1]], 1)


def make_mosaics(pictures: Iterable[Picture], cells: NDArray[np.int64], factor: int = 1) -> Iterator[Picture]:
    """Yield the mosaics one by one. Only the photos' pixels at the size of their cells are kept in memory.

    pictures: square views of the photos, in order. cells: i64[N, side^2], numbers of photos. factor: width of a mosaic
    as a multiple of a photo's view.
    """
    resized: dict[tuple[int, int, int], NDArray[np.uint8]] = {}
    size, cells_of_photo = 0, [np.unique(np.nonzero(cells == p)[1]) for p in range(int(cells.max(initial=-1)) + 1)]
    boxes = np.zeros((0, 4), np.int64)
    for photo, picture in enumerate(pictures):
        if not size:
            size = factor * len(picture.pixels)
            boxes = cell_boxes(size, round(cells.shape[1] ** 0.5))
        box_sizes = {_box_size(box) for box in boxes[cells_of_photo[photo]]} if photo < len(cells_of_photo) else set()
        for width, height in box_sizes:
            resized[photo, width, height] = _resize(picture.pixels, width, height)
    for photos in cells.tolist():
        pixels = np.empty((size, size, 3), np.uint8)
        for photo, box in zip(photos, boxes, strict=True):
            _paste(pixels, resized[(photo, *_box_size(box))], box)
        yield _to_picture(pixels)


def make_pastes(
    backgrounds: Iterable[Picture], pasted: Iterable[Picture], boxes: NDArray[np.int64], factor: int = 1
) -> Iterator[Picture]:
    """Yield each background with the photo pasted on it. boxes: i64[N, 4] in pixels of the result."""
    for background, photo, box in zip(backgrounds, pasted, boxes, strict=True):
        size = factor * len(background.pixels)
        pixels = _resize(background.pixels, size, size).copy()
        _paste(pixels, _resize(photo.pixels, *_box_size(box)), box)
        yield _to_picture(pixels)


def _box_size(box: NDArray[np.int64]) -> tuple[int, int]:
    return int(box[2] - box[0]), int(box[3] - box[1])


def _paste(pixels: NDArray[np.uint8], photo: NDArray[np.uint8], box: NDArray[np.int64]) -> None:
    left, top, right, bottom = box.tolist()
    pixels[top:bottom, left:right] = photo


def _resize(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resize a square picture: by means of whole blocks where the sizes divide, otherwise bicubic."""
    block_height, rest_height = divmod(len(pixels), height)
    block_width, rest_width = divmod(len(pixels), width)
    if rest_height or rest_width or not (block_height and block_width):
        return decoding.resize(pixels, width, height)
    blocks: NDArray[np.float64] = pixels.reshape(height, block_height, width, block_width, 3).mean((1, 3))
    return blocks.round().astype(np.uint8)


def _to_picture(pixels: NDArray[np.uint8]) -> Picture:
    size = len(pixels)
    return Picture(pixels, Frame(size, size, 0, 0, size, size))
