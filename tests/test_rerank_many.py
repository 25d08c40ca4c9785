"""Many texts at once: the same scores as the reference path in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flairsearch.records import PoolWeights, Query
from flairsearch.rerank_many import ManyTexts
from flairsearch.rerank_torch import Reranker


def _case(texts: int, heads: int, dim: int, patches: int, views: int) -> tuple[np.ndarray, list[Query], PoolWeights]:
    """Keys of a real pool: u_h = W_k,h^T q_h, so d dimensions a head."""
    rng = np.random.default_rng(texts + heads + dim)
    width = dim // heads

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    project = draw(heads, width, dim) / np.float32(dim**0.5)
    queries = [
        Query("", draw(dim), np.einsum("hde,hd->he", project, draw(heads, width)), draw(heads)) for _ in range(texts)
    ]
    value, out = draw(heads, width, dim) / np.float32(dim**0.5), draw(dim, dim) / np.float32(dim**0.5)
    weights = PoolWeights(value, draw(heads, width), out, draw(dim), 1.0, 0.0)
    return draw(views, patches, dim).astype(np.float16), queries, weights


@pytest.mark.parametrize(
    ("texts", "heads", "dim", "patches", "views"),
    [(1, 1, 4, 1, 1), (3, 4, 64, 49, 5), (600, 4, 32, 9, 9), (1025, 2, 16, 196, 3), (40, 8, 512, 196, 2)],
)
def test_equals_the_reference_in_float64(texts: int, heads: int, dim: int, patches: int, views: int) -> None:
    x, queries, weights = _case(texts, heads, dim, patches, views)
    exact = Reranker(weights, dtype=torch.float64).score_many([x.astype(np.float32)], queries)
    found = ManyTexts(queries, weights).score(x)
    assert found.dtype == np.float32
    assert found.shape == (views, texts)
    assert np.abs(found - exact).max() <= 2e-5


def test_texts_that_no_patch_answers_and_texts_of_one_patch() -> None:
    """All the zero key's; nothing the zero key's."""
    x, queries, weights = _case(6, 2, 16, 9, 4)
    far = [
        Query("", q.vector, q.u * 30, q.c + shift) for q, shift in zip(queries, (-80, -300, 80, 300, 0, 5), strict=True)
    ]
    exact = Reranker(weights, dtype=torch.float64).score_many([x.astype(np.float32)], far)
    found = ManyTexts(far, weights).score(x)
    assert np.isfinite(found).all()
    assert np.abs(found - exact).max() <= 2e-4


def test_no_views() -> None:
    x, queries, weights = _case(3, 2, 16, 9, 4)
    assert ManyTexts(queries, weights).score(x[:0]).shape == (0, 3)
