"""Boxes of painted squares; boxes of any heat against scipy and a threshold loop; regions against counted pixels."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flairsearch.core.hits import Region
from flairsearch.core.types import Box, Frame
from flairsearch.regions.boxes import (
    CELLS_PER_PATCH,
    MAX_REGIONS,
    MIN_PART_FRACTION,
    MIN_SCORE_RATIO,
    NMS_OVERLAP,
    SIMILARITY_WEIGHT,
    SMOOTHING_SIGMA,
    ViewBox,
    area,
    find_boxes,
    find_heat,
    merge_regions,
    patch_mask,
)

ndimage = pytest.importorskip("scipy.ndimage")
pytestmark = pytest.mark.filterwarnings("error")  # Overflows and divisions by zero fail a test.

WHOLE = [(0.0, 0.0, 1.0, 1.0)]
GRIDS = [1, 2, 7, 14, 24]


def paint(grid: int, *squares: tuple[int, int, int, int]) -> np.ndarray:
    """Return f32[P] with 1 inside the squares (left, top, right, bottom) in patches and 0 elsewhere."""
    values = np.zeros((grid, grid), np.float32)
    for left, top, right, bottom in squares:
        values[top:bottom, left:right] = 1
    return values.ravel()


def find(attention: np.ndarray, similarity: np.ndarray | None = None) -> list[ViewBox]:
    return find_boxes(find_heat(attention, attention if similarity is None else similarity))


def distance(box: ViewBox, square: tuple[int, int, int, int], grid: int) -> float:
    """Return the largest distance of an edge of the box from the square's, in patches."""
    return float(np.abs(np.array(box) * grid - square).max())


def squares(grid: int, low: int, high: int) -> list[tuple[int, int, int, int]]:
    """Return rectangles with sides of `low` to `high` patches in corners, at edges, next to edges and in the middle."""
    sides = [*range(low, high, max(1, (high - low) // 6)), high]
    found = [
        (left, top, left + wide, top + tall)
        for wide, tall in product(sides, sides)
        for left, top in product(*({0, 1, (grid - side) // 2, grid - side - 1, grid - side} for side in (wide, tall)))
    ]
    return [square for square in found if min(square) >= 0 and max(square) <= grid]


# -- painted squares


RECOVERED = [  # Grid, sides of the smallest and the largest square, tolerance of an edge in patches.
    (7, 4, 4, 0),
    (8, 5, 5, 0),
    (14, 7, 10, 0),
    (24, 8, 19, 0),  # Large squares are found exactly.
    (7, 3, 7, 0.5),
    (8, 4, 8, 0.5),
    (14, 4, 14, 0.5),
    (24, 5, 24, 0.5),
    (7, 1, 7, 1),
    (8, 1, 8, 1),
    (14, 1, 14, 1),  # Squares may be smaller than the blur.
]


def test_a_painted_square_is_found(subtests: pytest.Subtests) -> None:
    for grid, low, high, most in RECOVERED:
        with subtests.test(grid=grid, low=low, high=high):
            some = squares(grid, low, high)
            assert len(some) >= 9
            for square in some:
                (box,) = find(paint(grid, square))
                assert distance(box, square, grid) <= most + 1e-9, square


@pytest.mark.parametrize("grid", [14, 24])
def test_a_square_in_one_of_the_two_maps_is_found(grid: int) -> None:
    """The other map is constant; its value does not matter."""
    for square in squares(grid, grid // 2, grid // 2):
        for value in (0, 1, -0.3, 1e-30):
            even = np.full(grid * grid, value, np.float32)
            for maps in ((paint(grid, square), even), (even, paint(grid, square))):
                (box,) = find(*maps)
                assert distance(box, square, grid) == 0


def test_two_squares_are_two_boxes() -> None:
    grid, rng, seen = 14, np.random.default_rng(0), 0
    for _ in range(1000):
        wide, high = rng.integers(3, 8, 2), rng.integers(3, 8, 2)
        left, top = rng.integers(0, grid - wide + 1), rng.integers(0, grid - high + 1)
        gap = max(max(left) - min(left + wide), max(top) - min(top + high))
        if gap < 3:
            continue
        two = [tuple(map(int, (left[i], top[i], left[i] + wide[i], top[i] + high[i]))) for i in (0, 1)]
        boxes = find(paint(grid, *two))
        assert len(boxes) == 2
        near = 0.5 if min(*wide, *high) >= 4 else 1
        pairs = (zip(boxes, order, strict=True) for order in (two, two[::-1]))
        assert min(max(distance(box, one, grid) for box, one in pair) for pair in pairs) <= near + 1e-9
        seen += 1
    assert seen > 100


def test_the_hotter_square_comes_first() -> None:
    large, small = (0, 0, 6, 6), (10, 10, 14, 14)
    assert [distance(*pair, 14) <= 0.5 for pair in zip(find(paint(14, large, small)), (large, small), strict=True)]
    hot = paint(14, large) + 3 * paint(14, small)
    assert distance(find(hot)[0], small, 14) <= 0.5 + 1e-9


def test_at_most_three_boxes_and_no_specks() -> None:
    corners = paint(14, *((x, y, x + 4, y + 4) for x in (0, 10) for y in (0, 10)))
    assert len(find(corners)) == MAX_REGIONS == 3
    (box,) = find(paint(24, (0, 0, 24, 12), (20, 20, 22, 22)))
    assert distance(box, (0, 0, 24, 12), 24) <= 0.5


def test_one_part_of_any_shape_is_one_box() -> None:
    ring = paint(14, (1, 1, 13, 13)) - paint(14, (4, 4, 10, 10))
    (box,) = find(ring)
    assert distance(box, (1, 1, 13, 13), 14) <= 0.5 + 1e-9


@given(grid=st.sampled_from(GRIDS) | st.integers(1, 24), value=st.floats(-3e38, 3e38))
@example(grid=1, value=3e38)
@example(grid=1, value=1e-45)
@example(grid=2, value=-3e38)
@example(grid=2, value=-1)
@example(grid=7, value=0)
@example(grid=7, value=0.1)
@example(grid=14, value=1)
@example(grid=14, value=1e-45)
@example(grid=14, value=3e38)
@example(grid=24, value=0.1)
@example(grid=24, value=1e-38)
@example(grid=24, value=-3e38)
def test_a_constant_heat_map_gives_the_whole_view(grid: int, value: float) -> None:
    even = np.full(grid * grid, value, np.float32)
    assert not find_heat(even, even).any()
    assert find(even) == WHOLE
    assert find_boxes(even.reshape(grid, grid)) == WHOLE
    if 1e-30 < abs(value) < 1e30:  # Only in this range do rounding errors appear.
        assert find(even * (1 + 1e-7 * np.random.default_rng(0).normal(size=even.size)).astype(np.float32)) == WHOLE


# -- against other implementations


def heat_oracle(attention: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    total = np.zeros(attention.size)
    for weight, values in ((1, attention.astype(np.float64)), (SIMILARITY_WEIGHT, similarity.astype(np.float64))):
        deviation = np.sqrt(((values - values.mean()) ** 2).mean())
        total += weight * (values - values.mean()) / deviation
    grid = int(attention.size**0.5)
    return ndimage.gaussian_filter(total.reshape(grid, grid), SMOOTHING_SIGMA, mode="nearest", radius=3)


def refined(heat: np.ndarray) -> np.ndarray:
    """Interpolate the heat at the centre of each fine cell between the centres of four patches."""
    place = (np.arange(CELLS_PER_PATCH * len(heat)) + 0.5) / CELLS_PER_PATCH - 0.5
    where = np.meshgrid(place, place, indexing="ij")
    return ndimage.map_coordinates(heat.astype(np.float64), where, order=1, mode="nearest")


def otsu_oracle(values: np.ndarray) -> float:
    """Try every threshold between two values that occur."""
    found = np.unique(values)
    variance = {}
    for level in (found[1:] + found[:-1]) / 2:
        low, high = values[values < level], values[values >= level]
        variance[level] = len(low) * low.var() + len(high) * high.var()
    return float(min(variance, key=variance.__getitem__))


def boxes_oracle(heat: np.ndarray) -> list[ViewBox]:
    fine = refined(heat)
    side, level = len(fine), otsu_oracle(fine.ravel())
    labels, count = ndimage.label(fine >= level)
    numbers = np.arange(1, count + 1)
    cells = ndimage.sum_labels(np.ones_like(fine), labels, numbers)
    excess = ndimage.sum_labels(fine - level, labels, numbers)
    places = ndimage.find_objects(labels)
    order = [i for i in np.argsort(-excess, kind="stable") if cells[i] >= MIN_PART_FRACTION * cells.max()]
    edges = ((places[i][1], places[i][0]) for i in order[:MAX_REGIONS])
    return [(x.start / side, y.start / side, x.stop / side, y.stop / side) for x, y in edges]


@given(
    grid=st.sampled_from(GRIDS[1:]) | st.integers(2, 24),
    scale=st.sampled_from([1, 1e-3, 1e30]),
    seed=st.integers(0, 2**32 - 1),
)
@example(grid=2, scale=1, seed=2)
@example(grid=2, scale=1e30, seed=2)
@example(grid=7, scale=1e-3, seed=7)
@example(grid=14, scale=1e30, seed=14)
@example(grid=24, scale=1, seed=24)
@example(grid=24, scale=1e-3, seed=24)
def test_heat_equals_scipy(grid: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for power in (1, 5, 30):
        attention = (scale * rng.random(grid * grid) ** power).astype(np.float32)
        similarity = rng.normal(size=grid * grid).astype(np.float32)
        heat = find_heat(attention, similarity)
        assert heat.dtype == np.float32
        assert np.abs(heat - heat_oracle(attention, similarity)).max() <= 2e-6 * max(1, np.abs(heat).max())


@pytest.mark.parametrize("grid", GRIDS[1:])
def test_boxes_equal_scipy_and_a_loop_over_all_thresholds(grid: int) -> None:
    rng, several = np.random.default_rng(grid), 0
    for i in range(60 if grid < 20 else 20):
        noise = rng.normal(size=(grid, grid)) ** (1 + i % 3) + 3 * (i % 2)
        heat = ndimage.gaussian_filter(noise, rng.uniform(0, 2)).astype(np.float32)
        found = find_boxes(heat)
        assert np.abs(np.array(found) - boxes_oracle(heat)).max() <= 1e-12
        assert all(type(edge) is float for box in found for edge in box)
        several += len(found) > 1
    assert several > 5 or grid == 2


@pytest.mark.parametrize("grid", [7, 14])
def test_boxes_of_few_values(grid: int) -> None:
    """No threshold may separate equal values."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        heat = rng.choice([0, 1, 4, 10], (grid, grid), p=[0.6, 0.2, 0.15, 0.05]).astype(np.float32)
        assert np.abs(np.array(find_boxes(heat)) - boxes_oracle(heat)).max() <= 1e-12


def test_parts_are_four_connected_and_rows_do_not_wrap() -> None:
    """Cells that touch at a corner, and the ends of successive rows, are separate parts."""
    touching = np.zeros((14, 14), np.float32)
    touching[2:6, 2:6] = touching[6:10, 6:10] = 1
    assert len(find_boxes(touching)) == len(boxes_oracle(touching)) == 2
    ends = np.zeros((14, 14), np.float32)
    ends[0:4, 11:] = ends[4:8, :3] = 1
    assert len(find_boxes(ends)) == 2


# -- extreme values


@pytest.mark.parametrize("grid", [7, 14, 24])
def test_scale_and_offset_do_not_change_the_boxes(grid: int) -> None:
    rng = np.random.default_rng(grid)
    for _ in range(20):
        attention, similarity = ndimage.gaussian_filter(rng.random((2, grid, grid)), (0, 1, 1)).astype(np.float32)
        attention, similarity = attention.ravel(), similarity.ravel()
        heat = find_heat(attention, similarity)
        for factor in (2.0**-100, 2.0**120):  # Powers of two scale exactly.
            assert np.array_equal(find_heat(attention * np.float32(factor), similarity), heat)
            assert np.array_equal(find_heat(attention, similarity * np.float32(factor)), heat)
            assert find_boxes(heat * np.float32(factor)) == find_boxes(heat)
        for factor, shift in ((3, 0), (0.7, 0.3), (1e-30, 0), (1, -1)):
            other = find_heat(attention * np.float32(factor) + np.float32(shift), similarity)
            assert np.abs(other - heat).max() <= 1e-4
            other = find_heat(attention, similarity * np.float32(factor) + np.float32(shift))
            assert np.abs(other - heat).max() <= 1e-4
            assert find_boxes(heat * np.float32(factor)) == find_boxes(heat)


@given(factor=st.floats(1e-44, 3e38) | st.floats(-3e38, -1e-44))
@example(factor=1e-44)
@example(factor=1e-38)
@example(factor=1e-25)
@example(factor=1e18)
@example(factor=1e20)
@example(factor=1e37)
@example(factor=3e38)
@example(factor=-1e-44)
@example(factor=-3e38)
def test_squared_values_do_not_overflow_or_underflow(factor: float) -> None:
    """The square of a float32 above 2e19 or below 1e-23 is not a finite positive float32."""
    square = (3, 4, 10, 11)
    painted = (
        paint(14, square) if factor > 0 else 1 - paint(14, square)
    )  # The square stays hotter than its surroundings.
    values = painted * np.float32(factor)
    (box,) = find(values)
    assert distance(box, square, 14) == 0
    (box,) = find_boxes(values.reshape(14, 14))
    assert distance(box, square, 14) <= 0.5


@given(grid=st.sampled_from(GRIDS), seed=st.integers(0, 2**32 - 1))
@example(grid=1, seed=0)
@example(grid=2, seed=0)
@example(grid=7, seed=0)
@example(grid=14, seed=0)
@example(grid=24, seed=0)
def test_boxes_of_any_heat_lie_in_the_view(grid: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = [
        rng.normal(size=grid * grid),
        -rng.random(grid * grid),
        rng.choice([0, 1e-45, 1e-40, 3e38, -3e38], grid * grid),
        rng.random(grid * grid) ** 200,
        np.eye(grid).ravel(),
        np.arange(grid * grid),
    ]
    frame = Frame(3, 2, 0, 0, 3, 2)
    for attention in kinds:
        for similarity in kinds:
            heat = find_heat(attention.astype(np.float32), similarity.astype(np.float32))
            assert np.isfinite(heat).all()
            for box in [*find_boxes(heat), *find_boxes(attention.reshape(grid, grid).astype(np.float32))]:
                left, top, right, bottom = box
                assert 0 <= left < right <= 1
                assert 0 <= top < bottom <= 1
                pixels = frame.to_pixels(*box)  # The photo is smaller than the grid.
                assert area(pixels) >= 1
                assert 0 <= pixels[0] < pixels[2] <= 3
                assert 0 <= pixels[1] < pixels[3] <= 2


@pytest.mark.parametrize("grid", [7, 14])
def test_mirrored_heat_has_mirrored_boxes(grid: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        heat = ndimage.gaussian_filter(rng.normal(size=(grid, grid)), 1).astype(np.float32)
        boxes = np.array(find_boxes(heat))
        assert np.abs(boxes[:, [1, 0, 3, 2]] - find_boxes(heat.T)).max() <= 1e-12
        mirrored = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], 1)
        assert np.abs(mirrored - find_boxes(heat[:, ::-1])).max() <= 1e-12


# -- patches in a box


@given(grid=st.sampled_from(GRIDS) | st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
@example(grid=1, seed=1)
@example(grid=2, seed=2)
@example(grid=7, seed=7)
@example(grid=14, seed=14)
@example(grid=24, seed=24)
def test_patch_mask_equals_a_loop(grid: int, seed: int) -> None:
    """Also for boxes that contain no patch centre: then the row or column nearest to the box's centre is marked."""
    rng = np.random.default_rng(seed)
    centres = [(i + 0.5) / grid for i in range(grid)]
    for _ in range(100):
        (left, right), (top, bottom) = np.sort(rng.uniform(-0.2, 1.2, (2, 2)), axis=1) * rng.choice([0.1, 1])
        found = patch_mask((left, top, right, bottom), grid).reshape(grid, grid)
        columns = [left <= x < right for x in centres]
        rows = [top <= y < bottom for y in centres]
        for some, low, high in ((columns, left, right), (rows, top, bottom)):
            if not any(some):
                middle = (low + high) / 2
                some[min(range(grid), key=lambda i: abs(centres[i] - middle))] = True
        assert [[r and c for c in columns] for r in rows] == found.tolist()


def test_edges_on_centres() -> None:
    """An edge often falls on a patch's centre; the patch then belongs to the box on the right of the edge only."""
    for grid in range(1, 65):
        for cut in range(1, CELLS_PER_PATCH * grid):
            edge = cut / (CELLS_PER_PATCH * grid)
            left, right = patch_mask((0, 0, edge, 1), grid), patch_mask((edge, 0, 1, 1), grid)
            assert right.reshape(grid, grid)[0].sum() == max(grid - cut // 2, 1), (grid, cut)
            if 1 < cut < CELLS_PER_PATCH * grid - 1:
                assert np.array_equal(left, ~right), (grid, cut)
        assert patch_mask(WHOLE[0], grid).all()
        # Boxes outside of the view mark its last or its first patch.
        assert patch_mask((2, 2, 3, 3), grid).nonzero()[0].tolist() == [grid * grid - 1], grid
        assert patch_mask((-1, -1, 0, 0), grid).nonzero()[0].tolist() == [0], grid


# -- regions of several views


def merge_oracle(regions: list[Region]) -> list[Region]:
    """Repeatedly take the best region and drop overlapping and weak ones; boxes are sets of pixels."""

    def pixels(box: Box) -> set[tuple[int, int]]:
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    left, kept = list(regions), []
    while left and len(kept) < MAX_REGIONS:
        best = max(left, key=lambda region: (region.score, [-edge for edge in region.box]))
        kept.append(best)
        ours = pixels(best.box)
        left = [
            other
            for other in left
            if other.score >= MIN_SCORE_RATIO * kept[0].score
            and len(ours & pixels(other.box)) <= NMS_OVERLAP * min(len(ours), len(pixels(other.box)))
        ]
    return kept


def test_merge_equals_counting_pixels() -> None:
    rng, sizes = np.random.default_rng(0), set()
    for _ in range(400):
        regions = []
        for _ in range(rng.integers(0, 9)):
            left, top, wide, high = rng.integers(0, 9, 2).tolist() + rng.integers(1, 9, 2).tolist()
            regions.append(Region((left, top, left + wide, top + high), float(rng.choice([0.1, 0.2, 0.25, 0.4, 0.41]))))
        found = merge_regions(regions)
        assert list(found) == merge_oracle(regions)
        assert merge_regions([regions[i] for i in rng.permutation(len(regions))]) == found
        assert merge_regions(found) == found
        sizes.add(len(found))
    assert sizes == {0, 1, 2, 3}


def test_merge_at_the_thresholds() -> None:
    half = [Region((0, 0, 10, 10), 0.4), Region((5, 0, 15, 10), 0.3)]  # An overlap of exactly one half is allowed.
    assert merge_regions(half) == tuple(half)
    more = [Region((0, 0, 10, 10), 0.4), Region((4, 0, 14, 10), 0.3)]
    assert merge_regions(more) == tuple(more[:1])
    nested = [
        Region((0, 0, 100, 100), 0.3),
        Region((1, 1, 2, 2), 0.4),
    ]  # The overlap refers to the smaller box, even if it is the better one.
    assert merge_regions(nested) == (nested[1],)
    weak = [Region((0, 0, 1, 1), 0.4), Region((5, 5, 6, 6), 0.2), Region((8, 8, 9, 9), 0.1999)]
    assert merge_regions(weak) == tuple(weak[:2])
    assert merge_regions(iter([Region((0, 0, 1, 1), -0.3)])) == (Region((0, 0, 1, 1), -0.3),)
    assert merge_regions([]) == ()
