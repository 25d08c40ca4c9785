"""Stored tokens of a few winners + folded queries -> where in each view, and what a part of it scores alone.

The pool of arXiv 2412.03561 in its folded form (model/attention_pool.py), in numpy: ten views, not thousands.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.hits import Region
from flairsearch.core.types import EncodedText, EncodedViews, Frame, PoolWeights
from flairsearch.regions.boxes import find_boxes, find_heat, inside
from flairsearch.rerank.numpy_backend import attend, project

F32 = NDArray[np.float32]


class Locator:
    """N views, P patches, D dimensions, H heads, R parts."""

    def __init__(self, weights: PoolWeights) -> None:
        self._weights = weights

    def find(self, encoded: EncodedViews, frame: Frame, query: EncodedText) -> tuple[F32, list[Region]]:
        """One view and its frame -> heat f32[G, G], and its regions, best first: one at least."""
        x = encoded.tokens.astype(np.float32)
        logits = _logits(x, query)
        similarity = patch_cosine(x, encoded.shift, query.vector[None])[0, 0]
        heat = find_heat(attend(logits).mean(1)[0], similarity)
        boxes = find_boxes(heat)
        scores = self._score(x[0], logits, query, np.stack([inside(box, len(heat)) for box in boxes]))
        regions = [Region(frame.to_pixels(*box), score) for box, score in zip(boxes, scores.tolist(), strict=True)]
        return heat, sorted(regions, key=lambda region: (-region.score, region.box))

    def attend(self, encoded: EncodedViews, query: EncodedText) -> F32:
        """Attention f32[N, P]: the heads' mean over the patches, zero key left out."""
        return np.asarray(attend(_logits(encoded.tokens.astype(np.float32), query)).mean(1), np.float32)

    def compare(self, encoded: EncodedViews, query: EncodedText) -> F32:
        """Similarity f32[N, P]: the cosine of each local token and the text."""
        return patch_cosine(encoded.tokens, encoded.shift, query.vector[None])[:, 0]

    def score_parts(self, tokens: NDArray[np.float16], query: EncodedText, parts: NDArray[np.bool_]) -> F32:
        """One view's x f16[P, D], parts bool[R, P] -> f32[R]: cos(pool(t, the part's tokens), t).

        The exact score where a part is the whole view. Of a part without a patch: what the pool makes of nothing.
        """
        x = tokens.astype(np.float32)
        return self._score(x, _logits(x[None], query), query, parts)

    def _score(self, x: F32, logits: F32, query: EncodedText, parts: NDArray[np.bool_]) -> F32:
        """x f32[P, D], its logits f32[1, H, P], parts bool[R, P] -> f32[R]."""
        shares = attend(logits, parts[:, None])  # [R, H, P]
        mixed = (shares.reshape(-1, len(x)) @ x).reshape(*shares.shape[:2], -1)  # [R, H, D]
        return project(mixed[:, None], shares.sum(2)[:, None], self._weights, query.vector[None])[:, 0]


def patch_cosine(tokens: NDArray[np.float16] | F32, shift: NDArray[np.float16], vectors: F32) -> F32:
    """Cosine of each local token L = s (x + r) with each of C text vectors: f32[N, C, P]; s does not count.

    tokens x [N, P, D], shift r f16[N, P], vectors f32[C, D].
    """
    local = tokens.astype(np.float32, copy=False) + shift.astype(np.float32)[..., None]
    lengths = np.linalg.norm(vectors, axis=1)[:, None] * np.linalg.norm(local, axis=2)[:, None]
    return np.asarray(vectors @ local.swapaxes(1, 2) / np.maximum(lengths, 1e-12), np.float32)


def _logits(x: F32, query: EncodedText) -> F32:
    """x f32[N, P, D] -> f32[N, H, P]."""
    return np.asarray(query.u @ x.swapaxes(1, 2) + query.c[:, None], np.float32)
