"""Mosaics and pastes, pixel by pixel; who is shown where."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from flairsearch.core.types import Frame, Picture
from flairsearch.evaluate.mosaics import (
    LARGEST,
    SMALLEST,
    Mosaics,
    cell_boxes,
    make_mosaics,
    make_pastes,
    plan_mosaics,
    plan_pastes,
    shuffle,
)


def pictures(count: int, size: int) -> list[Picture]:
    rng = np.random.default_rng(count)
    frame = Frame(999, 999, 0, 0, 999, 999)
    return [Picture(rng.integers(256, size=(size, size, 3), dtype=np.uint8), frame) for _ in range(count)]


def bicubic(pixels: np.ndarray, wide: int, high: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((wide, high), Image.Resampling.BICUBIC))


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


def test_mosaics_as_they_are_defined() -> None:
    """The definition in a loop: permutations, groups that fill a grid row by row, then captions cell by cell."""
    captions, plan = [5, 1, 3, 5, 2, 5, 4], Mosaics(5, 3, seed=7)
    rng = np.random.default_rng(7)
    stream: list[int] = []
    while len(stream) < 5 * 9:
        stream += rng.permutation(7).tolist()
    expected = [(photo, rng.integers(captions[photo])) for photo in stream[:45]]
    shown, said = plan_mosaics(captions, plan)
    assert shown.shape == said.shape == (5, 9)
    assert list(zip(shown.ravel().tolist(), said.ravel().tolist(), strict=True)) == expected
    assert (shown == shuffle(7, 5, seed=7, side=3)).all()


@pytest.mark.parametrize(
    ("size", "side", "factor"), [(48, 2, 1), (48, 3, 1), (50, 3, 1), (48, 3, 2), (48, 2, 2), (48, 1, 1)]
)
def test_pixels_of_mosaics(size: int, side: int, factor: int) -> None:
    photos = pictures(5, size)
    shown = shuffle(5, 4, seed=0, side=side)
    made = list(make_mosaics(iter(photos), shown, factor))
    assert len(made) == 4
    whole = size * factor
    for mosaic, numbers in zip(made, shown, strict=True):
        assert mosaic.pixels.shape == (whole, whole, 3)
        assert mosaic.frame == Frame(whole, whole, 0, 0, whole, whole)
        for photo, (left, top, right, bottom) in zip(numbers, cell_boxes(whole, side).tolist(), strict=True):
            pixels, wide, high = photos[photo].pixels, right - left, bottom - top
            if size % wide == 0:
                n = size // wide
                expected = pixels.reshape(wide, n, wide, n, 3).mean((1, 3)).round()
            else:
                expected = bicubic(pixels, wide, high)
            assert (mosaic.pixels[top:bottom, left:right] == expected).all()


def test_pastes() -> None:
    captions = [5, 1, 3, 5, 2]
    plan = plan_pastes(captions, 40, 64, seed=3)
    assert (len(plan.ground), len(plan.pasted), plan.box.shape, len(plan.said)) == (40, 40, (40, 4), 40)
    assert not set(plan.ground.tolist()) & set(plan.pasted.tolist())  # a photo is the one or the other
    assert set(plan.ground.tolist()) | set(plan.pasted.tolist()) == set(range(5))
    left, top, right, bottom = plan.box.T
    assert (right - left == bottom - top).all()
    assert (right - left >= SMALLEST * 64 - 0.5).all()
    assert (right - left <= LARGEST * 64 + 0.5).all()
    assert (plan.box >= 0).all()
    assert (plan.box <= 64).all()
    assert all(0 <= n < captions[photo] for n, photo in zip(plan.said.tolist(), plan.pasted.tolist(), strict=True))
    assert (plan_pastes(captions, 40, 64, seed=3).box == plan.box).all()


def test_places_of_pastes_are_even() -> None:
    left, top, right, bottom = plan_pastes([1] * 50, 4000, 224, seed=0).box.T
    for low, high in ((left, right), (top, bottom)):
        place = low / (224 - (high - low))
        assert place.mean() == pytest.approx(0.5, abs=0.02)
        assert place.min() == 0
        assert place.max() == 1
    assert ((right - left) / 224).mean() == pytest.approx((SMALLEST + LARGEST) / 2, abs=0.01)


@pytest.mark.parametrize("factor", [1, 2])
def test_pixels_of_pastes(factor: int) -> None:
    grounds, pasted = pictures(3, 48), pictures(4, 48)[:3]
    boxes = np.array([[0, 0, 24, 24], [5, 7, 25, 27], [28, 28, 48, 48]]) * factor
    before = [picture.pixels.copy() for picture in grounds]
    for ground, photo, box, made in zip(
        grounds, pasted, boxes.tolist(), make_pastes(grounds, pasted, boxes, factor), strict=True
    ):
        left, top, right, bottom = box
        expected = ground.pixels.copy() if factor == 1 else bicubic(ground.pixels, 96, 96).copy()
        small = photo.pixels.reshape(24, 2, 24, 2, 3).mean((1, 3)).round()
        if right - left == 48:
            small = photo.pixels
        elif right - left != 24:
            small = bicubic(photo.pixels, right - left, bottom - top)
        expected[top:bottom, left:right] = small
        assert (made.pixels == expected).all()
    assert all((picture.pixels == pixels).all() for picture, pixels in zip(grounds, before, strict=True))
