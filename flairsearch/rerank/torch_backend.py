"""Exact FLAIR scores and attention of tokens in torch: the reference implementation, for any device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from flairsearch.core.types import EncodedText, PoolWeights

Pieces = Iterable[NDArray[np.float16] | NDArray[np.float32]]
CHUNK_VIEWS = 128  # The float32 tokens of this number of views nearly fit into the cache.


class TorchPool:
    """The value and output projections of the pool on a device, prepared for any number of queries."""

    def __init__(
        self,
        weights: PoolWeights,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        spatial: NDArray[np.float32] | None = None,
    ) -> None:
        """spatial: f32[F, P]; with it, tokens are coordinates over F spatial frequencies (codecs/codec.py)."""
        self._device, self._dtype = device, dtype
        self._value = self._to_device(weights.value)
        self._value_bias = self._to_device(weights.value_bias)
        self._out = self._to_device(weights.out)
        self._out_bias = self._to_device(weights.out_bias)
        self._spatial = None if spatial is None else self._to_device(spatial)

    def score(self, tokens: Pieces, query: EncodedText) -> NDArray[np.float32]:
        """Score tokens for one query: cos(pool(t, L), t) f32[N], N the views of all pieces.

        tokens: pieces x [n, P, D], or coordinates in a codec's basis if query and weights are folded into that basis.
        """
        return self.score_many(tokens, [query])[:, 0]

    def score_many(self, tokens: Pieces, queries: Sequence[EncodedText]) -> NDArray[np.float32]:
        """`score` for Q queries at once, f32[N, Q]; each piece of tokens is read once for all queries."""
        return np.concatenate(
            [np.zeros((0, len(queries)), np.float32), *(s for s, _ in self._score_pieces(tokens, queries))]
        )

    def attend(self, tokens: Pieces, query: EncodedText) -> NDArray[np.float32]:
        """Return the attention f32[N, P] of pieces x [n, P, D]: the heads' mean, without the zero key's share."""
        pieces = [attention for _, attention in self._score_pieces(tokens, [query])]
        return np.concatenate(pieces)[:, 0] if pieces else np.zeros((0, 0), np.float32)

    def _score_pieces(
        self, tokens: Pieces, queries: Sequence[EncodedText]
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Yield scores f32[n, Q] and attention f32[n, Q, P] of chunks of n views."""
        u, c, text = (self._to_device(np.stack([getattr(q, name) for q in queries])) for name in ("u", "c", "vector"))
        chunk = max(16, CHUNK_VIEWS // max(1, len(queries)))
        for piece in tokens:
            for start in range(0, len(piece), chunk):
                scores, attention = self._score_chunk(self._to_device(piece[start : start + chunk]), u, c, text)
                yield scores.float().cpu().numpy(), attention.float().cpu().numpy()

    @torch.inference_mode()
    def _score_chunk(self, x: Tensor, u: Tensor, c: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores [n, Q] and attention [n, Q, P] for x [n, P, D], u [Q, H, D], c [Q, H], text [Q, D].

        a = softmax over [x u_h + c_h, 0]; o_h = W_v,h sum_p a_p x_p + (sum_p a_p) b_v,h; score = cos(W_o o + b_o, t):
        the pool of arXiv 2412.03561 with its LayerNorm gains folded into u and W_v (model/attention_pool.py).
        """
        logits = (x @ u.flatten(0, 1).T).transpose(1, 2)  # [n, Q H, P]
        if self._spatial is not None:
            logits = logits @ self._spatial
        weights = F.pad(logits + c.flatten()[:, None], (0, 1)).softmax(-1)[
            ..., :-1
        ]  # The padded 0 is the zero key's logit.
        mixed = (weights if self._spatial is None else weights @ self._spatial.T) @ x  # [n, Q H, D]
        weights = weights.unflatten(1, c.shape)
        return self.project(mixed.unflatten(1, c.shape), weights.sum(-1), text), weights.mean(2)

    @torch.inference_mode()
    def project(self, mixed: Tensor, share: Tensor, text: Tensor) -> Tensor:
        """Return scores [n, Q] of mixed tokens.

        mixed: [n, Q, H, D], sum_p a_p x_p. share: [n, Q, H], sum_p a_p. text: [Q, D].
        """
        heads = torch.einsum("nqhe,hde->nqhd", mixed, self._value) + share[..., None] * self._value_bias
        pooled = heads.flatten(2) @ self._out.T + self._out_bias
        return F.cosine_similarity(pooled, text, dim=-1)

    def _to_device(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device, self._dtype)
