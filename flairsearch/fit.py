"""Exact scores of a bank of texts -> a small vector a view, whose inner product with a text's features is its score.

Kernel ridge regression (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, section 2.2), a view's
score as a function of the text: s(t) = m + k(t, B) (K + l)^-1 (s_B - m), with s_B the view's exact scores of the bank's
texts, m their mean and k(t, t') = exp(2 (cos(t, t') - 1)). Scores of all views vary along few directions V (their
principal axes): z = V^T (s_B - m) and m are the vector, in a byte a number, V^T (K + l)^-1 k(B, t) and 1 the features.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flairsearch.basis import NO_ARRAYS

WIDTH = 512  # numbers a view
_KERNEL = 2.0
_RIDGE = 1e-4  # of the kernel's mean diagonal
_PRIOR = 0.02  # of what varies: texts alike have scores alike, also where the sample has not shown it
_SPARE = 1.25  # codes reach so much further than the sample's numbers

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Fit:
    """What turns a view's scores into codes, and a text into the features they are multiplied with."""

    texts: F32  # [B, D] vectors of the bank, as the model gives them
    axes: F32  # [B, W - 1] V
    lift: F32  # [B, W - 1] (K + l)^-1 V
    steps: F32  # [W] of the codes
    centre: float  # mean of all scores

    @cached_property
    def crc(self) -> int:
        """CRC-32 of its numbers: codes are those of one fit."""
        value = 0
        for array in (self.texts, self.axes, self.lift, self.steps):
            value = zlib.crc32(np.ascontiguousarray(array).data, value)
        return value

    @cached_property
    def _directions(self) -> F32:
        return _unit(self.texts)

    def codes(self, scores: F32) -> NDArray[np.int8]:
        """Exact scores of the bank's texts f32[n, B] -> i8[n, W]."""
        codes: NDArray[np.int8] = (
            np.rint(_numbers(scores, self.axes, self.centre) / self.steps).clip(-127, 127).astype("i1")
        )
        return codes

    def features(self, text: F32) -> F32:
        """Text vector f32[D], any length -> f32[W]; codes @ features + centre predicts the exact scores."""
        near = _kernel(_unit(text[None]), self._directions)[0]
        return np.append(near @ self.lift, np.float32(1)) * self.steps

    def save(self, path: Path) -> None:
        with path.open("wb") as stream:
            np.savez(stream, texts=self.texts, axes=self.axes, lift=self.lift, steps=self.steps, centre=self.centre)

    @staticmethod
    def load(path: Path, dim: int) -> Fit | None:
        """None when the file is no fit for texts of D dimensions; nothing in it is executed."""
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                texts, axes, lift, steps = (arrays[name] for name in ("texts", "axes", "lift", "steps"))
                centre = arrays["centre"]
        except (OSError, *NO_ARRAYS):
            return None
        if any(array.dtype != np.float32 for array in (texts, axes, lift, steps)) or centre.shape != ():
            return None
        if texts.ndim != 2 or texts.shape[1] != dim or steps.ndim != 1 or not len(steps):
            return None
        if not axes.shape == lift.shape == (len(texts), len(steps) - 1):
            return None
        if not all(np.isfinite(array).all() for array in (texts, axes, lift, steps, centre)) or not (steps > 0).all():
            return None
        return Fit(texts, axes, lift, steps, float(centre))


def fit(texts: F32, scores: F32, width: int = WIDTH) -> Fit:
    """Text vectors of a bank f32[B, D], exact scores of a sample of views f32[n, B] -> Fit; at most B + 1 wide."""
    width, directions = min(width, len(texts) + 1), _unit(texts)
    kernel = _kernel(directions, directions).astype(np.float64)
    centre = float(scores.mean())
    varying = (scores - scores.mean(1, keepdims=True)).astype(np.float64)
    variance = varying.T @ varying / len(scores)
    variance += (_PRIOR * np.trace(variance) + 1e-9) / np.trace(kernel) * kernel
    axes = np.linalg.eigh(variance)[1][:, ::-1][:, : width - 1]
    kernel[np.diag_indices(len(texts))] += _RIDGE * kernel.trace() / len(texts)
    lift = np.linalg.solve(kernel, axes)
    numbers = _numbers(scores, axes.astype(np.float32), centre)
    steps = np.maximum(np.abs(numbers).max(0) * _SPARE / 127, 1e-9)
    return Fit(texts, axes.astype(np.float32), lift.astype(np.float32), steps.astype(np.float32), centre)


def _numbers(scores: F32, axes: F32, centre: float) -> F32:
    """Scores f32[n, B] -> f32[n, W]: along each axis what differs from the view's mean, then the mean."""
    mean = scores.mean(1, keepdims=True)
    return np.concatenate([(scores - mean) @ axes, mean - np.float32(centre)], 1)


def _kernel(a: F32, b: F32) -> F32:
    """Unit vectors f32[n, D], f32[m, D] -> f32[n, m]."""
    near: F32 = np.exp(np.float32(_KERNEL) * (a @ b.T - 1))
    return near


def _unit(vectors: F32) -> F32:
    unit: F32 = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit
