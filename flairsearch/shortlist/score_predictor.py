"""Predict a view's FLAIR score for any text from a small code, fitted to the view's exact scores for some texts.

Kernel ridge regression (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, section 2.2) over a bank
of texts B treats a view's score as a function of the text: s(t) = m + k(t, B) (K + l I)^-1 (s_B - m). Here s_B are the
view's exact scores for the bank, m is their mean and k(t, t') = exp(2 (cos(t, t') - 1)). The scores of all views vary
along few principal axes V. So a view is stored as z = V^T (s_B - m) and m, one byte per number; the features of a text
are V^T (K + l I)^-1 k(B, t) and 1; the inner product of both is the predicted score.

Similar texts have similar scores, so each view is scored for a subset I of the bank only, the anchors. The other scores
are replaced by their conditional expectation, with means and covariances over a sample of views:
E[z | s_I] = E[z] + cov(z, s_I) cov(s_I)^-1 (s_I - E[s_I]).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.npz import Layout, load_arrays, save_arrays

FIT_SAMPLE_VIEWS = 2000  # A predictor is fitted to at most this number of views, each scored for the whole bank.
CODE_WIDTH = 512  # A view's code has this number of bytes.
ANCHOR_TEXTS = 900  # Every view is scored for this number of the bank's texts.
_KERNEL_SCALE = 2.0  # The factor in the kernel's exponent.
_RIDGE_FRACTION = 1e-4  # The ridge l, as a fraction of the kernel's mean diagonal.
_PRIOR_FRACTION = 0.02  # The prior's share of the variance: similar texts have similar scores, even outside the sample.
_NOISE_FRACTION = 1e-5  # The noise variance of an anchor's score, as a fraction of the mean variance of a score.
_HEADROOM = 1.25  # Codes can represent values larger than the sample's largest by this factor.

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class ScorePredictor:
    """Turns a view's exact scores into a code, and a text into the features that the code is multiplied by."""

    texts: F32  # [B, D]: the vectors of the bank's texts, as the model gives them.
    anchors: NDArray[np.int64]  # [I]: the indices of the texts that views are scored for, ascending.
    view_matrix: F32  # [I, W]: maps a view's anchor scores to the values of its code.
    offset: F32  # [W]: is added to these values.
    text_matrix: F32  # [B, W - 1]: maps a text's kernel values to its features, (K + l I)^-1 V.
    quant_steps: F32  # [W]: the quantisation step of each value.

    @cached_property
    def crc(self) -> int:
        """CRC-32 of all arrays; it identifies the predictor that codes belong to."""
        value = 0
        for name in _FIELD_OF_KEY.values():
            value = zlib.crc32(np.ascontiguousarray(getattr(self, name)).data, value)
        return value

    @cached_property
    def _unit_texts(self) -> F32:
        return _normalise(self.texts)

    def codes(self, scores: F32) -> NDArray[np.int8]:
        """Encode n views: exact scores for the anchors f32[n, I] to codes i8[n, W]."""
        values = scores @ self.view_matrix + self.offset
        codes: NDArray[np.int8] = np.rint(values / self.quant_steps).clip(-127, 127).astype(np.int8)
        return codes

    def features(self, text: F32) -> F32:
        """Return the features f32[W] of a text vector f32[D] of any length; codes @ features predicts the scores."""
        similarity = _kernel(_normalise(text[None]), self._unit_texts)[0]
        return np.append(similarity @ self.text_matrix, np.float32(1)) * self.quant_steps

    def save(self, path: Path) -> None:
        """Write an npz file; the caller makes the write atomic and durable. Raises OSError."""
        save_arrays(path, {key: getattr(self, name) for key, name in _FIELD_OF_KEY.items()})

    @staticmethod
    def load(path: Path, dim: int) -> ScorePredictor | None:
        """Return the predictor in a file; None if there is none or it is not for texts of D dimensions."""
        try:
            arrays = load_arrays(path, _LAYOUT)
        except (OSError, ValueError):
            return None
        predictor = ScorePredictor(**{_FIELD_OF_KEY[key]: array for key, array in arrays.items()})
        return predictor if predictor._is_consistent(dim) else None

    def _is_consistent(self, dim: int) -> bool:
        """Whether the dimensions are the requested ones, the steps are positive and the anchors are in the bank."""
        has_dims = self.texts.shape[1] == dim and self.text_matrix.shape[1] == len(self.quant_steps) - 1
        has_anchors = 0 <= self.anchors.min() <= self.anchors.max() < len(self.texts)
        return bool(has_dims and has_anchors and (self.quant_steps > 0).all())


_LAYOUT: Layout = {
    "texts": (np.float32, "B D"),
    "asked": (np.int64, "I"),
    "gather": (np.float32, "I W"),
    "offset": (np.float32, "W"),
    "lift": (np.float32, "B V"),
    "steps": (np.float32, "W"),
}
"""The arrays of a file. Their keys are part of the format of existing indexes."""

_FIELD_OF_KEY = {
    "texts": "texts",
    "asked": "anchors",
    "gather": "view_matrix",
    "offset": "offset",
    "lift": "text_matrix",
    "steps": "quant_steps",
}
"""The field of each key of a file; the CRC-32 covers the arrays in this order."""


def fit(texts: F32, scores: F32, width: int = CODE_WIDTH, anchors: int = ANCHOR_TEXTS) -> ScorePredictor:
    """Fit a predictor with codes of at most B + 1 bytes.

    texts: f32[B, D], the vectors of the bank. scores: f32[n, B], exact scores of a sample of views.
    """
    bank = len(texts)
    width, anchors = min(width, bank + 1), min(anchors, bank)
    units = _normalise(texts)
    kernel = _kernel(units, units).astype(np.float64)
    axes = np.linalg.eigh(_covariance(scores - scores.mean(1, keepdims=True), kernel))[1][:, ::-1][:, : width - 1]
    # f64[B, W]: maps the scores of the whole bank to z and m.
    code_map = np.column_stack([axes - axes.mean(0), np.full(bank, 1 / bank)])
    mean, covariance = scores.mean(0, dtype=np.float64), _covariance(scores - scores.mean(0), kernel)
    chosen = _pivoted_cholesky(covariance, anchors)
    anchor_covariance = covariance[np.ix_(chosen, chosen)]
    anchor_covariance[np.diag_indices(anchors)] += _NOISE_FRACTION * covariance.trace() / bank
    view_matrix = np.linalg.solve(anchor_covariance, covariance[chosen] @ code_map)
    offset = mean @ code_map - mean[chosen] @ view_matrix
    kernel[np.diag_indices(bank)] += _RIDGE_FRACTION * kernel.trace() / bank
    text_matrix = np.linalg.solve(kernel, axes)
    largest = np.abs(scores[:, chosen] @ view_matrix + offset).max(0)
    quant_steps = np.maximum(largest * _HEADROOM / 127, 1e-9)
    arrays = (view_matrix, offset, text_matrix, quant_steps)
    return ScorePredictor(texts, chosen, *(array.astype(np.float32) for array in arrays))


def _covariance(centred: F32, kernel: F64) -> F64:
    """Return the covariance f64[B, B] of centred scores f32[n, B], plus a multiple of the kernel as a prior."""
    centred64 = centred.astype(np.float64)
    covariance: F64 = centred64.T @ centred64 / len(centred)
    covariance += (_PRIOR_FRACTION * covariance.trace() + 1e-9) / kernel.trace() * kernel
    return covariance


def _pivoted_cholesky(covariance: F64, count: int) -> NDArray[np.int64]:
    """Select `count` texts, ascending: each is the one whose score the texts before it predict worst."""
    variance, rows, chosen = covariance.diagonal().copy(), np.empty((count, len(covariance))), np.empty(count, np.int64)
    floor = max(1e-12 * variance.max(), 1e-30)  # Smaller remaining variances are rounding errors.
    for i in range(count):
        chosen[i] = pivot = int(np.argmax(variance))
        rows[i] = (covariance[pivot] - rows[:i, pivot] @ rows[:i]) / np.sqrt(max(variance[pivot], floor))
        variance -= rows[i] ** 2
        variance[pivot] = -np.inf
    return np.sort(chosen)


def _kernel(a: F32, b: F32) -> F32:
    """Return the kernel f32[n, m] of unit vectors f32[n, D] and f32[m, D]."""
    kernel: F32 = np.exp(np.float32(_KERNEL_SCALE) * (a @ b.T - 1))
    return kernel


def _normalise(vectors: F32) -> F32:
    """Scale vectors [n, D] to unit length."""
    unit: F32 = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit
