"""Lay tiles over a photo: equal, overlapping squares that cover it, in whole pixels of the upright photo."""

from __future__ import annotations

from flairsearch.core.types import Box

# A tile is enlarged at most this many times. On mosaics, tiles enlarged 1.7 times improve results; 2.3 times do not.
MAX_ENLARGEMENT = 2


def max_tiles(count: int) -> int:
    """Return the largest number of tiles of `tiles:count`: 1.5 times count, since 4:3 and 3:2 need 3 x 2 tiles."""
    return count + count // 2


def lay_tiles(width: int, height: int, count: int, size: int) -> list[Box]:
    """Return about `count` tiles of a photo, row by row; none if the finest tile would be the whole photo.

    size: the side of a view in pixels.
    Neighbours overlap by at least a third of a tile's side: an object up to that size is whole in one of them.
    Of all grids of at most max_tiles(count) tiles, choose the one that minimises side^2 x max(tiles, count), i.e. the
    finest tiles; extra tiles must pay for themselves in area. Ties go to fewer tiles. So tiles:4 gives a square photo
    2 x 2 tiles of 0.6 times its side, and photos of 4:3, 3:2 or 16:9 3 x 2 tiles of 0.60, 0.64 or 0.76 times the short
    side. No tile is smaller than `size` / MAX_ENLARGEMENT, unless the photo is.
    The tiles of a very long photo are rectangles over its whole short side, so that every pixel is in a tile.
    """
    grids = []
    for columns in range(1, max_tiles(count) + 1):
        for rows in range(1, max_tiles(count) // columns + 1):
            side = max(_side(width, columns), _side(height, rows))
            if MAX_ENLARGEMENT * side >= size:
                grids.append((side**2 * max(columns * rows, count), columns * rows, side, columns, rows))
    if not grids:
        return []
    _, tiles, side, columns, rows = min(grids)
    if tiles == 1:
        return []
    wide, high = min(side, width), min(side, height)
    return [
        (left, top, left + wide, top + high)
        for top in _starts(height - high, rows)
        for left in _starts(width - wide, columns)
    ]


def _side(length: int, tiles: int) -> int:
    """Return the smallest whole side of `tiles` tiles in a line that cover a length and overlap by a third."""
    return -(-3 * length // (2 * tiles + 1))


def _starts(rest: int, tiles: int) -> list[int]:
    """Return the starts of the tiles, evenly spaced from 0 to `rest`."""
    return [0] if tiles == 1 else [i * rest // (tiles - 1) for i in range(tiles)]
