"""Mosaics and pasted photos, pixel by pixel, and the plans that say which photo is shown where."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from flairsearch.core.types import Frame, Picture
from flairsearch.evaluate.mosaics import (
    MAX_PASTED_SIDE,
    MIN_PASTED_SIDE,
    MosaicPlan,
    assign_cells,
    cell_boxes,
    make_mosaics,
    make_pastes,
    plan_mosaics,
    plan_pastes,
)


def pictures(count: int, size: int) -> list[Picture]:
    rng = np.random.default_rng(count)
    frame = Frame(999, 999, 0, 0, 999, 999)
    return [Picture(rng.integers(256, size=(size, size, 3), dtype=np.uint8), frame) for _ in range(count)]


def bicubic(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("size", "side"), [(224, 2), (224, 3), (448, 3), (64, 5), (5, 3), (48, 1)])
def test_cells_fill_the_square(size: int, side: int) -> None:
    boxes = cell_boxes(size, side)
    painted = np.zeros((size, size), int)
    for number, (left, top, right, bottom) in enumerate(boxes.tolist()):
        painted[top:bottom, left:right] += 1
        row, column = divmod(number, side)
        assert (left, top) == (round(column * size / side), round(row * size / side))
        assert (right, bottom) == (round((column + 1) * size / side), round((row + 1) * size / side))
    assert (painted == 1).all()


def test_plans_of_mosaics_equal_a_loop() -> None:
    """The plan equals its definition as a loop: permutations fill the cells row by row, then captions are drawn."""
    captions, plan = [5, 1, 3, 5, 2, 5, 4], MosaicPlan(5, 3, seed=7)
    rng = np.random.default_rng(7)
    stream: list[int] = []
    while len(stream) < 5 * 9:
        stream += rng.permutation(7).tolist()
    expected = [(photo, rng.integers(captions[photo])) for photo in stream[:45]]
    cells, chosen = plan_mosaics(captions, plan)
    assert cells.shape == chosen.shape == (5, 9)
    assert list(zip(cells.ravel().tolist(), chosen.ravel().tolist(), strict=True)) == expected
    assert (cells == assign_cells(7, 5, seed=7, side=3)).all()


@pytest.mark.parametrize(
    ("size", "side", "factor"), [(48, 2, 1), (48, 3, 1), (50, 3, 1), (48, 3, 2), (48, 2, 2), (48, 1, 1)]
)
def test_pixels_of_mosaics(size: int, side: int, factor: int) -> None:
    photos = pictures(5, size)
    cells = assign_cells(5, 4, seed=0, side=side)
    made = list(make_mosaics(iter(photos), cells, factor))
    assert len(made) == 4
    mosaic_size = size * factor
    for mosaic, numbers in zip(made, cells, strict=True):
        assert mosaic.pixels.shape == (mosaic_size, mosaic_size, 3)
        assert mosaic.frame == Frame(mosaic_size, mosaic_size, 0, 0, mosaic_size, mosaic_size)
        for photo, (left, top, right, bottom) in zip(numbers, cell_boxes(mosaic_size, side).tolist(), strict=True):
            pixels, width, height = photos[photo].pixels, right - left, bottom - top
            if size % width == 0:
                n = size // width
                expected = pixels.reshape(width, n, width, n, 3).mean((1, 3)).round()
            else:
                expected = bicubic(pixels, width, height)
            assert (mosaic.pixels[top:bottom, left:right] == expected).all()


def test_plans_of_pastes() -> None:
    captions = [5, 1, 3, 5, 2]
    plan = plan_pastes(captions, 40, 64, seed=3)
    assert (len(plan.background), len(plan.pasted), plan.box.shape, len(plan.caption)) == (40, 40, (40, 4), 40)
    assert not set(plan.background.tolist()) & set(plan.pasted.tolist())  # No photo is both background and pasted.
    assert set(plan.background.tolist()) | set(plan.pasted.tolist()) == set(range(5))
    left, top, right, bottom = plan.box.T
    assert (right - left == bottom - top).all()
    assert (right - left >= MIN_PASTED_SIDE * 64 - 0.5).all()
    assert (right - left <= MAX_PASTED_SIDE * 64 + 0.5).all()
    assert (plan.box >= 0).all()
    assert (plan.box <= 64).all()
    assert all(0 <= n < captions[photo] for n, photo in zip(plan.caption.tolist(), plan.pasted.tolist(), strict=True))
    assert (plan_pastes(captions, 40, 64, seed=3).box == plan.box).all()


def test_positions_of_pastes_are_uniform() -> None:
    left, top, right, bottom = plan_pastes([1] * 50, 4000, 224, seed=0).box.T
    for low, high in ((left, right), (top, bottom)):
        position = low / (224 - (high - low))
        assert position.mean() == pytest.approx(0.5, abs=0.02)
        assert position.min() == 0
        assert position.max() == 1
    assert ((right - left) / 224).mean() == pytest.approx((MIN_PASTED_SIDE + MAX_PASTED_SIDE) / 2, abs=0.01)


@pytest.mark.parametrize("factor", [1, 2])
def test_pixels_of_pastes(factor: int) -> None:
    backgrounds, pasted = pictures(3, 48), pictures(4, 48)[:3]
    boxes = np.array([[0, 0, 24, 24], [5, 7, 25, 27], [28, 28, 48, 48]]) * factor
    before = [picture.pixels.copy() for picture in backgrounds]
    for background, photo, box, made in zip(
        backgrounds, pasted, boxes.tolist(), make_pastes(backgrounds, pasted, boxes, factor), strict=True
    ):
        left, top, right, bottom = box
        expected = background.pixels.copy() if factor == 1 else bicubic(background.pixels, 96, 96).copy()
        small = photo.pixels.reshape(24, 2, 24, 2, 3).mean((1, 3)).round()
        if right - left == 48:
            small = photo.pixels
        elif right - left != 24:
            small = bicubic(photo.pixels, right - left, bottom - top)
        expected[top:bottom, left:right] = small
        assert (made.pixels == expected).all()
    assert all((picture.pixels == pixels).all() for picture, pixels in zip(backgrounds, before, strict=True))
