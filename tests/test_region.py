"""Painted attention comes back as the exact boxes, and any attention as scipy's own smoothing and labels say."""

from __future__ import annotations

import numpy as np
import pytest

from flairsearch.records import Box, Frame
from flairsearch.region import MOST, SMALLEST, SMOOTHING, THRESHOLD, find_regions

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
    ("frame", "box"), [(SQUASH, (60, 20, 180, 70)), (CENTER, (70 + 60, 40, 70 + 180, 140))], ids=["squash", "center"]
)
def test_one_square(frame: Frame, box: Box) -> None:
    (region,) = find_regions(paint((2, 3, 7, 9, 0.1)), frame)
    assert region.box == box
    assert region.score == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("square", "box"),
    [
        ((0, 0, 5, 5), (0, 0, 100, 50)),
        ((9, 9, 14, 14), (180, 90, 280, 140)),
        ((0, 5, 14, 10), (100, 0, 200, 140)),
        ((0, 0, 14, 14), (0, 0, 280, 140)),
    ],
)
def test_corners_and_the_whole(square: tuple[int, int, int, int], box: Box) -> None:
    (region,) = find_regions(paint((*square, 0.01)), SQUASH)
    assert region.box == box


def test_score_is_the_share_of_the_attention_inside_the_box() -> None:
    attention = paint((0, 0, 14, 14, 0.001), (2, 3, 7, 9, 0.1))
    (region,) = find_regions(attention, SQUASH)
    assert region.box == (60, 20, 180, 70)
    assert region.score == pytest.approx(3.0 / (3.0 + 166 * 0.001), rel=1e-5)
    assert find_regions(attention * 7, SQUASH)[0].score == pytest.approx(region.score, rel=1e-5)


def test_several_parts_best_first() -> None:
    regions = find_regions(paint((0, 0, 5, 5, 0.6), (8, 8, 14, 14, 0.6)), SQUASH)
    assert [region.box for region in regions] == [(160, 80, 280, 140), (0, 0, 100, 50)]
    assert [region.score for region in regions] == pytest.approx([36 / 61, 25 / 61])
    regions = find_regions(paint((9, 9, 14, 14, 0.6), (0, 0, 5, 5, 0.6)), SQUASH)
    assert [region.box for region in regions] == [(0, 0, 100, 50), (180, 90, 280, 140)]  # equal scores: by box


def test_one_part_of_any_shape_is_one_box() -> None:
    ring = paint((1, 1, 13, 13, 1.0), (5, 5, 9, 9, 0.0))
    (region,) = find_regions(ring, SQUASH)
    assert region.box == (20, 10, 260, 130)
    assert region.score == pytest.approx(1.0)


def test_weak_parts_are_left_out() -> None:
    below_the_threshold = paint((0, 0, 5, 5, 1.0), (9, 9, 14, 14, 0.9 * THRESHOLD))
    assert [region.box for region in find_regions(below_the_threshold, SQUASH)] == [(0, 0, 100, 50)]
    too_small = paint((0, 0, 14, 6, 1.0), (10, 11, 12, 13, 1.0))  # 4 patches against 84
    assert [region.box for region in find_regions(too_small, SQUASH)] == [(0, 0, 120, 140)]
    corners = paint(*((row, column, row + 3, column + 3, 1.0) for row in (0, 11) for column in (0, 11)))
    assert len(find_regions(corners, SQUASH)) == MOST == 3


def test_a_single_noisy_patch_is_no_region() -> None:
    (region,) = find_regions(paint((0, 0, 6, 6, 1.0), (10, 10, 11, 11, 1.5)), SQUASH)
    assert region.box == (0, 0, 120, 60)


def test_equals_scipy() -> None:
    """Gaussian, threshold, 4-connected labels: the same boxes and scores on maps of any kind."""
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(0)
    several = 0
    for i in range(200):
        attention = (rng.random((GRID, GRID)) ** (1 + i % 30)).astype(np.float32)
        smooth = ndimage.gaussian_filter(attention.astype(np.float64), SMOOTHING, mode="nearest", radius=3)
        labels, _ = ndimage.label(smooth >= THRESHOLD * smooth.max())
        expected = []
        for rows, columns in ndimage.find_objects(labels):
            box = (columns.start * 20, rows.start * 10, columns.stop * 20, rows.stop * 10)
            expected.append((-float(attention[rows, columns].sum() / attention.sum()), box))
        expected = [part for part in sorted(expected)[:MOST] if part[0] <= SMALLEST * min(expected)[0]]
        found = find_regions(attention, SQUASH)
        assert [region.box for region in found] == [box for _, box in expected]
        assert [region.score for region in found] == pytest.approx([-score for score, _ in expected], rel=1e-5)
        several += len(found) > 1
    assert several > 20


def test_no_attention_is_the_whole_view() -> None:
    for frame, box in ((SQUASH, (0, 0, 280, 140)), (CENTER, (70, 0, 350, 280))):
        (region,) = find_regions(paint(), frame)
        assert region.box == box
        assert region.score == 0.0


def test_a_photo_smaller_than_the_grid() -> None:
    frame = Frame(3, 2, 0, 0, 3, 2)
    for row, column in np.ndindex(GRID, GRID):
        (region,) = find_regions(paint((row, column, row + 1, column + 1, 1.0)), frame)
        left, top, right, bottom = region.box
        assert 0 <= left < right <= 3
        assert 0 <= top < bottom <= 2
