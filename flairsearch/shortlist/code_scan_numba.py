"""The compiled loops of shortlist/code_scan.py.

They are a separate module because loading numba takes longer than a scan of a few thousand views.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.numba_runtime import compiled
from flairsearch.rerank import llvm_intrinsics

F32 = NDArray[np.float32]
_PREFETCH_ROWS = 8  # Rows are prefetched this number of rows ahead.


@partial(compiled, reorder=True)
def multiply(prefixes: NDArray[np.int8], query: F32, scores: F32, first: int, last: int) -> None:
    """Fill scores[i] = prefixes[i] . query for i from first to last - 1."""
    for i in range(first, last):
        total = np.float32(0)
        for j in range(prefixes.shape[1]):
            total += np.float32(prefixes[i, j]) * query[j]
        scores[i] = total


@partial(compiled, reorder=True)
def multiply_rows(
    rows: NDArray[np.int8],
    row_numbers: NDArray[np.int64],
    start: int,
    features: F32,
    scores: F32,
    first: int,
    last: int,
) -> None:
    """Fill scores[i] = rows[row_numbers[i], start : start + W] . features for i from first to last - 1."""
    stride = rows.shape[1]
    flat = rows.reshape(-1)
    for i in range(first, last):
        begin = row_numbers[i] * stride + start
        total, codes = np.float32(0), flat[begin : begin + len(features)]
        ahead = row_numbers[min(i + _PREFETCH_ROWS, last - 1)] * stride + start
        for line in range(0, len(features), 64):
            llvm_intrinsics.prefetch(flat, flat, flat, (ahead + line,))
        for j in range(len(features)):
            total += np.float32(codes[j]) * features[j]
        scores[i] = total
