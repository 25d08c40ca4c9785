"""Hits by hand, for what only shows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flairsearch.core.hits import Hit, PhraseMatch, Region
from flairsearch.core.types import Frame


def hit_of(path: Path) -> Hit:
    """A red photo of 400 x 300 whose best region is its middle."""
    regions = (Region((100, 75, 300, 225), 0.5), Region((0, 0, 50, 50), 0.4))
    phrase = PhraseMatch("a puppy", 0.3, regions, np.zeros((4, 4), np.float32), Frame(400, 300, 0, 0, 400, 300))
    return Hit(1, str(path), 0.3, 0.2, 400, 300, regions, (phrase,))
