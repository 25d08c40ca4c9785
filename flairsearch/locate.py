"""Stored tokens of a few winners + folded queries -> where in each view, and what a part of it scores alone.

The pool of arXiv 2412.03561 in its folded form (folding.py), in numpy: ten views, not thousands.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flairsearch.records import Encoded, Frame, PoolWeights, Query, Region
from flairsearch.region import find_boxes, find_heat, inside


class Locator:
    """N views, P patches, D dimensions, H heads, R parts."""

    def __init__(self, weights: PoolWeights) -> None:
        self._weights = weights

    def find(self, encoded: Encoded, frame: Frame, query: Query) -> tuple[NDArray[np.float32], list[Region]]:
        """One view and its frame -> heat f32[G, G], and its regions, best first: one at least."""
        x = encoded.tokens.astype(np.float32)
        logits = _logits(x, query)
        heat = find_heat(_attention(logits)[0], _cosines(x, encoded.shift, query)[0])
        boxes = find_boxes(heat)
        scores = self._score(x[0], logits, query, np.stack([inside(box, len(heat)) for box in boxes]))
        regions = [Region(frame.to_pixels(*box), score) for box, score in zip(boxes, scores.tolist(), strict=True)]
        return heat, sorted(regions, key=lambda region: (-region.score, region.box))

    def attend(self, encoded: Encoded, query: Query) -> NDArray[np.float32]:
        """Attention f32[N, P]: the heads' mean over the patches, zero key left out."""
        return _attention(_logits(encoded.tokens.astype(np.float32), query))

    def compare(self, encoded: Encoded, query: Query) -> NDArray[np.float32]:
        """Similarity f32[N, P]: the cosine of each local token L = s (x + r) and the text."""
        return _cosines(encoded.tokens.astype(np.float32), encoded.shift, query)

    def score_parts(self, tokens: NDArray[np.float16], query: Query, parts: NDArray[np.bool_]) -> NDArray[np.float32]:
        """One view's x f16[P, D], parts bool[R, P] -> f32[R]: cos(pool(t, the part's tokens), t).

        The exact score where a part is the whole view. Of a part without a patch: what the pool makes of nothing.
        """
        x = tokens.astype(np.float32)
        return self._score(x, _logits(x[None], query), query, parts)

    def _score(
        self, x: NDArray[np.float32], logits: NDArray[np.float32], query: Query, parts: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """x f32[P, D], its logits f32[1, P, H], parts bool[R, P] -> f32[R]."""
        pool = self._weights
        weights, rest = _softmax(np.where(parts[..., None], logits, -np.inf))  # [R, P, H]
        share = (weights / (weights.sum(1, keepdims=True) + rest[:, None])).transpose(2, 0, 1)  # [H, R, P]
        mixed = (share.reshape(-1, len(x)) @ x).reshape(*share.shape[:2], -1)  # [H, R, D]
        heads = mixed @ pool.value.transpose(0, 2, 1) + share.sum(2)[..., None] * pool.value_bias[:, None]  # [H, R, d]
        pooled = heads.transpose(1, 0, 2).reshape(len(parts), -1) @ pool.out.T + pool.out_bias
        lengths = np.linalg.norm(pooled, axis=1) * np.linalg.norm(query.vector)
        return np.asarray(pooled @ query.vector / np.maximum(lengths, 1e-12), np.float32)


def _attention(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """f32[N, P, H] -> f32[N, P]."""
    weights, rest = _softmax(logits)
    return np.asarray((weights / (weights.sum(1, keepdims=True) + rest[:, None])).mean(2), np.float32)


def _cosines(x: NDArray[np.float32], shift: NDArray[np.float16], query: Query) -> NDArray[np.float32]:
    """x f32[N, P, D], r f16[N, P] -> f32[N, P]; s makes no difference."""
    local = x + shift.astype(np.float32)[..., None]
    lengths = np.linalg.norm(local, axis=2) * np.linalg.norm(query.vector)
    return np.asarray(local @ query.vector / np.maximum(lengths, 1e-12), np.float32)


def _logits(x: NDArray[np.float32], query: Query) -> NDArray[np.float32]:
    """x f32[N, P, D] -> f32[N, P, H]."""
    return np.asarray(x @ query.u.T + query.c, np.float32)


def _softmax(logits: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """[N, P, H] -> e^logit and that of the zero key [N, H], both divided by the largest of them."""
    top = np.maximum(logits.max(1, keepdims=True), 0)
    return np.exp(logits - top), np.exp(-top[:, 0])
