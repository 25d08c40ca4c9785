"""Tokens + folded query -> exact FLAIR scores and attention in torch: the reference, and the path of any device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from flairsearch.core.types import EncodedText, PoolWeights

Pieces = Iterable[NDArray[np.float16] | NDArray[np.float32]]
CHUNK = 128  # views at once: their float32 tokens stay near the cache


class TorchPool:
    """The pool's value and output side on a device, ready for any number of queries."""

    def __init__(
        self,
        weights: PoolWeights,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        spatial: NDArray[np.float32] | None = None,
    ) -> None:
        """spatial f32[F, P]: tokens come as coordinates over F spatial frequencies (codecs/codec.Codec.spatial)."""
        self._device, self._dtype = device, dtype
        self._value = self._move(weights.value)
        self._value_bias = self._move(weights.value_bias)
        self._out = self._move(weights.out)
        self._out_bias = self._move(weights.out_bias)
        self._spatial = None if spatial is None else self._move(spatial)

    def score(self, tokens: Pieces, query: EncodedText) -> NDArray[np.float32]:
        """Pieces of tokens x [n, P, D] -> cos(pool(t, L), t) f32[N], N the sum of all n.

        Or pieces of coordinates in a codec's basis, with the query and the weights folded into it.
        """
        return self.score_many(tokens, [query])[:, 0]

    def score_many(self, tokens: Pieces, queries: Sequence[EncodedText]) -> NDArray[np.float32]:
        """`score` for Q queries at once, each piece read once for all of them: f32[N, Q]."""
        return np.concatenate([np.zeros((0, len(queries)), np.float32), *(s for s, _ in self._rank(tokens, queries))])

    def attend(self, tokens: Pieces, query: EncodedText) -> NDArray[np.float32]:
        """Pieces of tokens x [n, P, D] -> attention f32[N, P]: the heads' mean, zero key left out."""
        pieces = [attention for _, attention in self._rank(tokens, [query])]
        return np.concatenate(pieces)[:, 0] if pieces else np.zeros((0, 0), np.float32)

    def _rank(
        self, tokens: Pieces, queries: Sequence[EncodedText]
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Scores f32[n, Q] and attention f32[n, Q, P] of one chunk after the other."""
        u, c, text = (self._move(np.stack([getattr(q, name) for q in queries])) for name in ("u", "c", "vector"))
        chunk = max(16, CHUNK // max(1, len(queries)))
        for piece in tokens:
            for start in range(0, len(piece), chunk):
                scores, attention = self._chunk(self._move(piece[start : start + chunk]), u, c, text)
                yield scores.float().cpu().numpy(), attention.float().cpu().numpy()

    @torch.inference_mode()
    def _chunk(self, x: Tensor, u: Tensor, c: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """x [n, P, D], u [Q, H, D], c [Q, H], text [Q, D] -> scores [n, Q], attention [n, Q, P].

        a = softmax over [x u_h + c_h, 0]; o_h = W_v,h sum_p a_p x_p + (sum_p a_p) b_v,h; score = cos(W_o o + b_o, t):
        the pool of arXiv 2412.03561 with its LayerNorm gains folded into u and W_v (model/attention_pool.py).
        """
        logits = (x @ u.flatten(0, 1).T).transpose(1, 2)  # [n, Q H, P]
        if self._spatial is not None:
            logits = logits @ self._spatial
        weights = F.pad(logits + c.flatten()[:, None], (0, 1)).softmax(-1)[..., :-1]  # the padded 0: the zero key
        mixed = (weights if self._spatial is None else weights @ self._spatial.T) @ x  # [n, Q H, D]
        weights = weights.unflatten(1, c.shape)
        return self.project(mixed.unflatten(1, c.shape), weights.sum(-1), text), weights.mean(2)

    @torch.inference_mode()
    def project(self, mixed: Tensor, share: Tensor, text: Tensor) -> Tensor:
        """sum_p a_p x_p [n, Q, H, D], sum_p a_p [n, Q, H], text [Q, D] -> scores [n, Q]."""
        heads = torch.einsum("nqhe,hde->nqhd", mixed, self._value) + share[..., None] * self._value_bias
        pooled = heads.flatten(2) @ self._out.T + self._out_bias
        return F.cosine_similarity(pooled, text, dim=-1)

    def _move(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device, self._dtype)
