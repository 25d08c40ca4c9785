"""The views of all indexed images as columns: 32 bytes per view, memory-mapped from a derived file if there is one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flairsearch.store.derived_files import DerivedFiles, checksum_matches

_KIND = "views"  # The kind of the derived file with the columns.


@dataclass(frozen=True)
class ViewColumns:
    """Columns i64[V] of all views, in ascending order of their ids."""

    id: NDArray[np.int64]  # The id of the view.
    content: NDArray[np.int64]  # The id of the content that the view shows.
    segment: NDArray[np.int64]  # The number of the segment that holds the view.
    row: NDArray[np.int64]  # The view's row in its segment.

    def only(self, mask: NDArray[np.bool_]) -> ViewColumns:
        """Return the views where mask bool[V] is true."""
        return ViewColumns(self.id[mask], self.content[mask], self.segment[mask], self.row[mask])

    def save(self, derived: DerivedFiles) -> None:
        """Write the derived file. Raises OSError."""
        with derived.atomic_write(_KIND) as path, path.open("wb") as stream:
            for column in (self.id, self.content, self.segment, self.row):
                stream.write(np.ascontiguousarray(column, "<i8").data)

    @staticmethod
    def load(derived: DerivedFiles) -> ViewColumns | None:
        """Map the derived file; None if it is missing or damaged, so that the catalogue must be read."""
        file = derived.find(_KIND)
        try:
            if file is None or not file.stat().st_size or file.stat().st_size % 32 or not checksum_matches(file):
                return None
            columns = np.memmap(file, "<i8", "r").view(np.ndarray).reshape(4, -1)
        except OSError:
            return None
        return ViewColumns(*columns)
