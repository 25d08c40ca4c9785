"""FAISS against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from flairsearch.prefilter import Prefilter


def unit(count: int, dim: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("count", [1, 50, 499, 500, 900])
def test_equals_brute_force(count: int) -> None:
    rng = np.random.default_rng(1)
    vectors, ids = unit(500, 24), rng.permutation(10_000)[:500].astype(np.int64)
    prefilter = Prefilter(24, [(ids[:1], vectors[:1]), (ids[1:300], vectors[1:300]), (ids[300:], vectors[300:])])
    assert len(prefilter) == 500
    for text in rng.standard_normal((5, 24)).astype(np.float32) * 7:
        cosine = vectors.astype(np.float64) @ text / np.linalg.norm(text)
        order = np.lexsort((ids, -cosine))[:count]
        found = prefilter.search(text, count)
        assert found.views.tolist() == ids[order].tolist()
        assert np.abs(found.scores - cosine[order]).max() <= 1e-5


def test_length_of_the_text_makes_no_difference() -> None:
    prefilter = Prefilter(8, [(np.arange(20), unit(20, 8))])
    text = unit(1, 8, seed=3)[0].astype(np.float32)
    short, long = prefilter.search(text * 1e-3, 20), prefilter.search(text * 1e3, 20)
    assert short.views.tolist() == long.views.tolist()
    assert np.allclose(short.scores, long.scores, atol=1e-6)


@pytest.mark.parametrize("count", [1, 5, 9, 12, 30])
@pytest.mark.parametrize("ids", [list(range(12)), list(range(12))[::-1], [5, 0, 11, 3, 7, 1, 9, 2, 10, 4, 8, 6]])
def test_ties_go_by_view_id(count: int, ids: list[int]) -> None:
    """Four views in each of three places, the nearest place last or in the middle."""
    places = np.eye(3, dtype=np.float16)
    group = np.asarray([i % 3 for i in range(12)])
    prefilter = Prefilter(3, [(np.asarray(ids, np.int64), places[group])])
    text = np.asarray([0.2, 0.9, 0.4], np.float32)
    cosine = (places.astype(np.float32) @ text / np.linalg.norm(text))[group]
    expected = np.asarray(ids)[np.lexsort((ids, -cosine))][:count]
    assert prefilter.search(text, count).views.tolist() == expected.tolist()


def test_nothing_in_it() -> None:
    prefilter = Prefilter(8, [])
    assert len(prefilter) == 0
    found = prefilter.search(np.ones(8, np.float32), 5)
    assert found.views.dtype == np.int64
    assert len(found.views) == len(found.scores) == 0


def test_text_without_direction_is_answered() -> None:
    found = Prefilter(4, [(np.arange(3), unit(3, 4))]).search(np.zeros(4, np.float32), 2)
    assert found.views.tolist() == [0, 1]
    assert np.isfinite(found.scores).all()
