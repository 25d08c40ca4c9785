"""Where the tiles of a photo lie: equal overlapping squares that cover it. Whole pixels of the upright photo."""

from __future__ import annotations

from flairsearch.core.types import Box

LARGEST = 2  # times that a tile is enlarged at most: of mosaics, 1.7 times finds more than the whole, 2.3 no more


def most_tiles(count: int) -> int:
    """How many `tiles:count` may be: half as many again, as there is no good grid of four squares for 4:3 or 3:2."""
    return count + count // 2


def lay_tiles(width: int, height: int, count: int, size: int) -> list[Box]:
    """About `count` tiles of a photo, row by row; none where the finest tile would be the whole photo.

    Neighbours share a third of a tile's side or more: what is no larger than that third is whole in one of them.
    Of all grids of at most most_tiles(count) tiles, that of the smallest tiles is taken, then of the fewest; more than
    `count` must be as much smaller as they are more: side^2 max(tiles, count) is least. So tiles:4 is 2 x 2 tiles of
    0.6 times the side of a square photo; of 4:3, 3:2 or 16:9 it is 3 x 2 of 0.60, 0.64 or 0.76 times the short side.
    No tile has a side below 1 / LARGEST of `size`, the pixels of a view, but where the photo itself has.
    A photo longer than so many squares reach is cut into rectangles as high, or wide, as it is: every pixel is in one.
    """
    grids = []
    for columns in range(1, most_tiles(count) + 1):
        for rows in range(1, most_tiles(count) // columns + 1):
            side = max(_side(width, columns), _side(height, rows))
            if LARGEST * side >= size:
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
    """The smallest whole side with which so many in a line reach over a length, a third of each shared: rounded up."""
    return -(-3 * length // (2 * tiles + 1))


def _starts(rest: int, tiles: int) -> list[int]:
    """Where so many tiles begin, evenly spaced from 0 to `rest`."""
    return [0] if tiles == 1 else [i * rest // (tiles - 1) for i in range(tiles)]
