"""Exact scores of some texts -> a small vector a view, whose inner product with any text's features is its score.

Kernel ridge regression (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, section 2.2) over a bank
of texts B, a view's score as a function of the text: s(t) = m + k(t, B) (K + l)^-1 (s_B - m), with s_B the view's exact
scores of the bank's texts, m their mean and k(t, t') = exp(2 (cos(t, t') - 1)). Scores of all views vary along few
directions V (their principal axes): z = V^T (s_B - m) and m are the vector, in a byte a number, and
V^T (K + l)^-1 k(B, t) and 1 the features.

Scores of texts alike are alike, so a view is asked for some of them only, I, and the rest is what is most likely then:
E[z | s_I] = E[z] + cov(z, s_I) cov(s_I)^-1 (s_I - E[s_I]), means and covariances over a sample of views.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.npz import Layout, load_arrays, save_arrays

FIT_SAMPLE_VIEWS = 2000  # A fit is made from the scores of at most this many views, each of all the bank's texts.
WIDTH = 512  # numbers a view
ASKED = 900  # texts of the bank that every view is asked for
_KERNEL = 2.0
_RIDGE = 1e-4  # of the kernel's mean diagonal
_PRIOR = 0.02  # of what varies: texts alike have scores alike, also where the sample has not shown it
_NOISE = 1e-5  # of the mean variance of a score
_SPARE = 1.25  # codes reach so much further than the sample's numbers

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class ScorePredictor:
    """What turns a view's scores into codes, and a text into the features they are multiplied with."""

    texts: F32  # [B, D] vectors of the bank, as the model gives them
    asked: NDArray[np.int64]  # [I] which of them views are asked for
    gather: F32  # [I, W] their scores to the view's numbers,
    offset: F32  # [W] and what is added
    lift: F32  # [B, W - 1] (K + l)^-1 V
    steps: F32  # [W] of the codes

    @cached_property
    def crc(self) -> int:
        """CRC-32 of its numbers: codes are those of one fit."""
        value = 0
        for name in _LAYOUT:
            value = zlib.crc32(np.ascontiguousarray(getattr(self, name)).data, value)
        return value

    @cached_property
    def _directions(self) -> F32:
        return _unit(self.texts)

    def codes(self, scores: F32) -> NDArray[np.int8]:
        """Exact scores of the texts asked for, f32[n, I] -> i8[n, W]."""
        numbers = scores @ self.gather + self.offset
        codes: NDArray[np.int8] = np.rint(numbers / self.steps).clip(-127, 127).astype(np.int8)
        return codes

    def features(self, text: F32) -> F32:
        """Text vector f32[D], any length -> f32[W]; codes @ features predicts the exact scores."""
        near = _kernel(_unit(text[None]), self._directions)[0]
        return np.append(near @ self.lift, np.float32(1)) * self.steps

    def save(self, path: Path) -> None:
        """Numbers only, in numpy's own format; durable, and whole or not at all, is the caller's care."""
        save_arrays(path, {name: getattr(self, name) for name in _LAYOUT})

    @staticmethod
    def load(path: Path, dim: int) -> ScorePredictor | None:
        """None when the file is no fit for texts of D dimensions."""
        try:
            fit = ScorePredictor(**load_arrays(path, _LAYOUT))
        except (OSError, ValueError):
            return None
        return fit if fit._is_sound(dim) else None

    def _is_sound(self, dim: int) -> bool:
        """Whether dimensions are those asked for, steps are above 0, and the texts asked for are in the bank."""
        fits = self.texts.shape[1] == dim and self.lift.shape[1] == len(self.steps) - 1
        there = 0 <= self.asked.min() <= self.asked.max() < len(self.texts)
        return bool(fits and there and (self.steps > 0).all())


_LAYOUT: Layout = {
    "texts": (np.float32, "B D"),
    "asked": (np.int64, "I"),
    "gather": (np.float32, "I W"),
    "offset": (np.float32, "W"),
    "lift": (np.float32, "B V"),
    "steps": (np.float32, "W"),
}


def fit(texts: F32, scores: F32, width: int = WIDTH, asked: int = ASKED) -> ScorePredictor:
    """Text vectors of a bank f32[B, D], exact scores of a sample of views f32[n, B] -> Fit; at most B + 1 wide."""
    bank = len(texts)
    width, asked = min(width, bank + 1), min(asked, bank)
    directions = _unit(texts)
    kernel = _kernel(directions, directions).astype(np.float64)
    axes = np.linalg.eigh(_covariance(scores - scores.mean(1, keepdims=True), kernel))[1][:, ::-1][:, : width - 1]
    numbers = np.column_stack([axes - axes.mean(0), np.full(bank, 1 / bank)])  # [B, W]: z and m of scores
    mean, covariance = scores.mean(0, dtype=np.float64), _covariance(scores - scores.mean(0), kernel)
    chosen = _pivots(covariance, asked)
    likely = covariance[np.ix_(chosen, chosen)]
    likely[np.diag_indices(asked)] += _NOISE * covariance.trace() / bank
    gather = np.linalg.solve(likely, covariance[chosen] @ numbers)
    offset = mean @ numbers - mean[chosen] @ gather
    kernel[np.diag_indices(bank)] += _RIDGE * kernel.trace() / bank
    lift = np.linalg.solve(kernel, axes)
    reach = np.abs(scores[:, chosen] @ gather + offset).max(0)
    steps = np.maximum(reach * _SPARE / 127, 1e-9)
    return ScorePredictor(texts, chosen, *(array.astype(np.float32) for array in (gather, offset, lift, steps)))


def _covariance(varying: F32, kernel: F64) -> F64:
    """Of what varies over the views, f32[n, B], and as much as the prior says where n views cannot: f64[B, B]."""
    varying64 = varying.astype(np.float64)
    covariance: F64 = varying64.T @ varying64 / len(varying)
    covariance += (_PRIOR * covariance.trace() + 1e-9) / kernel.trace() * kernel
    return covariance


def _pivots(covariance: F64, count: int) -> NDArray[np.int64]:
    """One after the other what the ones before say least of: a Cholesky decomposition with pivoting."""
    rest, rows, chosen = covariance.diagonal().copy(), np.empty((count, len(covariance))), np.empty(count, np.int64)
    least = max(1e-12 * rest.max(), 1e-30)  # less is rounding: where all is said already
    for i in range(count):
        chosen[i] = pivot = int(np.argmax(rest))
        rows[i] = (covariance[pivot] - rows[:i, pivot] @ rows[:i]) / np.sqrt(max(rest[pivot], least))
        rest -= rows[i] ** 2
        rest[pivot] = -np.inf
    return np.sort(chosen)


def _kernel(a: F32, b: F32) -> F32:
    """Unit vectors f32[n, D], f32[m, D] -> f32[n, m]."""
    near: F32 = np.exp(np.float32(_KERNEL) * (a @ b.T - 1))
    return near


def _unit(vectors: F32) -> F32:
    unit: F32 = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit
