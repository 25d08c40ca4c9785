"""The compiled loops of shortlist/code_scan.py.

They are apart from it, as loading numba takes longer than one scan of some thousand views.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.numba_runtime import compiled
from flairsearch.rerank import llvm_intrinsics

F32 = NDArray[np.float32]
_AHEAD = 8  # rows that memory is asked for ahead


@partial(compiled, reorder=True)
def multiply(heads: NDArray[np.int8], query: F32, scores: F32, first: int, last: int) -> None:
    """scores[i] = heads[i] . query."""
    for i in range(first, last):
        total = np.float32(0)
        for j in range(heads.shape[1]):
            total += np.float32(heads[i, j]) * query[j]
        scores[i] = total


@partial(compiled, reorder=True)
def multiply_rows(
    rows: NDArray[np.int8], places: NDArray[np.int64], start: int, features: F32, scores: F32, first: int, last: int
) -> None:
    """scores[i] = rows[places[i], start : start + W] . features; rows are asked for before their turn comes."""
    stride = rows.shape[1]
    flat = rows.reshape(-1)
    for i in range(first, last):
        here = places[i] * stride + start
        total, codes = np.float32(0), flat[here : here + len(features)]
        ahead = places[min(i + _AHEAD, last - 1)] * stride + start
        for line in range(0, len(features), 64):
            llvm_intrinsics.prefetch(flat, flat, flat, (ahead + line,))
        for j in range(len(features)):
            total += np.float32(codes[j]) * features[j]
        scores[i] = total
