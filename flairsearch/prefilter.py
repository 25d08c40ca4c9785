"""Pooled vectors -> nearest views (FAISS, exact). A cache on disk, made again from the segments; never the truth."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from flairsearch.arrays import places_in
from flairsearch.records import Candidates


class Prefilter:
    """Inner product of unit vectors, kept as float16: 2 D bytes a view, memory-mapped when they come from a file."""

    def __init__(self, ids: NDArray[np.int64], index: faiss.Index) -> None:
        """ids i64[N]: the views of the index's vectors, ascending."""
        self._ids, self._index = ids, index

    @staticmethod
    def build(ids: NDArray[np.int64], dim: int, pooled: Iterable[NDArray[np.float16]]) -> Prefilter:
        """pooled: unit vectors f16[n, D] of the views `ids`, in their order, in pieces."""
        index = _empty(dim)
        for piece in pooled:
            index.add(np.ascontiguousarray(piece, np.float32))
        return Prefilter(ids, index)

    @staticmethod
    def write(path: Path, count: int, dim: int, pooled: Iterable[NDArray[np.float16]]) -> None:
        """The file of `build(...)` for `count` vectors, without having them in memory. Raises OSError."""
        with path.open("wb") as stream:
            stream.write(_head(count, dim))
            for piece in pooled:
                stream.write(np.ascontiguousarray(piece, "<f2").data)

    @staticmethod
    def load(path: Path, ids: NDArray[np.int64], dim: int) -> Prefilter | None:
        """None when the file is not a prefilter of these views."""
        if not _is_of(path, len(ids), dim):
            return None
        try:
            return Prefilter(ids, faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC))
        except RuntimeError:
            return None

    def __len__(self) -> int:
        return len(self._ids)

    def search(self, text: NDArray[np.float32], count: int, among: NDArray[np.int64] | None = None) -> Candidates:
        """text f32[D], any length -> the `count` views of largest cosine; ties by view id.

        among: view ids i64[n], ascending: others are passed over, and cost next to nothing.
        """
        chosen = None if among is None else places_in(self._ids, among)
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


def _empty(dim: int) -> faiss.IndexScalarQuantizer:
    return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)


def _is_of(path: Path, count: int, dim: int) -> bool:
    """Whether head and size are those of `count` vectors, byte by byte: FAISS believes what it reads there."""
    head = _head(count, dim)
    try:
        with path.open("rb") as stream:
            return stream.read(len(head)) == head and path.stat().st_size == len(head) + 2 * dim * count
    except OSError:
        return False


def _head(count: int, dim: int) -> bytes:
    """What comes before the vectors, f16[N, D], in FAISS's file.

    As of an empty index, but for the count (bytes 8 to 15) and, at its end, the number of bytes that follow.
    """
    head: bytes = faiss.serialize_index(_empty(dim)).tobytes()
    return head[:8] + count.to_bytes(8, "little") + head[16:-8] + (2 * dim * count).to_bytes(8, "little")
