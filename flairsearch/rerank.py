"""Tokens + folded query -> exact FLAIR scores and attention; the reference path, in torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from flairsearch.records import PoolWeights, Query

CHUNK = 128  # views at once: their float32 tokens stay near the cache


class Reranker:
    """The pool's value and output side on a device, ready for any number of queries."""

    def __init__(self, weights: PoolWeights, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self._device, self._dtype = device, dtype
        self._value = self._move(weights.value)
        self._value_bias = self._move(weights.value_bias)
        self._out = self._move(weights.out)
        self._out_bias = self._move(weights.out_bias)

    def score(self, tokens: Iterable[NDArray[np.float16] | NDArray[np.float32]], query: Query) -> NDArray[np.float32]:
        """Pieces of tokens x [n, P, D] -> cos(pool(t, L), t) f32[N], N the sum of all n.

        Or pieces of coordinates in a codec's basis, with the query and the weights folded into it.
        """
        return np.concatenate([np.zeros(0, np.float32), *(scores for scores, _ in self._rank(tokens, query))])

    def attend(self, tokens: Iterable[NDArray[np.float16] | NDArray[np.float32]], query: Query) -> NDArray[np.float32]:
        """Pieces of tokens x [n, P, D] -> attention f32[N, P]: the heads' mean, zero key left out."""
        pieces = [attention for _, attention in self._rank(tokens, query)]
        return np.concatenate(pieces) if pieces else np.zeros((0, 0), np.float32)

    def _rank(
        self, tokens: Iterable[NDArray[np.float16] | NDArray[np.float32]], query: Query
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        u, c, text = self._move(query.u), self._move(query.c), self._move(query.vector)
        for piece in tokens:
            for start in range(0, len(piece), CHUNK):
                scores, attention = self._chunk(self._move(piece[start : start + CHUNK]), u, c, text)
                yield scores.float().cpu().numpy(), attention.float().cpu().numpy()

    @torch.inference_mode()
    def _chunk(self, x: Tensor, u: Tensor, c: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """x [n, P, D], u [H, D], c [H], text [D] -> scores [n], attention [n, P].

        a = softmax over [x u_h + c_h, 0]; o_h = W_v,h sum_p a_p x_p + (sum_p a_p) b_v,h; score = cos(W_o o + b_o, t):
        the pool of arXiv 2412.03561 with its LayerNorm gains folded into u and W_v (model.FLAIR.fold, pool_weights).
        """
        logits = (x @ u.T + c).transpose(1, 2)  # [n, H, P]
        weights = F.pad(logits, (0, 1)).softmax(-1)[..., :-1]  # the padded 0 is the zero key's logit
        mixed = weights @ x  # [n, H, D]
        heads = torch.einsum("nhe,hde->nhd", mixed, self._value)
        heads = heads + weights.sum(-1, keepdim=True) * self._value_bias
        pooled = heads.flatten(1) @ self._out.T + self._out_bias
        return F.cosine_similarity(pooled, text[None], dim=-1), weights.mean(1)

    def _move(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device, self._dtype)
