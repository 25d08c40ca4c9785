"""Exact nearest-neighbour search over the global tokens by FAISS, with a derived file that can always be rebuilt."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from flairsearch.core.arrays import positions_of
from flairsearch.core.types import Candidates
from flairsearch.store.derived_files import checksum_matches


class FaissIndex:
    """A flat inner-product index of float16 unit vectors, 2 D bytes per view; memory-mapped if loaded from a file."""

    def __init__(self, ids: NDArray[np.int64], index: faiss.Index) -> None:
        """ids: i64[N], the view of each vector of the index, ascending."""
        self._ids, self._index = ids, index

    @staticmethod
    def build(ids: NDArray[np.int64], dim: int, pooled: Iterable[NDArray[np.float16]]) -> FaissIndex:
        """Build an index of views `ids` i64[N]. pooled: their unit vectors in order, in pieces f16[n, D]."""
        index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        for piece in pooled:
            index.add(np.ascontiguousarray(piece, np.float32))
        return FaissIndex(ids, index)

    def save(self, path: Path) -> None:
        """Write the file that `load` maps. Raises OSError."""
        with path.open("wb") as stream:
            faiss.write_index(self._index, faiss.PyCallbackIOWriter(stream.write))  # type: ignore[attr-defined]

    @staticmethod
    def load(path: Path, ids: NDArray[np.int64], dim: int) -> FaissIndex | None:
        """Return the index in a file; None if it is damaged or not an index of these views.

        The checksum in the file's name is verified first, because FAISS does not validate what it reads.
        """
        try:
            if not checksum_matches(path):
                return None
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except (OSError, RuntimeError):
            return None
        return FaissIndex(ids, index) if (index.ntotal, index.d) == (len(ids), dim) else None

    def __len__(self) -> int:
        return len(self._ids)

    def search(self, text: NDArray[np.float32], count: int, among: NDArray[np.int64] | None = None) -> Candidates:
        """Return the `count` views with the largest cosine to a text vector f32[D] of any length; ties by view id.

        among: view ids i64[n], ascending; only these views are searched.
        """
        allowed = None if among is None else positions_of(self._ids, among)
        total = len(self) if allowed is None else len(allowed)
        count = min(count, total)
        if not count:
            return Candidates(np.zeros(0, np.int64), np.zeros(0, np.float32))
        unit = (text / max(float(np.linalg.norm(text)), 1e-12))[None].astype(np.float32)
        options = None if allowed is None else _restrict_to(allowed, len(self))
        fetch = min(count + 1, total)
        scores, positions = self._index.search(unit, fetch, params=options)
        while fetch < total and scores[0, -1] == scores[0, count - 1]:  # A tie at the cut must be fetched whole.
            fetch = min(2 * fetch, total)
            scores, positions = self._index.search(unit, fetch, params=options)
        order = np.lexsort((positions[0], -scores[0]))[:count]
        return Candidates(self._ids[positions[0][order]], scores[0][order])


def _restrict_to(positions: NDArray[np.int64], total: int) -> faiss.SearchParameters:
    """Return parameters that restrict a search to positions i64[n] of `total` vectors, as a bit mask."""
    mask = np.zeros(total, np.bool_)
    mask[positions] = True
    selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))  # type: ignore[call-arg, arg-type]
    return faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
