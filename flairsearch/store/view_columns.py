"""The views of all images that exist, as columns: 32 bytes a view, memory-mapped where the cache has them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flairsearch.store.derived_files import DerivedFiles, is_whole

_KIND = "views"


@dataclass(frozen=True)
class ViewColumns:
    """In the order of their ids."""

    id: NDArray[np.int64]
    content: NDArray[np.int64]
    segment: NDArray[np.int64]
    row: NDArray[np.int64]

    def only(self, chosen: NDArray[np.bool_]) -> ViewColumns:
        """The rows where chosen bool[V] is true."""
        return ViewColumns(self.id[chosen], self.content[chosen], self.segment[chosen], self.row[chosen])

    def save(self, cache: DerivedFiles) -> None:
        """Raises OSError when the cache cannot be written."""
        with cache.writing(_KIND) as path, path.open("wb") as stream:
            for column in (self.id, self.content, self.segment, self.row):
                stream.write(np.ascontiguousarray(column, "<i8").data)

    @staticmethod
    def load(cache: DerivedFiles) -> ViewColumns | None:
        """None when the cache has no whole ones: ask the catalogue."""
        file = cache.find(_KIND)
        try:
            if file is None or not file.stat().st_size or file.stat().st_size % 32 or not is_whole(file):
                return None
            columns = np.memmap(file, "<i8", "r").view(np.ndarray).reshape(4, -1)
        except OSError:
            return None
        return ViewColumns(*columns)
