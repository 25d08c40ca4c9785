"""Pooled vectors -> nearest views (FAISS, exact). A cache in memory, rebuilt from the segments; never the truth."""

from __future__ import annotations

from collections.abc import Iterable

import faiss
import numpy as np
from numpy.typing import NDArray

from flairsearch.records import Candidates


class Prefilter:
    """Inner product of unit vectors, kept as float16: 2 D bytes a view."""

    def __init__(self, dim: int, vectors: Iterable[tuple[NDArray[np.int64], NDArray[np.float16]]]) -> None:
        """vectors: (view ids i64[N], unit vectors f16[N, D]) in pieces."""
        flat = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        self._index = faiss.IndexIDMap(flat)
        for ids, pooled in vectors:
            self._index.add_with_ids(np.ascontiguousarray(pooled, np.float32), ids)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def search(self, text: NDArray[np.float32], count: int) -> Candidates:
        """text f32[D], any length -> the `count` views of largest cosine; ties by view id."""
        count = min(count, len(self))
        if not count:
            return Candidates(np.zeros(0, np.int64), np.zeros(0, np.float32))
        unit = text / max(float(np.linalg.norm(text)), 1e-12)
        fetch = min(count + 1, len(self))
        scores, ids = self._index.search(unit[None].astype(np.float32), fetch)
        while fetch < len(self) and scores[0, -1] == scores[0, count - 1]:  # FAISS cuts a tie anywhere: see it whole
            fetch = min(2 * fetch, len(self))
            scores, ids = self._index.search(unit[None].astype(np.float32), fetch)
        order = np.lexsort((ids[0], -scores[0]))[:count]
        return Candidates(ids[0][order], scores[0][order])
