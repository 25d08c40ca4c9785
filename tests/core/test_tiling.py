"""Tiles cover every pixel, are equal squares (rectangles in long photos), and have about the number asked for."""

import numpy as np
import pytest

from flairsearch.core.tiling import MAX_ENLARGEMENT, lay_tiles, max_tiles

RNG = np.random.default_rng(5)
SIZES = [tuple(int(2**power) for power in RNG.uniform(0, 11, 2)) for _ in range(60)]
EDGES = [(1, 1), (1, 5000), (5000, 1), (2, 3), (223, 224), (224, 224), (448, 448), (640, 480), (111, 112), (6000, 40)]


def shape(width, height, count, size=224):
    """The grid of a photo's tiles: (columns, rows, width of a tile, height of a tile)."""
    tiles = lay_tiles(width, height, count, size)
    left, top, right, bottom = tiles[0]
    return len({tile[0] for tile in tiles}), len({tile[1] for tile in tiles}), right - left, bottom - top


@pytest.mark.parametrize("count", [2, 3, 4, 6, 9, 17, 64])
@pytest.mark.parametrize("size", [16, 64, 224])
def test_any_photo_is_covered_by_equal_tiles(count, size):
    for width, height in SIZES + EDGES:
        tiles = lay_tiles(width, height, count, size)
        if not tiles:
            continue
        assert 2 <= len(tiles) <= max_tiles(count)
        assert len(set(tiles)) == len(tiles)
        assert tiles == sorted(tiles, key=lambda tile: (tile[1], tile[0]))
        ((wide, high),) = {(right - left, bottom - top) for left, top, right, bottom in tiles}
        assert MAX_ENLARGEMENT * max(wide, high) >= size  # No tile is enlarged more than that.
        assert wide == high or (high == height and wide > high) or (wide == width and high > wide)
        covered = np.zeros((height, width), np.bool_)
        for left, top, right, bottom in tiles:
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
            covered[top:bottom, left:right] = True
        assert covered.all()


@pytest.mark.parametrize("count", [4, 9, 30])
def test_an_object_of_a_third_of_a_tile_is_whole_in_one_tile(count):
    """This holds at any position, so a small object is not cut in every tile that shows it."""
    for width, height in [(448, 448), (640, 480), (3000, 2000), (2000, 3000), (1920, 1080), (5000, 700)]:
        tiles = np.array(lay_tiles(width, height, count, 224))
        side = int(tiles[0, 2] - tiles[0, 0]), int(tiles[0, 3] - tiles[0, 1])
        for axis, length in enumerate((width, height)):
            extent = side[axis] // 3 - 1
            starts = np.arange(length - extent + 1)[:, None]
            whole = (tiles[:, axis] <= starts) & (starts + extent <= tiles[:, axis + 2])
            assert whole.any(1).all()


def brute_force(width, height, count, size):
    """The best grid by trying all sides: (cost, tiles, width, height); None if the best tile is the whole photo."""
    best = None
    for columns in range(1, 100):
        for rows in range(1, 100):
            if columns * rows > max_tiles(count):
                continue
            side = 1
            while (
                side + (columns - 1) * side * 2 / 3 < width - 1e-9 or side + (rows - 1) * side * 2 / 3 < height - 1e-9
            ):
                side += 1
            cost = side * side * max(columns * rows, count)
            if side >= size / MAX_ENLARGEMENT and (best is None or (cost, columns * rows) < best[:2]):
                best = cost, columns * rows, min(side, width), min(side, height)
    return None if best is None or best[1] == 1 else best


def test_the_grid_is_the_best_of_all():
    for width, height in [(100, 100), (120, 90), (90, 60), (160, 90), (30, 200), (300, 20), (33, 34), (8, 9)]:
        for count in (2, 3, 4, 7, 12):
            for size in (8, 40):
                best = brute_force(width, height, count, size)
                if best is None:
                    assert lay_tiles(width, height, count, size) == []
                else:
                    columns, rows, wide, high = shape(width, height, count, size)
                    assert (columns * rows, wide, high) == best[1:]


def test_photos_of_common_aspect_ratios():
    assert shape(2000, 2000, 4) == (2, 2, 1200, 1200)
    assert shape(448, 448, 4) == (2, 2, 269, 269)
    assert shape(4000, 3000, 4) == (3, 2, 1800, 1800)
    assert shape(3000, 4000, 4) == (2, 3, 1800, 1800)
    assert shape(6000, 4000, 4) == (3, 2, 2572, 2572)
    assert shape(1920, 1080, 4) == (3, 2, 823, 823)
    assert shape(2000, 2000, 9) == (3, 3, 858, 858)
    assert lay_tiles(448, 448, 4, 224) == [
        (0, 0, 269, 269),
        (179, 0, 448, 269),
        (0, 179, 269, 448),
        (179, 179, 448, 448),
    ]


def test_long_photos():
    assert shape(3000, 1000, 4) == (4, 1, 1000, 1000)
    assert shape(10_000, 1000, 4) == (6, 1, 2308, 1000)  # Squares would not reach.
    assert shape(1000, 10_000, 4) == (1, 6, 1000, 2308)
    assert shape(5000, 1, 4) == (6, 1, 1154, 1)


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (100, 80), (130, 130), (185, 185)])
def test_tiny_photos_have_no_tiles(size):
    """A tile would be enlarged more than twice, or be nearly the whole photo."""
    assert lay_tiles(*size, 4, 224) == []
    assert lay_tiles(*size, 64, 224) == []
    assert lay_tiles(186, 186, 4, 224)
