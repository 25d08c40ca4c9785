"""Metrics of boxes and maps against loops over points and over every rectangle of the grid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from flairsearch.evaluate import region_metrics
from flairsearch.evaluate.region_metrics import (
    best_grid_box,
    best_iou,
    box_centre_hit,
    box_recall,
    energy_inside,
    iou,
    patch_coverage,
    pointing_game,
    view_centre_hit,
)


def random_boxes(rng: np.random.Generator, count: int, outside: float = 0.0) -> np.ndarray:
    corners = rng.uniform(-outside, 1 + outside, (count, 2, 2))
    corners.sort(1)
    return corners.reshape(count, 4)


def points_in(box: np.ndarray, side: int = 400) -> np.ndarray:
    """Return which of side x side points between -1 and 2 lie in a box."""
    points = (np.arange(side) + 0.5) / side * 3 - 1
    return ((box[1] <= points) & (points < box[3]))[:, None] & ((box[0] <= points) & (points < box[2]))


def test_iou_by_hand() -> None:
    a = np.array([0, 0, 0.5, 0.5])
    table = {
        (0, 0, 0.5, 0.5): 1,
        (0, 0, 1, 1): 0.25,
        (0.25, 0, 0.75, 0.5): 1 / 3,
        (0.5, 0, 1, 0.5): 0,  # Half-open boxes that touch do not overlap.
        (0.25, 0.25, 0.25, 0.25): 0,
        (-0.5, 0, 0.5, 0.5): 0.5,
    }
    for box, expected in table.items():
        assert iou(a, np.array(box)) == iou(np.array(box), a) == pytest.approx(expected)
    assert iou(np.zeros(4), np.zeros(4)) == 0
    assert best_iou(a, np.array(list(table), float)) == 1
    assert best_iou(a, np.zeros((0, 4))) == 0


def test_iou_counts_points() -> None:
    rng = np.random.default_rng(0)
    for a, b in zip(random_boxes(rng, 30, 0.5), random_boxes(rng, 30, 0.5), strict=True):
        points_a, points_b = points_in(a), points_in(b)
        assert iou(a, b) == pytest.approx((points_a & points_b).sum() / max((points_a | points_b).sum(), 1), abs=0.03)


def test_box_recall_equals_a_loop() -> None:
    rng = np.random.default_rng(1)
    texts, views = 40, 30
    pairs = [
        (text, rank, rng.uniform()) for text in range(texts) for rank in rng.permutation(views)[: rng.integers(1, 6)]
    ]
    text, rank, overlap = (np.array(column) for column in zip(*pairs, strict=True))
    found = box_recall(text, rank, overlap, texts)
    assert list(found) == [0, 0.3, 0.5, 0.7]
    for level, by_k in found.items():
        assert list(by_k) == [1, 5, 10]
        for k, share in by_k.items():
            hit = [any(t == i and r < k and o >= level for t, r, o in pairs) for i in range(texts)]
            assert share == pytest.approx(sum(hit) / texts)


def test_box_recall_by_hand() -> None:
    """Text 0: first hit, poor box; text 1: sixth hit, good box; text 2: not in the first ten; text 3: no hit."""
    text, rank, overlap = np.array([0, 0, 1, 2]), np.array([0, 4, 5, 10]), np.array([0.4, 0.5, 0.71, 1.0])
    assert box_recall(text, rank, overlap, 4) == {
        0.0: {1: 0.25, 5: 0.25, 10: 0.5},
        0.3: {1: 0.25, 5: 0.25, 10: 0.5},
        0.5: {1: 0, 5: 0.25, 10: 0.5},
        0.7: {1: 0, 5: 0, 10: 0.25},
    }


def test_pointing() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[1, 2] = heat[3, 0] = 2
    right, left = np.array([[0.5, 0.25, 0.75, 0.5]]), np.array([[0, 0.75, 0.25, 1.0]])
    assert pointing_game(heat, right) == pointing_game(heat, left) == 0.5  # Of two equal maxima one is inside.
    assert pointing_game(heat, np.concatenate([right, left])) == 1
    heat[1, 2] = 3
    assert (pointing_game(heat, right), pointing_game(heat, left)) == (1, 0)
    middle = np.array([[0.625, 0.375, 0.7, 0.5]])  # This box holds little more than the centre of the patch.
    assert pointing_game(heat, middle) == 1
    assert pointing_game(heat, middle + np.array([0.001, 0, 0, 0])) == 0
    assert pointing_game(heat, np.array([[0.5, 0.25, 0.625, 0.5]])) == 0  # The centre is on the open edge.
    assert pointing_game(-heat - 1, right) == 0  # Maps may be negative.


def test_an_even_map_scores_the_area_of_the_box() -> None:
    even = np.full((14, 14), 0.1, np.float32)
    assert pointing_game(even, np.array([[0, 0, 0.5, 0.5]])) == 0.25
    assert energy_inside(even, np.array([[0.1, 0.3, 0.4, 0.95]])) == pytest.approx(0.3 * 0.65)


def test_view_centre_hit() -> None:
    assert view_centre_hit(np.array([[0.5, 0.5, 1, 1]])) == 1
    assert view_centre_hit(np.array([[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5]])) == 0
    assert view_centre_hit(np.array([[0, 0, 0.1, 0.1], [0.4, 0.4, 0.6, 0.6]])) == 1


def test_box_centre_hit() -> None:
    truth = np.array([[0, 0, 0.5, 0.5], [0.75, 0.5, 1, 1]])
    table = {
        (0.2, 0.1, 0.4, 0.3): True,
        (0, 0, 0.99, 0.99): True,  # Only the centre counts, however large the box is.
        (0, 0, 1, 1): False,  # The centre is on the open edge.
        (0.5, 0.5, 1, 1): True,  # The centre is on the left edge of the second box.
        (0.5, 0.5, 0.99, 1): False,
        (0.8, 0, 0.9, 1): True,
        (0.8, 0, 0.9, 0.9): False,  # The centre is in the right columns but not in the right rows.
        (-1, -1, 1.5, 1.5): True,
        (0.25, 0.25, 0.25, 0.25): True,
    }
    for box, expected in table.items():
        assert box_centre_hit(np.array(box), truth) is expected, box
        assert box_centre_hit(np.array(box), truth[::-1]) is expected
    assert box_centre_hit(np.array([0.8, 0, 0.9, 1]), truth[:1]) is False


def test_box_centre_hit_equals_a_loop() -> None:
    rng = np.random.default_rng(3)
    found = []
    for box in random_boxes(rng, 200, 0.3):
        truth = random_boxes(rng, 2, 0.3)
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        found.append(box_centre_hit(box, truth))
        assert found[-1] == any(left <= x < right and top <= y < bottom for left, top, right, bottom in truth.tolist())
    assert 40 < sum(found) < 160


def test_coverage_and_energy_count_points() -> None:
    """The boxes overlap, cut patches and reach out of the view."""
    rng = np.random.default_rng(2)
    grid, fine = 7, 60
    for count in (1, 2, 5):
        boxes = np.round(random_boxes(rng, count, 0.3) * grid * fine) / (grid * fine)
        points = (np.arange(grid * fine) + 0.5) / (grid * fine)
        inside = np.zeros((grid * fine, grid * fine), bool)
        for left, top, right, bottom in boxes:
            inside |= ((top <= points) & (points < bottom))[:, None] & ((left <= points) & (points < right))
        expected = inside.reshape(grid, fine, grid, fine).mean((1, 3))
        assert patch_coverage(boxes, grid) == pytest.approx(expected, abs=1e-9)
        heat = rng.uniform(size=(grid, grid)).astype(np.float32)
        assert energy_inside(heat, boxes) == pytest.approx((heat * expected).sum() / heat.sum(), rel=1e-6)
    assert energy_inside(np.zeros((grid, grid), np.float32), boxes) == 0
    assert patch_coverage(np.zeros((0, 4)), 3).tolist() == np.zeros((3, 3)).tolist()


@pytest.mark.parametrize("grid", [1, 2, 5, 8])
def test_best_grid_box_is_the_best_of_all_rectangles(grid: int) -> None:
    lines = np.arange(grid + 1) / grid
    every = np.array(
        [
            (left, top, right, bottom)
            for left, right in itertools.combinations(lines, 2)
            for top, bottom in itertools.combinations(lines, 2)
        ]
    )
    rng = np.random.default_rng(grid)
    small = random_boxes(rng, 40)
    small[:, 2:] = small[:, :2] + (small[:, 2:] - small[:, :2]) / 8
    for box in (*random_boxes(rng, 40), *small, *random_boxes(rng, 40, 0.5)):
        best = best_grid_box(box[None], grid)
        assert iou(best, box) == pytest.approx(iou(every, box).max())
        assert iou(best, box) == 0 or best.tolist() in every.tolist()
    for count in (2, 3, 5):
        boxes = random_boxes(rng, count)
        best = best_grid_box(boxes, grid)
        assert best.shape == (4,)
        assert best_iou(best, boxes) == pytest.approx(iou(every[:, None], boxes).max())
        assert best.tolist() in every.tolist()
    assert best_grid_box(every[-1:], grid).tolist() == every[-1].tolist()
    outside = np.array([[1.5, 0, 2, 1]])
    assert best_iou(best_grid_box(outside, grid), outside) == 0  # The box is outside the view.


def test_levels_follow_the_papers() -> None:
    assert (region_metrics.RECALL_KS, region_metrics.IOU_LEVELS) == ((1, 5, 10), (0.3, 0.5, 0.7))
    assert (region_metrics.PRECISION_K, region_metrics.PRECISION_IOU) == (20, 0.5)
