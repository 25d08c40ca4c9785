"""The score predictor against the definition of kernel ridge regression; its codes, features and file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flairsearch.shortlist.score_predictor import ScorePredictor, fit

RNG = np.random.default_rng(0)
TEXTS = RNG.normal(size=(120, 6)).astype(np.float32) * 3


def scores_of(texts: np.ndarray, views: int, seed: int = 1) -> Any:
    """Return scores that are smooth functions of the text, one for each view: the larger of two cosines."""
    rng = np.random.default_rng(seed)
    unit = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    places = rng.normal(size=(2, views, 6))
    places /= np.linalg.norm(places, axis=-1, keepdims=True)
    return np.max(places @ unit.T, axis=0).astype(np.float32) + rng.normal(size=(views, 1)).astype(np.float32) / 4


def ridge(scores: np.ndarray, text: np.ndarray) -> Any:
    """Compute m + k(t, B) (K + l I)^-1 (s - m) in float64."""
    bank = TEXTS.astype(np.float64)
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    one = text.astype(np.float64) / np.linalg.norm(text)
    gram = np.exp(2 * (bank @ bank.T - 1))
    weights = np.linalg.solve(
        gram + 1e-4 * np.trace(gram) / len(bank) * np.eye(len(bank)), np.exp(2 * (bank @ one - 1))
    )
    mean = scores.mean(1, dtype=np.float64)
    return mean + (scores - mean[:, None]) @ weights


@pytest.mark.parametrize("width", [121, 500])
def test_equals_ridge_regression_at_full_width(width: int) -> None:
    """The only difference is the quantisation of codes."""
    made = fit(TEXTS, scores_of(TEXTS, 200), width)
    assert made.quant_steps.shape == (121,)
    assert made.anchors.tolist() == list(range(120))
    views = scores_of(TEXTS, 50, seed=2)
    codes = made.codes(views)
    assert codes.dtype == np.int8
    for text in RNG.normal(size=(9, 6)).astype(np.float32):
        found = codes @ made.features(text)
        errors = found - ridge(views, text)
        assert np.abs(errors).max() <= 0.06
        assert errors.std() <= 0.012
        assert np.allclose(made.features(text * 7), made.features(text), rtol=1e-4, atol=1e-6)


def test_predicts_texts_that_are_not_in_the_bank() -> None:
    """A few axes suffice, one axis and the mean do not; half of the bank as anchors is almost as good as all of it."""
    texts = RNG.normal(size=(40, 6)).astype(np.float32)
    exact, errors = scores_of(texts, 100, seed=3), {}
    for width, anchors in ((2, 120), (40, 120), (40, 60), (40, 5)):
        made = fit(TEXTS, scores_of(TEXTS, 300), width, anchors)
        assert (np.diff(made.anchors) > 0).all()
        codes = made.codes(scores_of(TEXTS[made.anchors], 100, seed=3))
        assert codes.shape == (100, width)
        errors[width, anchors] = (codes @ np.stack([made.features(text) for text in texts], 1) - exact).std()
    assert errors[40, 120] < 0.25 * exact.std()
    assert errors[2, 120] > 2 * errors[40, 120]
    assert errors[40, 60] < 1.3 * errors[40, 120]
    assert errors[40, 5] > 2 * errors[40, 120]


def test_anchors_are_the_most_informative_texts() -> None:
    """Of two equal texts, only one becomes an anchor."""
    twice = np.repeat(TEXTS[:30], 2, axis=0)
    made = fit(twice, scores_of(twice, 300), 20, 30)
    assert sorted(set(made.anchors // 2)) == list(range(30))


def test_scores_beyond_the_samples_are_clipped() -> None:
    """An 8-bit code is clipped at 127 on both sides, because one step more would change its sign."""
    made = fit(TEXTS, scores_of(TEXTS, 200), 121)
    views = scores_of(TEXTS, 50, seed=2)
    near, far = made.codes(views), made.codes(views * 1000)
    assert far.min() == -127
    assert far.max() == 127
    strong = np.abs(near.astype(int)) > 20
    assert (np.sign(far[strong]) == np.sign((made.offset + 1000 * (views @ made.view_matrix))[strong])).all()


def test_equal_views() -> None:
    made = fit(TEXTS, np.full((30, 120), 0.25, np.float32), 8)
    codes = made.codes(np.full((2, 120), 0.25, np.float32))
    assert np.allclose(codes @ made.features(TEXTS[0]), 0.25, atol=2e-3)


def test_a_saved_predictor_is_loaded(tmp_path: Path) -> None:
    made = fit(TEXTS, scores_of(TEXTS, 200), 16)
    made.save(tmp_path / "map.npz")
    found = ScorePredictor.load(tmp_path / "map.npz", 6)
    assert found is not None
    assert found.crc == made.crc
    assert (found.features(TEXTS[3]) == made.features(TEXTS[3])).all()
    assert fit(TEXTS, scores_of(TEXTS, 200, seed=4), 16).crc != made.crc
    assert ScorePredictor.load(tmp_path / "map.npz", 7) is None
    assert ScorePredictor.load(tmp_path / "none.npz", 6) is None


def test_invalid_files_are_not_loaded(tmp_path: Path) -> None:
    made, file = fit(TEXTS, scores_of(TEXTS, 200), 16), tmp_path / "map.npz"
    made.save(file)
    whole = file.read_bytes()
    arrays = dict(np.load(file))
    assert list(arrays) == ["texts", "asked", "gather", "offset", "lift", "steps"]  # Existing indexes have these keys.
    for cut in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:cut])
        assert ScorePredictor.load(file, 6) is None
    for name, value in (
        ("texts", made.texts.astype(np.float64)),
        ("gather", made.view_matrix[1:]),
        ("asked", made.anchors - 1),
        ("asked", made.anchors + 1),
        ("asked", made.anchors.astype(np.int32)),
        ("lift", made.text_matrix[:, 1:]),
        ("steps", -made.quant_steps),
        ("steps", made.quant_steps[:0]),
        ("texts", np.full_like(made.texts, np.nan)),
        ("offset", np.zeros(2, np.float32)),
        ("gather", np.array([None], object)),
    ):
        np.savez(file, **(arrays | {name: value}))
        assert ScorePredictor.load(file, 6) is None, name
    np.savez(file, **{name: value for name, value in arrays.items() if name != "lift"})
    assert ScorePredictor.load(file, 6) is None
    for place in range(0, len(whole), 501):
        bent = bytearray(whole)
        bent[place] ^= 0x10
        file.write_bytes(bent)
        found = ScorePredictor.load(file, 6)  # A flip in unused bytes leaves the predictor unchanged.
        assert found is None or found.crc == made.crc
