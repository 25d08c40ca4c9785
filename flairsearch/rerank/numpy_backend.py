"""Tokens + folded queries -> exact FLAIR scores in numpy: some 5,000 views/s, and nothing to load before the first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flairsearch.codecs.codec import Codec
from flairsearch.core.types import PoolWeights

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
    """Coordinates x f32[n, P or F, C] -> f32[n, Q]."""
    logits = (x.reshape(-1, x.shape[2]) @ u.reshape(c.size, -1).T).reshape(*x.shape[:2], -1).transpose(0, 2, 1)
    if spatial is not None:  # from frequencies to patches
        logits = logits @ spatial
    shares = attend(np.asarray(logits + c.reshape(-1, 1), np.float32))  # [n, Q H, P]
    mixed = np.asarray((shares if spatial is None else shares @ spatial.T) @ x, np.float32)  # [n, Q H, C]
    return project(mixed.reshape(len(x), *u.shape), shares.sum(2).reshape(len(x), *c.shape), weights, text)


def attend(logits: F32, parts: NDArray[np.bool_] | None = None) -> F32:
    """Softmax over P patches and the zero key, whose logit is 0: logits f32[..., P] -> shares f32[..., P].

    parts bool[..., P]: no patch but these has a share.
    """
    if parts is not None:
        logits = np.where(parts, logits, np.float32(-np.inf))
    top = np.maximum(logits.max(-1, keepdims=True), 0)
    shares = np.exp(logits - top)
    return np.asarray(shares / (shares.sum(-1, keepdims=True) + np.exp(-top)), np.float32)


def project(mixed: F32, total: F32, weights: PoolWeights, text: F32) -> F32:
    """sum_p a_p x_p f32[n, Q, H, C], sum_p a_p f32[n, Q, H], text f32[Q, D] -> cos(pool(t, L), t) f32[n, Q]."""
    count, queries, heads, channels = mixed.shape
    parts = mixed.reshape(-1, heads, channels).transpose(1, 0, 2) @ weights.value.transpose(0, 2, 1)
    parts = parts + total.reshape(-1, heads).T[..., None] * weights.value_bias[:, None]  # [H, n Q, d]
    pooled = parts.transpose(1, 0, 2).reshape(count, queries, -1) @ weights.out.T + weights.out_bias  # [n, Q, D]
    lengths = np.linalg.norm(pooled, axis=2) * np.linalg.norm(text, axis=1)
    return np.asarray((pooled * text).sum(2) / np.maximum(lengths, 1e-12), np.float32)
