"""The two-pass scan of codes against all inner products."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flairsearch.shortlist import code_scan
from flairsearch.shortlist.code_scan import PREFIX_DIMS, CodeScan, multiply_codes, prefix_of

START = 5  # A code begins at this byte of its row.


def opened(codes: np.ndarray, ids: np.ndarray, seed: int = 0, is_compiled: bool = True) -> CodeScan:
    """Make a scan whose rows are in another order than the ids, with unrelated rows between them."""
    places = np.random.default_rng(seed).permutation(2 * len(codes))[: len(codes)].astype(np.int64)
    rows = np.full((2 * len(codes), START + codes.shape[1] + 3), 99, np.int8)
    rows[places, START : START + codes.shape[1]] = codes
    return CodeScan(ids, prefix_of(codes), places, rows, START, is_compiled)


def decaying_codes(count: int, width: int) -> np.ndarray:
    """Draw codes like a predictor's: the first values and the last one have the largest variance."""
    spread = 90 / (1 + np.arange(width) / 8)
    spread[-1] = 60
    return (np.random.default_rng(1).normal(size=(count, width)) * spread).clip(-127, 127).astype(np.int8)


@given(
    width=st.sampled_from([1, 2, 63, 64, 65, 200]) | st.integers(1, 200),
    count=st.sampled_from([1, 7, 999, 1000, 5000]) | st.integers(1, 1100),
)
@example(width=1, count=1)
@example(width=1, count=5000)
@example(width=2, count=7)
@example(width=63, count=999)
@example(width=64, count=1000)
@example(width=65, count=1)
@example(width=65, count=5000)
@example(width=200, count=7)
@example(width=200, count=1000)
def test_the_search_is_exact_for_few_views(width: int, count: int) -> None:
    codes, ids = decaying_codes(1000, width), np.arange(3, 3003, 3)
    scan = opened(codes, ids)
    assert len(scan) == 1000
    for features in np.random.default_rng(2).normal(size=(3, width)).astype(np.float32):
        exact = (codes.astype(np.float32) * features).astype(np.float64).sum(1)
        found = scan.search(features, count)
        assert len(found.views) == min(count, 1000)
        assert (np.diff(found.scores) <= 0).all()
        by_id = dict(zip(ids.tolist(), exact, strict=True))
        assert np.allclose([by_id[view] for view in found.views.tolist()], found.scores, rtol=1e-5, atol=1e-3)
        assert found.scores[-1] >= np.sort(exact)[-len(found.views)] - 1e-3


@pytest.mark.parametrize("count", [10, 100])
def test_only_coarse_candidates_of_many_views_are_refined(count: int) -> None:
    codes, ids = decaying_codes(20_000, 256), np.arange(20_000)
    scan, recalls = opened(codes, ids), []
    for features in np.random.default_rng(3).normal(size=(20, 256)).astype(np.float32):
        candidates = scan.coarse_candidates(features, 400)
        assert 400 <= len(candidates) < 1500
        assert (np.diff(candidates) > 0).all()
        heads = prefix_of(codes).astype(np.float32) @ prefix_of(features[None])[0]
        assert np.isin(np.argsort(-heads)[:400], candidates).mean() == 1
        exact = codes.astype(np.float32) @ features
        found = scan.search(features, count, min_refined=400)
        recalls.append(np.isin(np.argsort(-exact)[:count], found.views).mean())
    assert np.mean(recalls) > 0.97


@pytest.mark.parametrize("min_refined", [400, 16384])
def test_the_search_is_restricted_to_given_views(min_refined: int) -> None:
    """Few views are all refined; of many views, only their prefixes are read. Some of the given ids do not exist."""
    codes, ids = decaying_codes(5000, 200), np.arange(3, 15003, 3)
    scan = opened(codes, ids)
    for share in (0.0, 0.001, 0.02, 0.5, 1.0):
        rng, recalls = np.random.default_rng(4), []
        among = np.union1d(ids[rng.random(5000) < share], [4, 5, 10**6])
        here = np.flatnonzero(np.isin(ids, among))
        for features in rng.normal(size=(10, 200)).astype(np.float32):
            exact = (codes[here].astype(np.float32) * features).astype(np.float64).sum(1)
            for count in (1, 20, 6000):
                found = scan.search(features, count, among, min_refined=min_refined)
                assert len(found.views) == len(set(found.views.tolist())) == min(count, len(here)), share
                assert set(found.views.tolist()) <= set(ids[here].tolist()), share
                best = ids[here][np.argsort(-exact, kind="stable")[:count]]
                np.testing.assert_allclose(
                    found.scores, exact[np.searchsorted(ids[here], found.views)], rtol=1e-5, atol=0.05
                )
                recalls.append(np.isin(best, found.views).mean() if len(best) else 1)
        assert np.mean(recalls) > (0.97 if min_refined == 400 else 0.999), share


def test_an_unrepresentative_sample_still_gives_enough_candidates() -> None:
    """Every view in the sample scores far better than all others."""
    codes = np.zeros((10_000, PREFIX_DIMS), np.int8)
    codes[::100, 0] = 100
    scan = opened(codes, np.arange(10_000))
    features = np.eye(1, PREFIX_DIMS, dtype=np.float32)[0]
    assert len(scan.coarse_candidates(features, 300, sampled_scores=100)) >= 300
    found = scan.search(features, 100, min_refined=300, sampled_scores=100)
    assert found.views.tolist() == list(range(0, 10_000, 100))


def test_ties_are_broken_by_view_id() -> None:
    codes = np.ones((50, 70), np.int8)
    codes[20:, 3] = 2
    ids = np.arange(50) * 7
    found = opened(codes, ids).search(np.ones(70, np.float32), 40)
    assert found.views.tolist() == (ids[20:].tolist() + ids[:10].tolist())


def test_an_empty_scan() -> None:
    found = opened(decaying_codes(0, 70), np.zeros(0, np.int64)).search(np.ones(70, np.float32), 5)
    assert len(found.views) == len(found.scores) == 0
    assert len(opened(decaying_codes(9, 70), np.arange(9)).search(np.ones(70, np.float32), 0).views) == 0


# -- without numba


@given(
    width=st.sampled_from([1, 64, 65, 200]) | st.integers(1, 200),
    size=st.sampled_from([1, 7, 100, 1000]) | st.integers(1, 1000),
    selection=st.sampled_from(["all in a row", "some", "the same often", "none"]),
    seed=st.integers(0, 2**32 - 1),
)
@example(width=1, size=1, selection="all in a row", seed=1)
@example(width=200, size=1000, selection="all in a row", seed=200)
@example(width=65, size=7, selection="some", seed=65)
@example(width=1, size=100, selection="some", seed=1)
@example(width=64, size=100, selection="the same often", seed=64)
@example(width=65, size=1, selection="the same often", seed=65)
@example(width=200, size=7, selection="none", seed=200)
def test_products_are_equal_without_numba(width: int, size: int, selection: str, seed: int) -> None:
    """Rows are wider than the codes, which begin at any byte of a row."""
    rng = np.random.default_rng(seed)
    start = 0 if selection == "all in a row" else START
    rows = rng.integers(-127, 128, (500, start + width + (3 if start else 0))).astype(np.int8)
    places = {
        "all in a row": None,
        "some": rng.permutation(500)[:333].astype(np.int64),
        "the same often": rng.integers(0, 5, 777),
        "none": np.zeros(0, np.int64),
    }[selection]
    features = rng.normal(size=width).astype(np.float32)
    found = [np.full(500 if places is None else len(places), np.nan, np.float32) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code_scan, "_BYTES_PER_TASK", size * width)
        for scores, is_compiled in zip(found, (True, False), strict=True):
            multiply_codes(rows, places, start, features, scores, is_compiled)
    chosen = rows if places is None else rows[places]
    exact = chosen[:, start : start + width].astype(float) @ features.astype(float)
    for scores in found:
        np.testing.assert_allclose(scores, exact, rtol=0, atol=1e-6 * 127 * max(1, np.abs(features).sum()))


@pytest.mark.parametrize("min_refined", [400, 16384])
def test_the_same_views_are_found_without_numba(min_refined: int) -> None:
    codes, ids = decaying_codes(9000, 200), np.arange(3, 27_003, 3)
    several = np.random.default_rng(7).normal(size=(5, 200)).astype(np.float32)
    among = ids[::2]
    cases = [(features, 30, allowed) for features in several for allowed in (None, among)]
    compiled, plain = (
        [opened(codes, ids, is_compiled=is_compiled).search(*case, min_refined=min_refined) for case in cases]
        for is_compiled in (True, False)
    )
    for found, other in zip(compiled, plain, strict=True):
        np.testing.assert_array_equal(found.views, other.views)
        np.testing.assert_allclose(found.scores, other.scores, rtol=1e-5)


@pytest.mark.parametrize("is_compiled", [True, False])
def test_equal_codes_have_equal_scores(is_compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (70, 640):
        rng = np.random.default_rng(0)
        codes = np.tile(rng.integers(-127, 128, (61, width)).astype(np.int8), (7, 1))
        scores = np.empty(len(codes), np.float32)
        monkeypatch.setattr(code_scan, "_BYTES_PER_TASK", 100 * width)
        multiply_codes(codes, None, 0, rng.normal(size=width).astype(np.float32), scores, is_compiled)
        np.testing.assert_array_equal(scores.reshape(7, 61), np.tile(scores[:61], (7, 1)))


def test_a_scan_that_is_not_compiled_loads_no_numba() -> None:
    code = (
        "import sys; import numpy as np; from flairsearch.shortlist.code_scan import CodeScan, prefix_of\n"
        "codes = np.random.default_rng(0).integers(-9, 9, (70_000, 80)).astype(np.int8); ids = np.arange(70_000)\n"
        "scan = CodeScan(ids, prefix_of(codes), ids, codes, 0, is_compiled=False)\n"
        "found = scan.search(np.ones(80, np.float32), 10)\n"
        "assert found.scores[0] == codes.sum(1).max(); assert 'numba' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
