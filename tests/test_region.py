"""Painted attention comes back as the exact boxes."""

from __future__ import annotations

import numpy as np
import pytest

from flairsearch.records import Box, Frame
from flairsearch.region import MOST, find_regions

GRID = 14
SQUASH = Frame(280, 140, 0, 0, 280, 140)  # a patch is 20 x 10 pixels
CENTER = Frame(420, 280, 70, 0, 350, 280)  # the middle square: a patch is 20 x 20, from x = 70


def paint(*squares: tuple[int, int, int, int, float]) -> np.ndarray:
    """(top, left, bottom, right, attention a patch) -> f32[G, G]."""
    attention = np.zeros((GRID, GRID), np.float32)
    for top, left, bottom, right, value in squares:
        attention[top:bottom, left:right] = value
    return attention


@pytest.mark.parametrize(
    ("frame", "box"), [(SQUASH, (60, 20, 120, 40)), (CENTER, (70 + 60, 40, 70 + 120, 80))], ids=["squash", "center"]
)
def test_one_square(frame: Frame, box: Box) -> None:
    (region,) = find_regions(paint((2, 3, 4, 6, 0.1)), frame)
    assert region.box == box
    assert region.score == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("square", "box"),
    [((0, 0, 1, 1), (0, 0, 20, 10)), ((13, 13, 14, 14), (260, 130, 280, 140)), ((0, 0, 14, 14), (0, 0, 280, 140))],
)
def test_corners_and_the_whole(square: tuple[int, int, int, int], box: Box) -> None:
    (region,) = find_regions(paint((*square, 0.01)), SQUASH)
    assert region.box == box


def test_score_is_the_share_of_the_attention_inside_the_box() -> None:
    attention = paint((0, 0, 14, 14, 0.001), (2, 3, 4, 6, 0.1))
    (region,) = find_regions(attention, SQUASH)
    assert region.box == (60, 20, 120, 40)
    assert region.score == pytest.approx(0.6 / (0.6 + 190 * 0.001), rel=1e-5)
    assert find_regions(attention * 7, SQUASH)[0].score == pytest.approx(region.score, rel=1e-5)


def test_several_parts_best_first() -> None:
    regions = find_regions(paint((0, 0, 2, 2, 0.6), (6, 6, 9, 9, 0.6), (12, 0, 13, 7, 0.6)), SQUASH)
    assert [region.box for region in regions] == [(120, 60, 180, 90), (0, 120, 140, 130), (0, 0, 40, 20)]
    assert [region.score for region in regions] == pytest.approx([9 / 20, 7 / 20, 4 / 20])


def test_corner_to_corner_is_two_parts() -> None:
    regions = find_regions(paint((0, 0, 2, 2, 1.0), (2, 2, 4, 4, 1.0)), SQUASH)
    assert [region.box for region in regions] == [(0, 0, 40, 20), (40, 20, 80, 40)]  # equal scores: by box


def test_one_part_of_any_shape_is_one_box() -> None:
    ring = paint((2, 2, 9, 9, 1.0), (3, 3, 8, 8, 0.0))
    (region,) = find_regions(ring, SQUASH)
    assert region.box == (40, 20, 180, 90)
    assert region.score == pytest.approx(1.0)


def test_weak_parts_are_left_out() -> None:
    regions = find_regions(paint((0, 0, 4, 4, 1.0), (8, 8, 9, 11, 1.0), (12, 0, 14, 2, 0.49)), SQUASH)
    assert [region.box for region in regions] == [(0, 0, 80, 40)]  # 3 patches against 16; and below half of the peak
    many = find_regions(paint(*((row, 0, row + 1, 1, 1.0) for row in range(0, 14, 2))), SQUASH)
    assert len(many) == MOST


def test_no_attention_is_the_whole_view() -> None:
    for frame, box in ((SQUASH, (0, 0, 280, 140)), (CENTER, (70, 0, 350, 280))):
        (region,) = find_regions(paint(), frame)
        assert region.box == box
        assert region.score == 0.0


def test_a_photo_smaller_than_the_grid() -> None:
    frame = Frame(3, 2, 0, 0, 3, 2)
    for row, column in np.ndindex(GRID, GRID):
        ((left, top, right, bottom),) = (
            r.box for r in find_regions(paint((row, column, row + 1, column + 1, 1.0)), frame)
        )
        assert 0 <= left < right <= 3
        assert 0 <= top < bottom <= 2
