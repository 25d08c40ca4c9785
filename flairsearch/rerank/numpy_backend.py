"""Exact FLAIR scores of stored rows in numpy: about 5,000 views/s, without a library to load before the first query."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flairsearch.codecs.codec import Codec
from flairsearch.core.types import PoolWeights

F32 = NDArray[np.float32]
_VIEWS_PER_STEP = 32  # The float32 tokens of this number of views nearly fit into the cache.


def score(codec: Codec, rows: NDArray[np.uint8], weights: PoolWeights, u: F32, c: F32, text: F32) -> F32:
    """Score stored rows: cos(pool(t, L), t) f32[n, Q] by the formula of torch_backend.

    rows: u8[n, stride] as codec.encode made them. u: f32[Q, H, C], c: f32[Q, H] and weights: folded by the codec.
    text: f32[Q, D].
    """
    scores = np.empty((len(rows), len(u)), np.float32)
    for start in range(0, len(rows), _VIEWS_PER_STEP):
        x = codec.decode(rows[start : start + _VIEWS_PER_STEP]).astype(np.float32, copy=False)  # [n, P or F, C]
        scores[start : start + _VIEWS_PER_STEP] = _score_views(x, codec.spatial, weights, u, c, text)
    return scores


def _score_views(x: F32, spatial: F32 | None, weights: PoolWeights, u: F32, c: F32, text: F32) -> F32:
    """`score` of decoded rows x f32[n, P or F, C]; with `spatial` f32[F, P], they are over F frequencies."""
    logits = (x.reshape(-1, x.shape[2]) @ u.reshape(c.size, -1).T).reshape(*x.shape[:2], -1).transpose(0, 2, 1)
    if spatial is not None:  # Logits of frequencies become logits of patches.
        logits = logits @ spatial
    shares = attend(np.asarray(logits + c.reshape(-1, 1), np.float32))  # [n, Q H, P]
    mixed = np.asarray((shares if spatial is None else shares @ spatial.T) @ x, np.float32)  # [n, Q H, C]
    return project(mixed.reshape(len(x), *u.shape), shares.sum(2).reshape(len(x), *c.shape), weights, text)


def attend(logits: F32, parts: NDArray[np.bool_] | None = None) -> F32:
    """Return the attention f32[..., P] for logits f32[..., P]: softmax over the patches and a zero key with logit 0.

    parts: bool[..., P]; only the patches of the part get attention.
    """
    if parts is not None:
        logits = np.where(parts, logits, np.float32(-np.inf))
    top = np.maximum(logits.max(-1, keepdims=True), 0)
    shares = np.exp(logits - top)
    return np.asarray(shares / (shares.sum(-1, keepdims=True) + np.exp(-top)), np.float32)


def project(mixed: F32, total: F32, weights: PoolWeights, text: F32) -> F32:
    """Project mixed tokens to the pool's output and return cos(pool(t, L), t) f32[n, Q].

    mixed: f32[n, Q, H, C], sum_p a_p x_p. total: f32[n, Q, H], sum_p a_p. text: f32[Q, D].
    """
    count, queries, heads, channels = mixed.shape
    parts = mixed.reshape(-1, heads, channels).transpose(1, 0, 2) @ weights.value.transpose(0, 2, 1)
    parts = parts + total.reshape(-1, heads).T[..., None] * weights.value_bias[:, None]  # [H, n Q, d]
    pooled = parts.transpose(1, 0, 2).reshape(count, queries, -1) @ weights.out.T + weights.out_bias  # [n, Q, D]
    lengths = np.linalg.norm(pooled, axis=2) * np.linalg.norm(text, axis=1)
    return np.asarray((pooled * text).sum(2) / np.maximum(lengths, 1e-12), np.float32)
