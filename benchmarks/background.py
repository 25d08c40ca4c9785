"""Estimate how likely a score at least this high is when no photo matches the query, for benchmarks/absent.py.

The null distribution comes from a bank of B unrelated texts: t_b is the best score of text b over the searched views.

    p(s) = (1 + number of t_b >= s) / (1 + B)

is the p-value of a Monte Carlo test (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 4.2):
at most this share of texts like the bank's has a hit that scores s. Some bank texts do describe photos of the index,
which only makes the p-value larger.

When the bank was scored on a sample of the views, the best of n views is extrapolated. Cosines are bounded, so each
doubling of n adds less than the one before, by a constant ratio for maxima of the reverse Weibull type (Coles, An
Introduction to Statistical Modeling of Extreme Values, 2001, section 3.1). The ratio and the last step are measured
inside the sample, and the predicted growth is added to all t_b.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TRIMMED_SHARE = 0.05  # Share of texts left out at either end of the growth of the maximum.
_MIN_RATIO = 0.5  # Smallest ratio of the growth of one doubling to that of the doubling before.
_MAX_RATIO = 1.0  # Largest such ratio: growth that does not slow down.

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Background:
    """The null distribution: best scores of unrelated texts."""

    best: F64  # In ascending order.

    @staticmethod
    def of(scores: F32, views: int) -> Background:
        """Make it from scores f32[M, B] of M views, spread evenly over the `views` searched ones, for B texts."""
        texts = scores.astype(np.float64)
        best = texts.max(0)
        if views > len(texts):
            best += _growth(texts, views)
        return Background(np.sort(best))

    def p_value(self, scores: F32) -> F64:
        """Return the p-values f64[K], in (0, 1], of the scores of hits f32[K]; higher scores never have larger ones."""
        higher = len(self.best) - np.searchsorted(self.best, scores.astype(np.float64), side="left")
        p_value: F64 = (1 + higher) / (1 + len(self.best))
        return p_value


def _growth(texts: F64, views: int) -> float:
    """Return how much higher the best score of `views` views is than that of the M >= 16 views of scores f64[M, B].

    The doubling up to M adds g, and each further one adds `ratio` times the one before, so x doublings add
    g (ratio + ... + ratio^x). Texts with the largest and smallest growth are left out, because one view may match them.
    """
    ranked = np.sort(texts, axis=0)[::-1]
    best = np.stack([_maximum_probabilities(len(texts), len(texts) // parts) @ ranked for parts in (8, 4, 2, 1)])
    added, trimmed = np.sort(np.diff(best, axis=0), axis=1), int(_TRIMMED_SHARE * texts.shape[1])
    first, _, last = added[:, trimmed:-trimmed].mean(1)
    ratio = float(np.clip(np.sqrt(last / first), _MIN_RATIO, _MAX_RATIO)) if first > 0 else _MAX_RATIO
    doublings = float(np.log2(views / len(texts)))
    steps = doublings if ratio > 1 - 1e-6 else ratio * (1 - ratio**doublings) / (1 - ratio)
    return float(last) * steps


def _maximum_probabilities(count: int, sample: int) -> F64:
    """Return how likely the k-th largest of `count` numbers is the largest of a random sample, f64[count]."""
    probabilities = np.zeros(count)
    remaining = 1.0
    for k in range(count - sample + 1):
        probabilities[k] = remaining * sample / (count - k)
        remaining -= probabilities[k]
    return probabilities
