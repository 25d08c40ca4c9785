"""Tokens + folded queries -> exact FLAIR scores in numpy: some 5,000 views/s, and nothing to load before the first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flairsearch.codec import Codec
from flairsearch.records import PoolWeights

F32 = NDArray[np.float32]
_VIEWS = 32  # at once: their float32 tokens stay near the cache


def score(codec: Codec, rows: NDArray[np.uint8], weights: PoolWeights, u: F32, c: F32, text: F32) -> F32:
    """Rows u8[n, stride] as codec.encode made them -> cos(pool(t, L), t) f32[n, Q].

    u f32[Q, H, C], c f32[Q, H], text f32[Q, D] and weights are folded by the codec. The formula is rerank_torch's.
    """
    scores = np.empty((len(rows), len(u)), np.float32)
    for start in range(0, len(rows), _VIEWS):
        x = codec.decode(rows[start : start + _VIEWS]).astype(np.float32, copy=False)  # [n, P or F, C]
        scores[start : start + _VIEWS] = _chunk(x, codec.spatial, weights, u, c, text)
    return scores


def _chunk(x: F32, spatial: F32 | None, weights: PoolWeights, u: F32, c: F32, text: F32) -> F32:
    queries, heads, _ = u.shape
    logits = (x.reshape(-1, x.shape[2]) @ u.reshape(queries * heads, -1).T).reshape(*x.shape[:2], -1).transpose(0, 2, 1)
    if spatial is not None:  # from frequencies to patches
        logits = logits @ spatial
    logits = logits + c.reshape(-1, 1)  # [n, Q H, P]
    top = np.maximum(logits.max(2, keepdims=True), 0)  # 0: the zero key
    shares = np.exp(logits - top)
    shares /= shares.sum(2, keepdims=True) + np.exp(-top)
    mixed = (shares if spatial is None else shares @ spatial.T) @ x  # [n, Q H, C]
    total = shares.sum(2).reshape(-1, heads).T[..., None]  # [H, n Q, 1]
    parts = mixed.reshape(-1, heads, mixed.shape[2]).transpose(1, 0, 2) @ weights.value.transpose(0, 2, 1)
    parts = parts + total * weights.value_bias[:, None]  # [H, n Q, d]
    pooled = parts.transpose(1, 0, 2).reshape(len(x), queries, -1) @ weights.out.T + weights.out_bias  # [n, Q, D]
    lengths = np.linalg.norm(pooled, axis=2) * np.linalg.norm(text, axis=1)
    return np.asarray((pooled * text).sum(2) / np.maximum(lengths, 1e-12), np.float32)
