"""Heat maps and regions of the few best views of a query, from their stored tokens.

The pool of arXiv 2412.03561 in its folded form (model/attention_pool.py), in numpy: enough for about ten views a query.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.hits import Region
from flairsearch.core.types import EncodedText, EncodedViews, Frame, PoolWeights
from flairsearch.regions.boxes import find_boxes, find_heat, patch_mask
from flairsearch.rerank.numpy_backend import attend, project

F32 = NDArray[np.float32]


class Locator:
    """Locates texts in encoded views. Shapes: N views, P patches, D dimensions, H heads, C texts, R parts of a view."""

    def __init__(self, weights: PoolWeights) -> None:
        self._weights = weights

    def find(self, encoded: EncodedViews, frame: Frame, query: EncodedText) -> tuple[F32, list[Region]]:
        """Return the heat map f32[G, G] of one view and its regions, best first; there is at least one.

        frame: where the view lies in the image; the regions' boxes are in pixels of the upright original.
        """
        x = encoded.tokens.astype(np.float32)
        logits = _logits(x, query)
        similarity = patch_cosine(x, encoded.shift, query.vector[None])[0, 0]
        heat = find_heat(attend(logits).mean(1)[0], similarity)
        boxes = find_boxes(heat)
        scores = self._score(x[0], logits, query, np.stack([patch_mask(box, len(heat)) for box in boxes]))
        regions = [Region(frame.to_pixels(*box), score) for box, score in zip(boxes, scores.tolist(), strict=True)]
        return heat, sorted(regions, key=lambda region: (-region.score, region.box))

    def attend(self, encoded: EncodedViews, query: EncodedText) -> F32:
        """Return the attention f32[N, P]: the heads' mean share of each patch, without the zero key's share."""
        return np.asarray(attend(_logits(encoded.tokens.astype(np.float32), query)).mean(1), np.float32)

    def patch_similarity(self, encoded: EncodedViews, query: EncodedText) -> F32:
        """Return the cosine of each local token and the text, f32[N, P]."""
        return patch_cosine(encoded.tokens, encoded.shift, query.vector[None])[:, 0]

    def score_parts(self, tokens: NDArray[np.float16], query: EncodedText, parts: NDArray[np.bool_]) -> F32:
        """Score parts of one view as if each were the whole view: cos(pool(t, tokens of the part), t), f32[R].

        tokens: x f16[P, D]. parts: bool[R, P], the patches of each part.
        With all patches this is the exact FLAIR score. An empty part attends to the zero key only.
        """
        x = tokens.astype(np.float32)
        return self._score(x, _logits(x[None], query), query, parts)

    def _score(self, x: F32, logits: F32, query: EncodedText, parts: NDArray[np.bool_]) -> F32:
        """`score_parts` of tokens x f32[P, D] with their logits f32[1, H, P]."""
        shares = attend(logits, parts[:, None])  # [R, H, P]
        mixed = (shares.reshape(-1, len(x)) @ x).reshape(*shares.shape[:2], -1)  # [R, H, D]
        return project(mixed[:, None], shares.sum(2)[:, None], self._weights, query.vector[None])[:, 0]


def patch_cosine(tokens: NDArray[np.float16] | F32, shift: NDArray[np.float16], vectors: F32) -> F32:
    """Return the cosine of each local token and each of C text vectors, f32[N, C, P].

    A local token is L = s (x + r); its length factor s cancels in a cosine.
    tokens: x [N, P, D]. shift: r f16[N, P]. vectors: f32[C, D].
    """
    local = tokens.astype(np.float32, copy=False) + shift.astype(np.float32)[..., None]
    lengths = np.linalg.norm(vectors, axis=1)[:, None] * np.linalg.norm(local, axis=2)[:, None]
    return np.asarray(vectors @ local.swapaxes(1, 2) / np.maximum(lengths, 1e-12), np.float32)


def _logits(x: F32, query: EncodedText) -> F32:
    """Return the attention logits f32[N, H, P] of tokens x f32[N, P, D]."""
    return np.asarray(query.u @ x.swapaxes(1, 2) + query.c[:, None], np.float32)
