"""TextBatchScorer against the reference backend in float64, and against loops with the global token's share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from flairsearch.core.types import EncodedText, EncodedViews, PoolWeights
from flairsearch.rerank.many_texts import TextBatchScorer
from flairsearch.rerank.reranker import with_global
from flairsearch.rerank.torch_backend import TorchPool
from tests.support import by_hand


def _case(
    texts: int, heads: int, dim: int, patches: int, views: int
) -> tuple[EncodedViews, list[EncodedText], PoolWeights]:
    """Draw a case with the keys of a real pool: u_h = W_k,h^T q_h spans d dimensions per head."""
    rng = np.random.default_rng(texts + heads + dim)
    width = dim // heads

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    project = draw(heads, width, dim) / np.float32(dim**0.5)
    queries = [
        EncodedText("", draw(dim), np.einsum("hde,hd->he", project, draw(heads, width)), draw(heads))
        for _ in range(texts)
    ]
    value, out = draw(heads, width, dim) / np.float32(dim**0.5), draw(dim, dim) / np.float32(dim**0.5)
    weights = PoolWeights(value, draw(heads, width), out, draw(dim), 1.0, 0.0)
    tokens, pooled = draw(views, patches, dim).astype(np.float16), draw(views, dim)
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    nothing = np.zeros((views, patches), np.float16)
    return EncodedViews(pooled.astype(np.float16), tokens, nothing, nothing), queries, weights


def _exact(encoded: EncodedViews, queries: list[EncodedText], weights: PoolWeights) -> np.ndarray:
    pieces = [encoded.tokens.astype(np.float32)]
    return TorchPool(weights, dtype=torch.float64).score_many(pieces, queries)


@pytest.mark.parametrize(
    ("texts", "heads", "dim", "patches", "views"),
    [(1, 1, 4, 1, 1), (3, 4, 64, 49, 5), (600, 4, 32, 9, 9), (1025, 2, 16, 196, 3), (40, 8, 512, 196, 2)],
)
def test_equals_the_reference_in_float64(texts: int, heads: int, dim: int, patches: int, views: int) -> None:
    encoded, queries, weights = _case(texts, heads, dim, patches, views)
    exact = _exact(encoded, queries, weights)
    found = TextBatchScorer(queries, weights).score(encoded)
    assert found.dtype == np.float32
    assert found.shape == (views, texts)
    assert np.abs(found - exact).max() <= 2e-5


def test_extreme_attention() -> None:
    """The zero key takes all of the attention, or one patch does."""
    encoded, queries, weights = _case(6, 2, 16, 9, 4)
    far = [
        EncodedText("", q.vector, q.u * 30, q.c + shift)
        for q, shift in zip(queries, (-80, -300, 80, 300, 0, 5), strict=True)
    ]
    exact = _exact(encoded, far, weights)
    found = TextBatchScorer(far, weights).score(encoded)
    assert np.isfinite(found).all()
    assert np.abs(found - exact).max() <= 2e-4


def test_no_views() -> None:
    encoded, queries, weights = _case(3, 2, 16, 9, 4)
    assert TextBatchScorer(queries, weights).score(encoded.part(slice(0))).shape == (0, 3)
    summed = TextBatchScorer(queries, replace(weights, global_share=0.5))
    assert summed.score(encoded.part(slice(0))).shape == (0, 3)


@pytest.mark.parametrize(("texts", "heads", "dim", "patches", "views"), [(1, 1, 4, 1, 1), (7, 4, 32, 9, 11)])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.25])
def test_the_global_token_has_its_share(
    texts: int, heads: int, dim: int, patches: int, views: int, share: float
) -> None:
    """Each score blends the conditioned cosine with the global token's; a text vector's length does not matter."""
    encoded, queries, weights = _case(texts, heads, dim, patches, views)
    queries = [replace(query, vector=query.vector * np.float32(3 * i + 1)) for i, query in enumerate(queries)]
    found = TextBatchScorer(queries, replace(weights, global_share=share)).score(encoded)
    assert found.dtype == np.float32
    for j, query in enumerate(queries):
        conditioned = by_hand.score(encoded.tokens, query, weights)
        for i in range(views):
            near = encoded.pooled[i].astype(float) @ query.vector.astype(float) / np.linalg.norm(query.vector)
            assert found[i, j] == pytest.approx((1 - share) * conditioned[i] + share * near, abs=2e-5)
            assert abs(conditioned[i] - near) > 1e-3  # The two cosines differ in this case.


def test_a_views_score_does_not_depend_on_other_views() -> None:
    """Views alone or in another order have the same scores as among all views."""
    encoded, queries, weights = _case(5, 2, 16, 9, 11)
    many = TextBatchScorer(queries, replace(weights, global_share=0.5))
    whole = many.score(encoded)
    for rows in (slice(3, 8), slice(None, None, 3), slice(None, None, -1)):
        assert many.score(encoded.part(rows)) == pytest.approx(whole[rows], abs=1e-6)
    assert many.score(encoded.only(4)) == pytest.approx(whole[4:5], abs=1e-6)


def test_with_global_of_zero_texts() -> None:
    """A zero text vector has cosine 0 with every photo, without a division by zero."""
    pooled, cosines = np.eye(3, dtype=np.float16), np.full((3, 2), 0.4, np.float32)
    vectors = np.array([[0, 0, 0], [0, 5, 0]], np.float32)
    expected = np.array([[0.2, 0.2], [0.2, 0.7], [0.2, 0.2]])
    assert with_global(cosines, pooled, vectors, 0.5) == pytest.approx(expected)
    assert with_global(cosines, pooled, vectors, 0) is cosines
