"""Pictures of several photos, where it is known to the pixel what is where: mosaics, and photos pasted on photos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.types import Frame, Picture
from flairsearch.images import decoding

SMALLEST, LARGEST = 0.25, 0.6  # side of a pasted photo, of the picture's


@dataclass(frozen=True)
class Mosaics:
    """Which mosaics: so many, of side x side photos, `factor` times as wide as a photo's view."""

    count: int
    side: int = 2
    factor: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Pastes:
    """N photos on N others."""

    ground: NDArray[np.int64]  # [N] photo numbers
    pasted: NDArray[np.int64]  # [N]
    box: NDArray[np.int64]  # [N, 4] where, pixels
    said: NDArray[np.int64]  # [N] which of the pasted photo's captions


def shuffle(photos: int, count: int, seed: int, side: int = 2) -> NDArray[np.int64]:
    """Which photos each mosaic shows, row by row, i64[count, side^2]; shuffled again and again when used up."""
    return _fill(np.random.default_rng(seed), np.arange(photos), count * side * side).reshape(count, -1)


def plan_mosaics(captions: Sequence[int], plan: Mosaics) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many captions each photo has -> the photo in each cell, as `shuffle`, and which of its captions asks for it.

    The numbers of the captions are drawn after all permutations, cell by cell: i64[count, side^2] both.
    """
    rng = np.random.default_rng(plan.seed)
    shown = _fill(rng, np.arange(len(captions)), plan.count * plan.side**2)
    said = np.array([rng.integers(captions[photo]) for photo in shown.tolist()], np.int64)
    return shown.reshape(plan.count, -1), said.reshape(plan.count, -1)


def plan_pastes(captions: Sequence[int], count: int, size: int, seed: int = 0) -> Pastes:
    """Captions of each of two photos at least -> pastes on pictures of `size` pixels.

    One half of the photos is only pasted, the other only pasted on: a caption speaks of no picture's ground. Both are
    shuffled again when used up. Sides are even between SMALLEST and LARGEST, places even among those that fit.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(captions))
    ground, pasted = (_fill(rng, half, count) for half in np.array_split(order, 2))
    sides = np.rint(rng.uniform(SMALLEST, LARGEST, count) * size).astype(np.int64)
    left, top = (rng.integers(size - sides + 1) for _ in range(2))
    said = np.array([rng.integers(captions[photo]) for photo in pasted.tolist()], np.int64)
    return Pastes(ground, pasted, np.stack([left, top, left + sides, top + sides], 1), said)


def _fill(rng: np.random.Generator, numbers: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The first `count` of permutations of the numbers, one after the other."""
    return np.concatenate([rng.permutation(numbers) for _ in range(-(-count // len(numbers)))])[:count]


def cell_boxes(size: int, side: int) -> NDArray[np.int64]:
    """Where the cells of a mosaic lie, row by row: i64[side^2, 4] pixels, edges at round(i size / side)."""
    edges = np.rint(np.arange(side + 1) * size / side).astype(np.int64)
    rows, columns = np.divmod(np.arange(side * side), side)
    return np.stack([edges[columns], edges[rows], edges[columns + 1], edges[rows + 1]], 1)


def make_mosaics(pictures: Iterable[Picture], shown: NDArray[np.int64], factor: int = 1) -> Iterator[Picture]:
    """The mosaics, one by one; of every photo its cells' pixels stay in memory.

    shown i64[N, side^2]: photos, by their place among the pictures. `factor`: the mosaics' side in pictures'.
    """
    small: dict[tuple[int, int, int], NDArray[np.uint8]] = {}
    size, wanted = 0, [np.unique(np.nonzero(shown == photo)[1]) for photo in range(int(shown.max(initial=-1)) + 1)]
    boxes = np.zeros((0, 4), np.int64)
    for photo, picture in enumerate(pictures):
        if not size:
            size = factor * len(picture.pixels)
            boxes = cell_boxes(size, round(shown.shape[1] ** 0.5))
        for wide, high in {_extent(box) for box in boxes[wanted[photo]]} if photo < len(wanted) else ():
            small[photo, wide, high] = _fit(picture.pixels, wide, high)
    for photos in shown.tolist():
        pixels = np.empty((size, size, 3), np.uint8)
        for photo, box in zip(photos, boxes, strict=True):
            _put(pixels, small[(photo, *_extent(box))], box)
        yield _whole(pixels)


def make_pastes(
    grounds: Iterable[Picture], pasted: Iterable[Picture], boxes: NDArray[np.int64], factor: int = 1
) -> Iterator[Picture]:
    """One picture on the other, pair by pair; boxes i64[N, 4] in the pixels of the result."""
    for ground, photo, box in zip(grounds, pasted, boxes, strict=True):
        size = factor * len(ground.pixels)
        pixels = _fit(ground.pixels, size, size).copy()
        _put(pixels, _fit(photo.pixels, *_extent(box)), box)
        yield _whole(pixels)


def _extent(box: NDArray[np.int64]) -> tuple[int, int]:
    return int(box[2] - box[0]), int(box[3] - box[1])


def _put(pixels: NDArray[np.uint8], photo: NDArray[np.uint8], box: NDArray[np.int64]) -> None:
    left, top, right, bottom = box.tolist()
    pixels[top:bottom, left:right] = photo


def _fit(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """A square in another size: means of whole blocks where it is a multiple, else bicubic."""
    high, down = divmod(len(pixels), height)
    wide, across = divmod(len(pixels), width)
    if down or across or not (high and wide):
        return decoding.resize(pixels, width, height)
    blocks: NDArray[np.float64] = pixels.reshape(height, high, width, wide, 3).mean((1, 3))
    return blocks.round().astype(np.uint8)


def _whole(pixels: NDArray[np.uint8]) -> Picture:
    size = len(pixels)
    return Picture(pixels, Frame(size, size, 0, 0, size, size))
