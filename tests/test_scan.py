"""The two-step scan of codes against all inner products."""

from __future__ import annotations

import numpy as np
import pytest

from flairsearch import scan
from flairsearch.scan import HEAD, CodeScan, heads_of

START = 5  # bytes of a row before its codes


def opened(codes: np.ndarray, ids: np.ndarray, seed: int = 0) -> CodeScan:
    """Rows in another order than the ids, with others between them."""
    places = np.random.default_rng(seed).permutation(2 * len(codes))[: len(codes)].astype(np.int64)
    rows = np.full((2 * len(codes), START + codes.shape[1] + 3), 99, np.int8)
    rows[places, START : START + codes.shape[1]] = codes
    return CodeScan(ids, heads_of(codes), places, rows, START)


def falling(count: int, width: int) -> np.ndarray:
    """Numbers as of a fit: the first ones, and the last, say most."""
    spread = 90 / (1 + np.arange(width) / 8)
    spread[-1] = 60
    return (np.random.default_rng(1).normal(size=(count, width)) * spread).clip(-127, 127).astype(np.int8)


@pytest.mark.parametrize("width", [1, 2, 63, 64, 65, 200])
@pytest.mark.parametrize("count", [1, 7, 999, 1000, 5000])
def test_few_views_are_looked_at_whole(width: int, count: int) -> None:
    codes, ids = falling(1000, width), np.arange(3, 3003, 3)
    near = opened(codes, ids)
    assert len(near) == 1000
    for features in np.random.default_rng(2).normal(size=(3, width)).astype(np.float32):
        exact = (codes.astype(np.float32) * features).astype(np.float64).sum(1)
        found = near.search(features, count)
        assert len(found.views) == min(count, 1000)
        assert (np.diff(found.scores) <= 0).all()
        by_id = dict(zip(ids.tolist(), exact, strict=True))
        assert np.allclose([by_id[view] for view in found.views.tolist()], found.scores, rtol=1e-5, atol=1e-3)
        assert found.scores[-1] >= np.sort(exact)[-len(found.views)] - 1e-3


@pytest.mark.parametrize("count", [10, 100])
def test_of_many_only_the_likely_are_looked_at_whole(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_AT_LEAST", 400)
    codes, ids = falling(20_000, 256), np.arange(20_000)
    near, held = opened(codes, ids), []
    for features in np.random.default_rng(3).normal(size=(20, 256)).astype(np.float32):
        some = near._likely(features, 400)
        assert 400 <= len(some) < 1500
        assert (np.diff(some) > 0).all()
        heads = heads_of(codes).astype(np.float32) @ heads_of(features[None])[0]
        assert np.isin(np.argsort(-heads)[:400], some).mean() == 1
        exact = codes.astype(np.float32) @ features
        found = near.search(features, count)
        held.append(np.isin(np.argsort(-exact)[:count], found.views).mean())
    assert np.mean(held) > 0.97


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("at_least", [400, 16384])
def test_only_views_asked_for(share: float, at_least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few: whole codes of all of them; many: heads of these, and of no others. Some are not there."""
    monkeypatch.setattr(scan, "_AT_LEAST", at_least)
    rng = np.random.default_rng(4)
    codes, ids = falling(5000, 200), np.arange(3, 15003, 3)
    near, held = opened(codes, ids), []
    among = np.union1d(ids[rng.random(5000) < share], [4, 5, 10**6])
    here = np.flatnonzero(np.isin(ids, among))
    for features in rng.normal(size=(10, 200)).astype(np.float32):
        exact = (codes[here].astype(np.float32) * features).astype(np.float64).sum(1)
        for count in (1, 20, 6000):
            found = near.search(features, count, among)
            assert len(found.views) == len(set(found.views.tolist())) == min(count, len(here))
            assert set(found.views.tolist()) <= set(ids[here].tolist())
            best = ids[here][np.argsort(-exact, kind="stable")[:count]]
            np.testing.assert_allclose(
                found.scores, exact[np.searchsorted(ids[here], found.views)], rtol=1e-5, atol=0.05
            )
            held.append(np.isin(best, found.views).mean() if len(best) else 1)
    assert np.mean(held) > (0.97 if at_least == 400 else 0.999)


def test_neighbours_that_are_alike_do_not_starve_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every view that the sample sees is far better than all others."""
    monkeypatch.setattr(scan, "_AT_LEAST", 300)
    monkeypatch.setattr(scan, "_SAMPLED", 100)
    codes = np.zeros((10_000, HEAD), np.int8)
    codes[::100, 0] = 100
    near = opened(codes, np.arange(10_000))
    features = np.eye(1, HEAD, dtype=np.float32)[0]
    assert len(near._likely(features, 300)) >= 300
    assert near.search(features, 100).views.tolist() == list(range(0, 10_000, 100))


def test_ties_go_by_view_id() -> None:
    codes = np.ones((50, 70), np.int8)
    codes[20:, 3] = 2
    ids = np.arange(50) * 7
    found = opened(codes, ids).search(np.ones(70, np.float32), 40)
    assert found.views.tolist() == (ids[20:].tolist() + ids[:10].tolist())


def test_nothing_in_it() -> None:
    found = opened(falling(0, 70), np.zeros(0, np.int64)).search(np.ones(70, np.float32), 5)
    assert len(found.views) == len(found.scores) == 0
    assert len(opened(falling(9, 70), np.arange(9)).search(np.ones(70, np.float32), 0).views) == 0
