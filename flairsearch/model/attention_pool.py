"""FLAIR's pool, its text side and its weights, in the folded form that re-ranking needs: float32, in numpy.

Source: the pool of FLAIR, CVPR 2025, arXiv 2412.03561. T texts, D dimensions, H heads of d = D / H each.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.types import EncodedText, PoolWeights
from flairsearch.model.architecture import SCORES

LAYER_NORM_EPS = 1e-5

F32 = NDArray[np.float32]


def layer_norm(x: F32, gain: F32, bias: F32, axis: int = -1) -> F32:
    """f32[..., D, ...] -> the same, of the D numbers along an axis."""
    centred = x - x.mean(axis, keepdims=True)
    spread = np.sqrt(np.square(centred).mean(axis, keepdims=True) + np.float32(LAYER_NORM_EPS))
    return np.asarray(centred / spread * gain + bias, np.float32)


class FoldedPool:
    """The pool of one model, given its tensors under FLAIR's names; they are read when they are needed."""

    def __init__(self, tensors: Mapping[str, F32], heads: int, score: str = "flair") -> None:
        """score: what photos are ranked by, one of architecture.SCORES."""
        self._tensors, self._heads, self._score = tensors, heads, score

    def _of(self, name: str) -> F32:
        return self._tensors[f"visual_proj.{name}"]

    @cached_property
    def _in_weights(self) -> list[F32]:
        """W of query, key and value, f32[H, d, D] each."""
        return [part.reshape(self._heads, -1, part.shape[1]) for part in np.split(self._of("attn.in_proj_weight"), 3)]

    @cached_property
    def _in_biases(self) -> list[F32]:
        """Their biases, f32[H, d] each."""
        return [part.reshape(self._heads, -1) for part in np.split(self._of("attn.in_proj_bias"), 3)]

    @cached_property
    def _key_shift(self) -> F32:
        """f32[H, d]: what a key is where the token, before the gain, is 0."""
        return np.asarray(self._in_weights[1] @ self._of("ln_k.bias") + self._in_biases[1], np.float32)

    def fold(self, vectors: F32) -> tuple[F32, F32]:
        """Texts f32[T, D] -> u f32[T, H, D], c f32[T, H]: logits over stored tokens x are x u + c.

        u_h = gain_k * (W_k,h^T q_h), c_h = q_h . (W_k,h bias_k + b_k,h), q = (W_q ln_q(t) + b_q) / sqrt(d).
        """
        (query, key, _), bias = self._in_weights, self._in_biases[0]
        normed = layer_norm(vectors, self._of("ln_q.weight"), self._of("ln_q.bias"))
        q = (normed @ query.transpose(0, 2, 1) + bias[:, None]) * np.float32(query.shape[1] ** -0.5)  # [H, T, d]
        u = (q @ key).transpose(1, 0, 2) * self._of("ln_k.weight")
        c = (q @ self._key_shift[..., None])[..., 0].T
        return np.ascontiguousarray(u, np.float32), np.ascontiguousarray(c, np.float32)

    def queries(self, vectors: F32, texts: list[str]) -> list[EncodedText]:
        """Global text tokens f32[T, D], not normalised, and their texts -> folded queries."""
        u, c = self.fold(vectors)
        return [EncodedText(text, vectors[i], u[i], c[i]) for i, text in enumerate(texts)]

    @cached_property
    def weights(self) -> PoolWeights:
        """The value and output projections, gain and bias of ln_v folded in."""
        value, bias = self._in_weights[2], self._in_biases[2]
        return PoolWeights(
            value=np.asarray(value * self._of("ln_v.weight"), np.float32),
            value_bias=np.asarray(value @ self._of("ln_v.bias") + bias, np.float32),
            out=self._of("attn.out_proj.weight"),
            out_bias=self._of("attn.out_proj.bias"),
            logit_scale=float(np.exp(self._tensors["logit_scale"])),
            logit_bias=float(self._tensors["logit_bias"]),
            global_share=SCORES[self._score],
        )

    def token_metric(self) -> F32:
        """f32[D, D]: how much an error e of a stored token matters to the pool, e^T metric e; keys and values alike.

        Keys: the mean square of e . u over texts whose ln_q is isotropic; values: |W_o,h W_v,h e|^2. Both have trace 1.
        """
        query, key, value = self._in_weights
        spread = query * self._of("ln_q.weight")  # [H, d, D]: q of a text is spread @ its unit part + centre
        centre = query @ self._of("ln_q.bias") + self._in_biases[0]
        square = spread @ spread.transpose(0, 2, 1) + centre[..., None] * centre[:, None]
        key = key * self._of("ln_k.weight")
        out = self._of("attn.out_proj.weight").reshape(-1, *value.shape[:2]).transpose(1, 0, 2)  # [H, D, d]
        value = out @ (value * self._of("ln_v.weight"))
        keys = (key.transpose(0, 2, 1) @ square @ key).sum(0)
        values = (value.transpose(0, 2, 1) @ value).sum(0)
        return np.asarray(keys / np.trace(keys) + values / np.trace(values), np.float32)
