"""Thousands of texts over each view: exact FLAIR scores where the view's keys and values are worth projecting.

Folded, a text costs 4 P D H operations a view (rerank/reranker.py); here, where a view's tokens are projected once for
all texts, 4 P D + 2 D^2. All texts' u_h = W_k,h^T q_h span d = D / H dimensions, so a basis of their span stands in for
W_k,h: keys need no other weights than those in the queries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flairsearch.core.types import EncodedText, EncodedViews, PoolWeights
from flairsearch.rerank.reranker import with_global

_TEXTS = 512  # at once: with _VIEWS, logits of the size of a processor's cache
_VIEWS = 4


class TextBatchScorer:
    """T folded texts, ready for any number of views."""

    def __init__(self, queries: Sequence[EncodedText], weights: PoolWeights, device: str = "cpu") -> None:
        """Queries and weights as the model gives them, not in a codec's coordinates."""
        self._device, self._global_share = device, weights.global_share
        heads, width, _ = weights.value.shape
        keys, spans = [], []
        for u in np.stack([query.u for query in queries], 1).astype(np.float64):  # of each head, [T, D]
            span = np.linalg.eigh(u.T @ u)[1][:, -width:]
            keys.append(u @ span)
            spans.append(span)
        self.vectors = np.stack([query.vector for query in queries])  # f32[T, D]
        texts = self.vectors.astype(np.float64)
        texts /= np.maximum(np.linalg.norm(texts, axis=1, keepdims=True), 1e-12)
        self._shape = heads, width
        self._keys = self._move(np.stack(keys).transpose(0, 2, 1))  # [H, d, T]
        self._constant = self._move(np.stack([query.c for query in queries], 1)[:, None])  # [H, 1, T]
        self._span = self._move(np.concatenate(spans, 1))  # [D, H d]
        self._value = self._move(weights.value.reshape(heads * width, -1).T)
        self._value_bias = self._move(weights.value_bias[:, None])
        self._out, self._out_bias = self._move(weights.out.T), self._move(weights.out_bias)
        self._text = self._move(texts @ weights.out)  # W_o^T t: the cosine's upper part needs no projection of o
        self._text_bias = self._move(texts @ weights.out_bias)

    def score(self, encoded: EncodedViews) -> NDArray[np.float32]:
        """n views -> what they are ranked by f32[n, T]: cos(pool(t, L), t), with the global cosine's share in it."""
        return with_global(self._condition(encoded.tokens), encoded.pooled, self.vectors, self._global_share)

    def _condition(self, tokens: NDArray[np.float16] | NDArray[np.float32]) -> NDArray[np.float32]:
        """Tokens x [n, P, D] -> cos(pool(t, L), t) f32[n, T]."""
        scores = np.empty((len(tokens), len(self._text)), np.float32)
        for i in range(0, len(tokens), _VIEWS):
            x = torch.from_numpy(np.ascontiguousarray(tokens[i : i + _VIEWS])).to(self._device).float()
            scores[i : i + _VIEWS] = self._chunk(x).cpu().numpy()
        return scores

    @torch.inference_mode()
    def _chunk(self, x: Tensor) -> Tensor:
        """x [n, P, D] -> [n, T]."""
        keys, values = ((x @ w).unflatten(-1, self._shape).transpose(1, 2) for w in (self._span, self._value))
        values = torch.cat([values, torch.ones_like(values[..., :1])], -1)  # and the share: sum_p a_p
        parts = [self._texts(keys, values, slice(start, start + _TEXTS)) for start in range(0, len(self._text), _TEXTS)]
        return torch.cat(parts, 1)

    def _texts(self, keys: Tensor, values: Tensor, texts: slice) -> Tensor:
        """keys [n, H, P, d], values [n, H, P, d + 1] -> [n, T] of these texts."""
        logits = keys @ self._keys[..., texts] + self._constant[..., texts]  # [n, H, P, T]
        top = logits.amax(2, keepdim=True).clamp_min_(0)  # 0: the zero key
        heads = logits.sub_(top).exp_().mT @ values  # [n, H, T, d + 1]
        total = heads[..., -1:] + (-top).exp_().mT
        heads = (heads[..., :-1] + heads[..., -1:] * self._value_bias) / total
        mixed = heads.transpose(1, 2).flatten(2)
        length = (mixed @ self._out + self._out_bias).norm(dim=-1).clamp_min(1e-12)
        scores: Tensor = ((mixed * self._text[texts]).sum(-1) + self._text_bias[texts]) / length
        return scores

    def _move(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self._device)
