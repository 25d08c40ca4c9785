"""FLAIR's attention pool in the folded form that re-ranking needs: texts and weights as float32 numpy arrays.

Source: the pool of FLAIR, CVPR 2025, arXiv 2412.03561. T texts, D dimensions, H heads of d = D / H each.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.types import GLOBAL_SHARES, EncodedText, PoolWeights

LAYER_NORM_EPS = 1e-5

F32 = NDArray[np.float32]


def layer_norm(x: F32, gain: F32, bias: F32, axis: int = -1) -> F32:
    """Apply LayerNorm along one axis of f32[..., D, ...]; gain and bias broadcast against it."""
    centred = x - x.mean(axis, keepdims=True)
    deviation = np.sqrt(np.square(centred).mean(axis, keepdims=True) + np.float32(LAYER_NORM_EPS))
    return np.asarray(centred / deviation * gain + bias, np.float32)


class FoldedPool:
    """The pool of one model, made from its tensors under FLAIR's names; each is read when it is first needed."""

    def __init__(self, tensors: Mapping[str, F32], heads: int, score: str = "flair") -> None:
        """Take the tensors by name, the number of heads, and the ranking score (a key of GLOBAL_SHARES)."""
        self._tensors, self._heads, self._score = tensors, heads, score

    def _tensor(self, name: str) -> F32:
        return self._tensors[f"visual_proj.{name}"]

    @cached_property
    def _in_weights(self) -> list[F32]:
        """The projections W_q, W_k and W_v, f32[H, d, D] each."""
        return [
            part.reshape(self._heads, -1, part.shape[1]) for part in np.split(self._tensor("attn.in_proj_weight"), 3)
        ]

    @cached_property
    def _in_biases(self) -> list[F32]:
        """The biases b_q, b_k and b_v, f32[H, d] each."""
        return [part.reshape(self._heads, -1) for part in np.split(self._tensor("attn.in_proj_bias"), 3)]

    @cached_property
    def _key_shift(self) -> F32:
        """The key of a token that is 0 before the gain, f32[H, d]."""
        return np.asarray(self._in_weights[1] @ self._tensor("ln_k.bias") + self._in_biases[1], np.float32)

    def fold(self, vectors: F32) -> tuple[F32, F32]:
        """Fold global text tokens f32[T, D] into u f32[T, H, D] and c f32[T, H], so that x u + c are the logits of x.

        u_h = gain_k * (W_k,h^T q_h), c_h = q_h . (W_k,h bias_k + b_k,h), q = (W_q ln_q(t) + b_q) / sqrt(d).
        """
        (query, key, _), bias = self._in_weights, self._in_biases[0]
        normed = layer_norm(vectors, self._tensor("ln_q.weight"), self._tensor("ln_q.bias"))
        q = (normed @ query.transpose(0, 2, 1) + bias[:, None]) * np.float32(query.shape[1] ** -0.5)  # [H, T, d]
        u = (q @ key).transpose(1, 0, 2) * self._tensor("ln_k.weight")
        c = (q @ self._key_shift[..., None])[..., 0].T
        return np.ascontiguousarray(u, np.float32), np.ascontiguousarray(c, np.float32)

    def fold_texts(self, vectors: F32, texts: list[str]) -> list[EncodedText]:
        """Fold global text tokens f32[T, D], not normalised, and pair each with its text."""
        u, c = self.fold(vectors)
        return [EncodedText(text, vectors[i], u[i], c[i]) for i, text in enumerate(texts)]

    @cached_property
    def weights(self) -> PoolWeights:
        """The value and output projections, with the gain and bias of ln_v folded in."""
        value, bias = self._in_weights[2], self._in_biases[2]
        return PoolWeights(
            value=np.asarray(value * self._tensor("ln_v.weight"), np.float32),
            value_bias=np.asarray(value @ self._tensor("ln_v.bias") + bias, np.float32),
            out=self._tensor("attn.out_proj.weight"),
            out_bias=self._tensor("attn.out_proj.bias"),
            logit_scale=float(np.exp(self._tensors["logit_scale"])),
            logit_bias=float(self._tensors["logit_bias"]),
            global_share=GLOBAL_SHARES[self._score],
        )

    def token_metric(self) -> F32:
        """Return the metric of token errors, f32[D, D]: an error e of a stored token costs e^T metric e.

        It is the sum of two matrices of trace 1. Keys: the mean square of e . u over texts whose ln_q is isotropic.
        Values: |W_o,h W_v,h e|^2, summed over heads.
        """
        query, key, value = self._in_weights
        # [H, d, D]; the query of a text is spread @ (its normalised vector) + centre.
        spread = query * self._tensor("ln_q.weight")
        centre = query @ self._tensor("ln_q.bias") + self._in_biases[0]
        square = spread @ spread.transpose(0, 2, 1) + centre[..., None] * centre[:, None]
        key = key * self._tensor("ln_k.weight")
        out = self._tensor("attn.out_proj.weight").reshape(-1, *value.shape[:2]).transpose(1, 0, 2)  # [H, D, d]
        value = out @ (value * self._tensor("ln_v.weight"))
        keys = (key.transpose(0, 2, 1) @ square @ key).sum(0)
        values = (value.transpose(0, 2, 1) @ value).sum(0)
        return np.asarray(keys / np.trace(keys) + values / np.trace(values), np.float32)
