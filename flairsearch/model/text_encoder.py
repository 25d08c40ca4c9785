"""Encode texts as folded queries without torch: CLIP's text tower in numpy, over a memory-mapped weights file.

A query has about ten tokens: importing torch takes longer than computing them. Only the tokens up to the end of a text
are computed (the tower is causal), and only their rows of the token embedding are read. model/encoder.py has the same
tower in torch, for thousands of texts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.types import EncodedText, PoolWeights
from flairsearch.model import checkpoints
from flairsearch.model.attention_pool import FoldedPool, layer_norm
from flairsearch.model.safetensors_file import SafetensorsFile
from flairsearch.model.tokenizer import Tokenizer, unseen_words

F32 = NDArray[np.float32]
_MAX_SMALL_PRODUCT = 10**6  # OpenBLAS multiplies matrices in place up to this many multiplications.
_MIN_ROWS = 32  # With fewer rows in each product, the calls cost more than they save.


class TextEncoder:
    """The text side of one weights file. T texts, L tokens, W the width of the tower."""

    def __init__(self, file: Path) -> None:
        """Open a weights file.

        Raises WeightsError when the file is missing or damaged, or carries no configuration.
        """
        config, self.weights_hash = checkpoints.describe(file)
        self._config = json.loads(config)
        self._tensors = SafetensorsFile(file)
        checkpoints.check(self._tensors, config, file)
        self._tokenizer = Tokenizer(self._config.get("context_length", 77))
        self._seen = checkpoints.seen_tokens(file)
        self.folded_pool = FoldedPool(self._tensors, self._config["pool_heads"], self._config.get("score", "flair"))

    @property
    def pool_weights(self) -> PoolWeights:
        """The pool's value and output side, for re-ranking."""
        return self.folded_pool.weights

    def encode_texts(self, texts: Sequence[str]) -> list[EncodedText]:
        """Encode texts as folded queries, float32; texts of very different lengths are faster one by one."""
        return self.folded_pool.fold_texts(self._tower(texts), list(texts)) if texts else []

    def fold(self, vectors: F32) -> list[EncodedText]:
        """Global text tokens f32[T, D], not normalised -> folded queries without their texts."""
        return self.folded_pool.fold_texts(vectors, [""] * len(vectors))

    def unseen_words(self, text: str) -> list[str]:
        """Return the words of a text that are in no training text; none if the model does not list its tokens."""
        return unseen_words(text, self._seen, self._tokenizer)

    def _tower(self, texts: Sequence[str]) -> F32:
        """Return the global text tokens f32[T, D], not normalised."""
        ids = [self._tokenizer.tokenize(text) for text in texts]
        # A text may spell the end token itself, so the first one counts.
        ends = np.array([token_ids.index(self._tokenizer.end) for token_ids in ids])
        padded = np.zeros((len(ids), ends.max() + 1), np.int64)
        for row, token_ids, end in zip(padded, ids, ends, strict=True):
            row[: end + 1] = token_ids[: end + 1]
        x = self._tensors.rows("token_embedding.weight", padded)  # [T, L, W]
        x = x + self._tensors["positional_embedding"][: padded.shape[1]]
        columns = np.ascontiguousarray(x.reshape(-1, x.shape[-1]).T)
        for block in self._blocks:
            columns = block.run(columns, len(ids))
        last = columns.T.reshape(x.shape)[np.arange(len(x)), ends]
        last = layer_norm(last, self._tensors["ln_final.weight"], self._tensors["ln_final.bias"])
        return np.asarray(last @ self._tensors["text_post.proj"], np.float32)

    @cached_property
    def _blocks(self) -> list[_Block]:
        names = [f"transformer.resblocks.{i}" for i in range(self._config["text_layers"])]
        return [_Block(self._tensors, name, self._config["text_heads"]) for name in names]


class _Block:
    """A residual block of the tower; its tensors have torch's names.

    Tokens are columns, x f32[W, T L], text after text, so that the weights are used as they are stored.
    """

    def __init__(self, tensors: SafetensorsFile, name: str, heads: int) -> None:
        self._heads = heads
        self._in, self._out, self._wide, self._narrow = (
            (tensors[f"{name}.{weight}"], tensors[f"{name}.{bias}"][:, None])
            for weight, bias in (
                ("attn.in_proj_weight", "attn.in_proj_bias"),
                ("attn.out_proj.weight", "attn.out_proj.bias"),
                ("mlp.c_fc.weight", "mlp.c_fc.bias"),
                ("mlp.c_proj.weight", "mlp.c_proj.bias"),
            )
        )
        self._first, self._second = (
            (tensors[f"{name}.{norm}.weight"][:, None], tensors[f"{name}.{norm}.bias"][:, None])
            for norm in ("ln_1", "ln_2")
        )

    def run(self, x: F32, texts: int) -> F32:
        """Map the tokens of T texts before the block, f32[W, T L], to the tokens after it, of the same shape."""
        x = x + self._attend(layer_norm(x, *self._first, axis=0), texts)
        wide = _gelu(_linear(layer_norm(x, *self._second, axis=0), self._wide))
        return np.asarray(x + _linear(wide, self._narrow), np.float32)

    def _attend(self, x: F32, texts: int) -> F32:
        """Apply causal attention with H heads within each text."""
        packed = _linear(x, self._in).reshape(3, self._heads, -1, texts, x.shape[1] // texts)
        query, key, value = packed.transpose(0, 3, 1, 2, 4)  # [T, H, d, L]
        length = key.shape[-1]
        logits = query.transpose(0, 1, 3, 2) @ key * np.float32(query.shape[2] ** -0.5)
        logits = np.where(np.tri(length, dtype=np.bool_), logits, -np.inf)
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        mixed = value @ shares.transpose(0, 1, 3, 2)  # [T, H, d, L]
        return _linear(np.ascontiguousarray(mixed.transpose(1, 2, 0, 3).reshape(x.shape)), self._out)


def _linear(x: F32, layer: tuple[F32, F32]) -> F32:
    """Return weights f32[m, n] @ x f32[n, C] + bias f32[m, 1], f32[m, C], computed in parts of the weights' rows.

    OpenBLAS multiplies small matrices in place. It copies larger ones first, and for a text of a few tokens the copy
    takes longer than the product.
    """
    weight, bias = layer
    rows = len(weight) & -len(weight)  # The largest power of two that divides the number of rows.
    while rows >= _MIN_ROWS and rows * x.size > _MAX_SMALL_PRODUCT:
        rows //= 2
    if rows < _MIN_ROWS:  # The parts would be too small to gain from.
        rows = len(weight)
    parts = weight.reshape(-1, rows, len(x))
    return np.asarray((parts @ x).reshape(len(weight), -1) + bias, np.float32)


def _gelu(x: F32) -> F32:
    """Return x Phi(x), where Phi is the normal distribution function.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26. There erf(y) is
    1 - (a1 t + ... + a5 t^5) e^(-y^2) with t = 1 / (1 + 0.3275911 y), within 1.5e-7; here y = |x| / sqrt(2).
    """
    y = np.abs(x) * np.float32(0.5**0.5)
    t = 1 / (1 + np.float32(0.3275911) * y)
    tail = t * np.float32(1.061405429)
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        tail = (tail + np.float32(factor)) * t
    tail *= np.exp(-y * y) / 2  # This is 1 - Phi(|x|).
    return np.asarray(x * np.where(x > 0, 1 - tail, tail), np.float32)
