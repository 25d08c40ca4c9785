"""Pooled vectors -> nearest views (FAISS, exact). A cache on disk, made again from the segments; never the truth."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from flairsearch.core.arrays import positions_of
from flairsearch.core.types import Candidates
from flairsearch.store.derived_files import is_whole


class FaissIndex:
    """Inner product of unit vectors, kept as float16: 2 D bytes a view, memory-mapped when they come from a file."""

    def __init__(self, ids: NDArray[np.int64], index: faiss.Index) -> None:
        """ids i64[N]: the views of the index's vectors, ascending."""
        self._ids, self._index = ids, index

    @staticmethod
    def build(ids: NDArray[np.int64], dim: int, pooled: Iterable[NDArray[np.float16]]) -> FaissIndex:
        """pooled: unit vectors f16[n, D] of the views `ids`, in their order, in pieces."""
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
        """None when the file is not a prefilter of these views, or not what was written: FAISS believes what it reads.

        The file's name carries its CRC-32 (store/derived_files.py).
        """
        try:
            if not is_whole(path):
                return None
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except (OSError, RuntimeError):
            return None
        return FaissIndex(ids, index) if (index.ntotal, index.d) == (len(ids), dim) else None

    def __len__(self) -> int:
        return len(self._ids)

    def search(self, text: NDArray[np.float32], count: int, among: NDArray[np.int64] | None = None) -> Candidates:
        """text f32[D], any length -> the `count` views of largest cosine; ties by view id.

        among: view ids i64[n], ascending: others are passed over, and cost next to nothing.
        """
        chosen = None if among is None else positions_of(self._ids, among)
        total = len(self) if chosen is None else len(chosen)
        count = min(count, total)
        if not count:
            return Candidates(np.zeros(0, np.int64), np.zeros(0, np.float32))
        unit = (text / max(float(np.linalg.norm(text)), 1e-12))[None].astype(np.float32)
        options = None if chosen is None else _only(chosen, len(self))
        fetch = min(count + 1, total)
        scores, places = self._index.search(unit, fetch, params=options)
        while fetch < total and scores[0, -1] == scores[0, count - 1]:  # FAISS cuts a tie anywhere: see it whole
            fetch = min(2 * fetch, total)
            scores, places = self._index.search(unit, fetch, params=options)
        order = np.lexsort((places[0], -scores[0]))[:count]
        return Candidates(self._ids[places[0][order]], scores[0][order])


def _only(chosen: NDArray[np.int64], total: int) -> faiss.SearchParameters:
    """FAISS looks at these places only, i64[n], of a total: a bit for each."""
    mask = np.zeros(total, np.bool_)
    mask[chosen] = True
    selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))  # type: ignore[call-arg, arg-type]
    return faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
