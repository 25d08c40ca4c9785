"""What a search should give: float64, straight from the formulas, of the package's only records and constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flairsearch.core.types import EncodedText, PoolWeights
from flairsearch.regions import boxes


def attend(x: Any, query: EncodedText) -> tuple[Any, Any]:
    """Tokens [..., P, D] -> shares of each head [..., P, H], and what the zero key leaves of each [..., H]."""
    exponents = np.exp(x.astype(float) @ query.u.T.astype(float) + query.c)
    share = exponents / (exponents.sum(-2, keepdims=True) + 1)
    return share, share.sum(-2)


def score(x: Any, query: EncodedText, weights: PoolWeights) -> Any:
    """Tokens [N, P, D], P any number of them -> cos(pool(t, x), t) [N]."""
    share, some = attend(x, query)
    heads = np.einsum("nph,npd,hed->nhe", share, x.astype(float), weights.value.astype(float))
    heads += some[..., None] * weights.value_bias
    pooled = heads.reshape(len(x), -1) @ weights.out.T.astype(float) + weights.out_bias
    return pooled @ query.vector / np.linalg.norm(pooled, axis=1) / np.linalg.norm(query.vector.astype(float))


def heat(x: Any, shift: Any, query: EncodedText) -> Any:
    """Tokens [P, D] of a view and their r [P] -> [G, G]: attention and similarity, standardised; added, smoothed."""
    attention = attend(x, query)[0].mean(-1)
    local = x.astype(float) + shift.astype(float)[:, None]
    lengths = np.maximum(np.linalg.norm(local, axis=1), 1e-12)
    similarity = local @ query.vector / lengths / np.linalg.norm(query.vector.astype(float))
    both = _standardise(attention) + boxes.SIMILARITY_WEIGHT * _standardise(similarity)
    grid = round(len(both) ** 0.5)
    padded = np.pad(both.reshape(grid, grid), 3, mode="edge")
    kernel = np.exp(-0.5 * (np.arange(-3, 4) / boxes.SMOOTHING_SIGMA) ** 2)
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    return np.array([[(padded[i : i + 7, j : j + 7] * kernel).sum() for j in range(grid)] for i in range(grid)])


def _standardise(values: Any) -> Any:
    flat = np.ptp(values) < 1e-6 * np.abs(values).max()
    return np.zeros(len(values)) if flat else (values - values.mean()) / values.std()


def of_photo(scores: Any, weights: Sequence[float], most: int) -> tuple[float, list[float]]:
    """Scores [V, phrases] of a photo's views -> its score, and that of each phrase: the mean of the `most` best."""
    each = [float(np.sort(column)[::-1][:most].mean()) for column in np.asarray(scores).T]
    return float(np.dot(each, weights) / np.sum(weights)), each


def reach(box: Any, painted: Any) -> int:
    """How many pixels an edge of one box is from that of the other, at most."""
    return int(np.abs(np.subtract(box, painted)).max())
