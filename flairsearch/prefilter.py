"""Vectors of views -> those of largest inner product (FAISS, exact). A cache on disk, made again; never the truth."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import DTypeLike, NDArray

from flairsearch.records import Candidates

_POOLED, _CODES = np.dtype("<f2"), np.dtype("i1")
_QUANTISERS = {_POOLED: faiss.ScalarQuantizer.QT_fp16, _CODES: faiss.ScalarQuantizer.QT_8bit_direct_signed}

Vectors = NDArray[np.float16] | NDArray[np.int8]


class Prefilter:
    """Of each view its unit pooled vector f16[D] or its codes i8[W] (fit.py); memory-mapped if they are from a file."""

    def __init__(self, ids: NDArray[np.int64], index: faiss.Index) -> None:
        """ids i64[N]: the views of the index's vectors, ascending."""
        self._ids, self._index = ids, index

    @staticmethod
    def build(ids: NDArray[np.int64], width: int, vectors: Iterable[Vectors], kind: DTypeLike = _POOLED) -> Prefilter:
        """vectors [n, W] of the views `ids`, in their order, in pieces. kind: f16 or i8."""
        index = _empty(width, np.dtype(kind))
        for piece in vectors:
            index.add(np.ascontiguousarray(piece, np.float32))
        return Prefilter(ids, index)

    @staticmethod
    def write(path: Path, count: int, width: int, vectors: Iterable[Vectors], kind: DTypeLike = _POOLED) -> None:
        """The file of `build(...)` for `count` vectors, without having them in memory. Raises OSError."""
        kind = np.dtype(kind)
        with path.open("wb") as stream:
            stream.write(_head(count, width, kind))
            for piece in vectors:
                code = np.ascontiguousarray(piece, kind)
                stream.write((code.view(np.uint8) ^ 0x80 if kind == _CODES else code).data)  # FAISS adds 128 to those

    @staticmethod
    def load(path: Path, ids: NDArray[np.int64], width: int, kind: DTypeLike = _POOLED) -> Prefilter | None:
        """None when the file is not a prefilter of these views."""
        if not _is_of(path, len(ids), width, np.dtype(kind)):
            return None
        try:
            return Prefilter(ids, faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC))
        except RuntimeError:
            return None

    def __len__(self) -> int:
        return len(self._ids)

    def search(self, vector: NDArray[np.float32], count: int) -> Candidates:
        """vector f32[W] -> the `count` views of largest inner product; ties by view id."""
        count = min(count, len(self))
        if not count:
            return Candidates(np.zeros(0, np.int64), np.zeros(0, np.float32))
        fetch = min(count + 1, len(self))
        scores, places = self._index.search(vector[None].astype(np.float32), fetch)
        while fetch < len(self) and scores[0, -1] == scores[0, count - 1]:  # FAISS cuts a tie anywhere: see it whole
            fetch = min(2 * fetch, len(self))
            scores, places = self._index.search(vector[None].astype(np.float32), fetch)
        order = np.lexsort((places[0], -scores[0]))[:count]
        return Candidates(self._ids[places[0][order]], scores[0][order])


def _empty(width: int, kind: np.dtype[Any]) -> faiss.IndexScalarQuantizer:
    return faiss.IndexScalarQuantizer(width, _QUANTISERS[kind], faiss.METRIC_INNER_PRODUCT)


def _is_of(path: Path, count: int, width: int, kind: np.dtype[Any]) -> bool:
    """Whether head and size are those of `count` vectors, byte by byte: FAISS believes what it reads there."""
    head = _head(count, width, kind)
    try:
        with path.open("rb") as stream:
            whole = len(head) + kind.itemsize * width * count
            return stream.read(len(head)) == head and path.stat().st_size == whole
    except OSError:
        return False


def _head(count: int, width: int, kind: np.dtype[Any]) -> bytes:
    """What comes before the vectors [N, W] in FAISS's file.

    As of an empty index, but for the count (bytes 8 to 15) and, at its end, the number of bytes that follow.
    """
    head: bytes = faiss.serialize_index(_empty(width, kind)).tobytes()
    return head[:8] + count.to_bytes(8, "little") + head[16:-8] + (kind.itemsize * width * count).to_bytes(8, "little")
