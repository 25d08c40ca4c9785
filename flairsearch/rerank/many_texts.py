"""Exact FLAIR scores of each view for thousands of texts at once, with keys and values projected once per view.

With folded queries, a text costs 4 P D H operations per view (rerank/reranker.py). With the keys and values of a view
projected once for all texts, it costs 4 P D plus a share of 2 P D^2. The vectors u_h = W_k,h^T q_h of all texts span
only d = D / H dimensions, so an orthonormal basis of their span replaces W_k,h, and the folded queries suffice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flairsearch.core.types import EncodedText, EncodedViews, PoolWeights
from flairsearch.rerank.reranker import with_global

_TEXTS_PER_STEP = 512  # With _VIEWS_PER_STEP, the logits of a step fit into a processor's cache.
_VIEWS_PER_STEP = 4  # With _TEXTS_PER_STEP, the logits of a step fit into a processor's cache.


class TextBatchScorer:
    """T folded texts, prepared for scoring any number of views. Shapes: H heads of d dimensions, D = H d."""

    def __init__(self, queries: Sequence[EncodedText], weights: PoolWeights, device: str = "cpu") -> None:
        """queries and weights: in the model's coordinates, not folded into a codec's."""
        self._device, self._global_share = device, weights.global_share
        heads, head_dim, _ = weights.value.shape
        keys, bases = [], []
        for u in np.stack([query.u for query in queries], 1).astype(np.float64):  # One head at a time, u is [T, D].
            basis = np.linalg.eigh(u.T @ u)[1][:, -head_dim:]
            keys.append(u @ basis)
            bases.append(basis)
        self.vectors = np.stack([query.vector for query in queries])  # f32[T, D]
        texts = self.vectors.astype(np.float64)
        texts /= np.maximum(np.linalg.norm(texts, axis=1, keepdims=True), 1e-12)
        self._head_shape = heads, head_dim
        self._keys = self._to_device(np.stack(keys).transpose(0, 2, 1))  # [H, d, T]
        self._key_bias = self._to_device(np.stack([query.c for query in queries], 1)[:, None])  # [H, 1, T]
        self._basis = self._to_device(np.concatenate(bases, 1))  # [D, H d]
        self._value = self._to_device(weights.value.reshape(heads * head_dim, -1).T)
        self._value_bias = self._to_device(weights.value_bias[:, None])
        self._out, self._out_bias = self._to_device(weights.out.T), self._to_device(weights.out_bias)
        # The cosine's numerator is t . W_o o = (W_o^T t) . o, so only its norm needs the projected W_o o.
        self._text = self._to_device(texts @ weights.out)
        self._text_bias = self._to_device(texts @ weights.out_bias)

    def score(self, encoded: EncodedViews) -> NDArray[np.float32]:
        """Score n views for all texts, f32[n, T]: cos(pool(t, L), t), blended with the global token's cosine."""
        return with_global(self._pool_cosines(encoded.tokens), encoded.pooled, self.vectors, self._global_share)

    def _pool_cosines(self, tokens: NDArray[np.float16] | NDArray[np.float32]) -> NDArray[np.float32]:
        """Return cos(pool(t, L), t) f32[n, T] for tokens x [n, P, D]."""
        scores = np.empty((len(tokens), len(self._text)), np.float32)
        for i in range(0, len(tokens), _VIEWS_PER_STEP):
            x = torch.from_numpy(np.ascontiguousarray(tokens[i : i + _VIEWS_PER_STEP])).to(self._device).float()
            scores[i : i + _VIEWS_PER_STEP] = self._score_views(x).cpu().numpy()
        return scores

    @torch.inference_mode()
    def _score_views(self, x: Tensor) -> Tensor:
        """Return cosines [n, T] of all texts for tokens x [n, P, D]."""
        keys, values = ((x @ w).unflatten(-1, self._head_shape).transpose(1, 2) for w in (self._basis, self._value))
        values = torch.cat([values, torch.ones_like(values[..., :1])], -1)  # The last column sums the attention.
        starts = range(0, len(self._text), _TEXTS_PER_STEP)
        return torch.cat([self._score_texts(keys, values, slice(i, i + _TEXTS_PER_STEP)) for i in starts], 1)

    def _score_texts(self, keys: Tensor, values: Tensor, texts: slice) -> Tensor:
        """Return cosines [n, t] of a slice of t texts for keys [n, H, P, d] and values [n, H, P, d + 1]."""
        logits = keys @ self._keys[..., texts] + self._key_bias[..., texts]  # [n, H, P, t]
        top = logits.amax(2, keepdim=True).clamp_min_(0)  # The zero key's logit is 0.
        heads = logits.sub_(top).exp_().mT @ values  # [n, H, t, d + 1]
        total = heads[..., -1:] + (-top).exp_().mT
        heads = (heads[..., :-1] + heads[..., -1:] * self._value_bias) / total
        mixed = heads.transpose(1, 2).flatten(2)
        length = (mixed @ self._out + self._out_bias).norm(dim=-1).clamp_min(1e-12)
        scores: Tensor = ((mixed * self._text[texts]).sum(-1) + self._text_bias[texts]) / length
        return scores

    def _to_device(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self._device)
