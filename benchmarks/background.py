"""How often the best hit of a query that nothing answers scores as high: a false alarm, for benchmarks/absent.py.

What nothing answers is stood for by a bank of texts that nobody asked: t_b is the best score of text b among the views
that were searched, and with B texts

    false alarm(s) = (1 + number of t_b >= s) / (1 + B)

the p-value of a Monte Carlo test (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 4.2): at
most this share of texts like the bank's has a hit that scores s. That some of them do describe photos of the index only
makes the alarm more careful.

Views that were not looked at: the best of n views grows by less with every doubling of n, as cosines are bounded;
by a constant ratio for maxima of the reverse Weibull kind (Coles, An Introduction to Statistical Modeling of Extreme
Values, 2001, section 3.1). Ratio and last step are measured inside the sample; all t_b are moved by what is to come.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ODD = 0.05  # of the texts at either end
_LEAST, _LARGEST = 0.5, 1.0  # ratio of what one doubling adds to what the one before added

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Background:
    """Best scores of texts that nobody asked."""

    best: F64  # ascending

    @staticmethod
    def of(scores: F32, views: int) -> Background:
        """scores f32[M, B]: of M views, spread evenly over the `views` that were searched, for B texts."""
        texts = scores.astype(np.float64)
        best = texts.max(0)
        if views > len(texts):
            best += _growth(texts, views)
        return Background(np.sort(best))

    def false_alarm(self, scores: F32) -> F64:
        """Scores of hits f32[K] -> f64[K], more than 0, at most 1; never larger for a higher score."""
        higher = len(self.best) - np.searchsorted(self.best, scores.astype(np.float64), side="left")
        alarm: F64 = (1 + higher) / (1 + len(self.best))
        return alarm


def _growth(texts: F64, views: int) -> float:
    """Scores f64[M, B], M at least 16 -> how much higher the best of so many views is than that of M.

    The doubling up to M adds g and each one adds `ratio` times the one before: x of them g (ratio + ... + ratio^x).
    Texts for which it adds most and least are left out: some are answered by one view.
    """
    ranked = np.sort(texts, axis=0)[::-1]
    best = np.stack([_chances(len(texts), len(texts) // parts) @ ranked for parts in (8, 4, 2, 1)])
    added, odd = np.sort(np.diff(best, axis=0), axis=1), int(_ODD * texts.shape[1])
    first, _, last = added[:, odd:-odd].mean(1)
    ratio = float(np.clip(np.sqrt(last / first), _LEAST, _LARGEST)) if first > 0 else _LARGEST
    doublings = float(np.log2(views / len(texts)))
    steps = doublings if ratio > 1 - 1e-6 else ratio * (1 - ratio**doublings) / (1 - ratio)
    return float(last) * steps


def _chances(count: int, some: int) -> F64:
    """Of `some` of so many numbers, picked at random: how likely the k-th largest of all is the largest, f64[count]."""
    chances = np.zeros(count)
    left = 1.0
    for k in range(count - some + 1):
        chances[k] = left * some / (count - k)
        left -= chances[k]
    return chances
