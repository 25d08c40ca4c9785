"""Rows, pools and queries for what scores rows, and their scores in float64."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from flairsearch.codecs.codec import AVERAGE_BITS, Codec, make_codec, needs_basis
from flairsearch.codecs.transform import cosine_transform, fit_basis
from flairsearch.core.types import EncodedText, EncodedViews, PoolWeights

CODECS = ("fp16", "int8", "q4", "q2", "q1")
Rows = np.ndarray


def stacked(codec: Codec, queries: list[EncodedText]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    folded = [codec.fold(query) for query in queries]
    u, c, text = (np.stack([getattr(query, name) for query in folded]) for name in ("u", "c", "vector"))
    return u, c, text


@lru_cache(maxsize=64)  # A basis takes longer to fit than rows to score.
def make(name: str, views: int, patches: int, dim: int, seed: int = 0) -> tuple[Codec, Rows]:
    """A codec, and rows u8[n, stride] of tokens that vary more along some channels than along others."""
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(max(views, 8), patches, dim)) * np.logspace(0.5, -1, dim)
    tokens = tokens.astype(np.float16)
    moments = rng.normal(size=(2, *tokens.shape[:2])).astype(np.float16)
    basis = fit_basis(tokens, np.eye(dim, dtype=np.float32), AVERAGE_BITS[name]) if needs_basis(name) else None
    codec = make_codec(name, patches, dim, basis)
    return codec, codec.encode(EncodedViews(tokens[:, 0], tokens, *moments))[:views]


def pool(heads: int, size: int, seed: int = 0) -> PoolWeights:
    """A pool with biases, of heads of that many numbers."""
    rng, dim = np.random.default_rng(seed), heads * size
    shapes = (heads, size, dim), (heads, size), (dim, dim), (dim,)
    return PoolWeights(*(rng.normal(size=shape).astype(np.float32) for shape in shapes), 1.0, 0.0)


def ask(count: int, heads: int, dim: int, seed: int = 1) -> list[EncodedText]:
    """Queries whose logits are about as large as one."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    return [EncodedText("", draw(dim), np.float32(dim**-0.5) * draw(heads, dim), draw(heads)) for _ in range(count)]


def in_float64(codec: Codec, rows: Rows, weights: PoolWeights, queries: list[EncodedText]) -> np.ndarray:
    """View by view, over patches: softmax over P + 1 keys, the last value nothing; f64[n, Q]."""
    y, (u, c, text) = codec.decode(rows).astype(float), (part.astype(float) for part in stacked(codec, queries))
    if codec.spatial is not None:
        y = np.einsum("fp,nfc->npc", cosine_transform(codec.patches).astype(float), y)
    folded, scores = codec.fold_weights(weights), np.zeros((len(rows), len(queries)))
    for n, q in np.ndindex(scores.shape):
        heads = []
        for h, (value, bias) in enumerate(
            zip(folded.value.astype(float), folded.value_bias.astype(float), strict=True)
        ):
            logits = np.append(y[n] @ u[q, h] + c[q, h], 0.0)
            shares = np.exp(logits - logits.max())
            shares /= shares.sum()
            heads.append(value @ (shares[:-1] @ y[n]) + shares[:-1].sum() * bias)
        pooled = folded.out.astype(float) @ np.concatenate(heads) + folded.out_bias
        scores[n, q] = pooled @ text[q] / np.linalg.norm(pooled) / np.linalg.norm(text[q])
    return scores
