"""False alarms against known distributions: normal, bounded and exponential scores, known numbers of views."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from flairsearch.confidence import FEWEST, VIEWS, Background, sample_places

Draw = Callable[..., np.ndarray]


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (0.1 + 0.08 * rng.normal(size=shape)).astype(np.float32)


def bounded(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """The tail of beta(3, 4) ends at 1: maxima of the reverse Weibull kind, each doubling adds 2^(-1/4) of the last."""
    return rng.beta(3, 4, size=shape).astype(np.float32)


def exponential(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Every doubling adds as much."""
    return rng.exponential(0.05, size=shape).astype(np.float32)


def made(scores: np.ndarray, views: int, weights: tuple[float, ...] = (1.0,)) -> Background:
    background = Background.of(scores, views, weights)
    assert background is not None
    return background


def alarms(background: Background, best: np.ndarray) -> np.ndarray:
    return background.false_alarm(best.astype(np.float32))


def share_between(alarm: np.ndarray, rate: float) -> bool:
    """Whether as many alarms as the rate says are below it: four deviations of the binomial, and of the bank's own."""
    spread = 4 * np.sqrt(rate * (1 - rate) * (1 / len(alarm) + 1 / 600))
    return bool(abs(float((alarm <= rate).mean()) - rate) <= spread + 1 / 600)


@pytest.mark.parametrize("draw", [normal, bounded, exponential])
@pytest.mark.parametrize("views", [1, 7, 50, 200])
def test_absent_queries_alarm_as_often_as_asked(draw: Draw, views: int) -> None:
    """Texts of the same kind, of which nothing is in the index: the best of as many views as were searched."""
    rng = np.random.default_rng(views)
    background = made(draw(rng, 200, 600), views)
    best = draw(rng, views, 4000).max(0)
    for rate in (0.01, 0.05, 0.1, 0.5):
        assert share_between(alarms(background, best), rate)


@pytest.mark.parametrize("draw", [normal, bounded, exponential])
@pytest.mark.parametrize("views", [400, 1000, 4000])
def test_foretells_views_that_were_not_looked_at(draw: Draw, views: int) -> None:
    """20 times as many: the middle is right; the spread stays, which in truth shrinks where scores are bounded."""
    rng = np.random.default_rng(views)
    background = made(draw(rng, 200, 600), views)
    best = np.array([draw(rng, views).max() for _ in range(2000)])
    assert abs(np.median(best) - np.median(background.best)) <= 0.75 * best.std()
    alarm = alarms(background, best)
    assert (alarm <= 0.01).mean() <= 0.025
    assert (alarm <= 0.1).mean() <= 0.2
    assert np.median(background.best) > np.median(made(draw(rng, 200, 600), 200).best)


def test_is_the_p_value_as_defined() -> None:
    scores = np.random.default_rng(0).normal(size=(30, 150)).astype(np.float32)
    background = made(scores, 30)
    asked = np.array([scores.max(0)[3], -9.0, 9.0], np.float32)
    expected = [(1 + (scores.max(0) >= one).sum()) / 151 for one in asked]
    assert background.false_alarm(asked).tolist() == expected
    assert expected[1:] == [1.0, 1 / 151]


def test_never_larger_for_a_higher_score() -> None:
    rng = np.random.default_rng(0)
    for views in (1, 20, 100, 5000):
        alarm = made(normal(rng, 100, 200), views).false_alarm(np.linspace(-1, 1, 500, dtype=np.float32))
        assert (np.diff(alarm) <= 0).all()
        assert (alarm > 0).all()
        assert (alarm <= 1).all()


def test_more_views_more_false_alarms() -> None:
    scores, rng = np.array([0.3, 0.35], np.float32), np.random.default_rng(0)
    sample = normal(rng, 128, 400)
    alarm = [made(sample, views).false_alarm(scores) for views in (1, 16, 64, 128, 1000, 100_000)]
    assert all((after >= before).all() for before, after in itertools.pairwise(alarm))


def test_order_does_not_matter() -> None:
    """Of texts never; of views where as many were searched or more; little where fewer were."""
    rng = np.random.default_rng(0)
    scores, hits = normal(rng, 120, 300), np.linspace(0.1, 0.5, 40, dtype=np.float32)
    texts, views = scores[:, rng.permutation(300)], scores[rng.permutation(120)]
    for count in (20, 120, 2000):
        assert np.allclose(made(texts, count).best, made(scores, count).best, rtol=0, atol=1e-12)
    assert np.array_equal(made(views, 120).best, made(scores, 120).best)
    assert np.allclose(made(views, 2000).best, made(scores, 2000).best, rtol=0, atol=1e-12)
    assert np.abs(made(views, 20).false_alarm(hits) - made(scores, 20).false_alarm(hits)).max() < 0.05


def test_texts_that_the_index_does_answer_make_it_more_careful() -> None:
    """1 in 50 of the bank describes photos: the best that are no match keep their alarm, but for those few."""
    rng = np.random.default_rng(0)
    scores = normal(rng, 200, 600)
    answered = scores.copy()
    answered[rng.integers(200, size=12), rng.permutation(600)[:12]] = 0.9
    hits = np.linspace(0, 1, 200, dtype=np.float32)
    for views in (200, 2000):
        before, after = (made(some, views).false_alarm(hits) for some in (scores, answered))
        assert (after >= before - (1e-9 if views == 200 else 0.02)).all()
        assert (after - before).max() <= 0.02 + (0 if views == 200 else 0.1)


def test_phrases_are_averaged() -> None:
    """The best of averages of two or three texts, with their weights; the mean of more texts reaches less high."""
    rng = np.random.default_rng(0)
    sample = normal(rng, 200, 600)
    for weights in ((1.0, 1.0), (3.0, 1.0), (1.0, 2.0, 1.0)):
        shares = np.array(weights) / sum(weights)
        best = sum(s * normal(rng, 200, 3000) for s in shares).max(0)
        for rate in (0.01, 0.05, 0.1):
            assert share_between(alarms(made(sample, 200, weights), best), rate)
    assert np.median(made(sample, 200, (1, 1)).best) < np.median(made(sample, 200).best) - 0.05
    assert np.allclose(made(sample, 200, (2.0,)).best, made(sample, 200).best)


@pytest.mark.parametrize(
    ("shape", "views"),
    [((0, 600), 5), ((50, FEWEST - 1), 50), ((50,), 50), ((50, 600), 0), ((5, 600), 50), ((0, 0), 0)],
)
def test_nobody_knows(shape: tuple[int, ...], views: int) -> None:
    """Too few texts (one's own scores alone are none), no views, too few of them for what was searched."""
    assert Background.of(normal(np.random.default_rng(0), *shape), views) is None


def test_equal_scores_say_nothing() -> None:
    assert Background.of(np.full((50, 600), 0.2, np.float32), 50) is None


def test_small_indexes_have_a_background() -> None:
    """Where all views were looked at, one is enough; where all are the same, more of them add nothing."""
    rng = np.random.default_rng(0)
    assert made(normal(rng, 1, 600), 1).best.shape == (600,)
    assert made(normal(rng, 5, 600), 5).best.shape == (600,)
    same = np.repeat(normal(rng, 1, 600), 20, axis=0)
    assert np.allclose(made(same, 1000).best, np.sort(same[0]), rtol=0, atol=1e-9)


def test_places_are_spread_evenly() -> None:
    assert sample_places(0).tolist() == []
    assert sample_places(3).tolist() == [0, 1, 2]
    places = sample_places(10 * VIEWS + 7)
    assert len(places) == VIEWS == len(np.unique(places))
    assert places[0] == 0
    assert places[-1] < 10 * VIEWS + 7
    assert set(np.diff(places).tolist()) <= {10, 11}
