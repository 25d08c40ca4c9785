"""How often the best hit of a query that nothing in the index answers scores as high: a false alarm.

FLAIR's sigmoid loss trains its cosines to mean the same for every text, so a query is compared with other texts, not
with its own other scores: standardised by those, hits of different queries compare worse (benchmarks/absent.py). What
nothing answers is stood for by a bank of texts that nobody asked: t_b is the best score of text b among the N views
that were searched, and

    false alarm(s) = (1 + number of t_b >= s) / (1 + B)

the p-value of a Monte Carlo test (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 4.2): at
most this share of texts like the bank's has a hit that scores s. That some of them do describe photos of the index only
makes the alarm more careful. Captions say more than the bank's texts and other photos half answer them: with their own
photos left out, a limit of 1 / 5 / 10 % lets 1-2 / 6-10 / 15-20 % of them through, and of single words 0-1 / 1-7 / 5-14
(benchmarks/absent.py, flair-tiny, unseen photos).

Views that were not looked at: the best of n views grows by less with every doubling of n, as cosines are bounded;
by a constant ratio for maxima of the reverse Weibull kind (Coles, An Introduction to Statistical Modeling of Extreme
Values, 2001, section 3.1). Ratio and last step are measured inside the sample; all t_b are moved by what is to come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flairsearch.records import Hit

TEXTS = 600  # of the bank are enough,
VIEWS = 1000  # and so many views, evenly spaced over the index
FEWEST = 100  # texts: fewer cannot say 1 %
_FEWEST_VIEWS = 16  # to foretell more from
_ODD = 0.05  # of the texts at either end
_LEAST, _LARGEST = 0.5, 1.0  # ratio of what one doubling adds to what the one before added

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Background:
    """Best scores of texts that nobody asked."""

    best: F64  # ascending

    @staticmethod
    def of(scores: F32, views: int, weights: Sequence[float] = (1.0,)) -> Background | None:
        """scores f32[M, B]: of M views, spread evenly over what was searched, for B texts, exact or predicted.

        views: how many were searched; fewer than M or more. weights: of a query's phrases, whose scores are averaged:
        as many texts of the bank are, other ones each time. None, nobody knows: fewer than FEWEST texts, no views, too
        few of them for what is searched, or scores that are all the same.
        """
        if not len(scores) or views < 1 or len(scores) < min(views, _FEWEST_VIEWS):
            return None
        texts = scores.reshape(len(scores), -1).astype(np.float64)
        if texts.shape[1] < FEWEST or np.ptp(texts) == 0:
            return None
        asked = _combine(texts, weights)
        best = _block_best(asked, min(views, len(asked)))
        if views > len(asked):
            best += _growth(asked, views)
        return Background(np.sort(best, axis=None))

    def false_alarm(self, scores: F32) -> F64:
        """Scores of hits f32[K] -> f64[K], more than 0, at most 1; never larger for a higher score."""
        higher = len(self.best) - np.searchsorted(self.best, scores.astype(np.float64), side="left")
        alarm: F64 = (1 + higher) / (1 + len(self.best))
        return alarm


def mark(hits: Sequence[Hit], allowed: float | None) -> list[Hit]:
    """Whether each hit's false alarm is as rare as is asked for; unknown stays unknown. None: nobody asks."""
    if allowed is None:
        return list(hits)
    return [hit if hit.confidence is None else replace(hit, matches=1 - hit.confidence <= allowed) for hit in hits]


def sample_places(views: int, most: int = VIEWS) -> NDArray[np.int64]:
    """Which of N views a background is made of: their places i64[min(N, most)], evenly spaced."""
    count = min(views, most)
    return np.arange(count) * views // max(1, count)


def _combine(texts: F64, weights: Sequence[float]) -> F64:
    """Scores f64[M, B] -> weighted means over as many texts as there are phrases, f64[M, B]."""
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    steps = np.arange(len(shares)) * texts.shape[1] // len(shares)
    mixed: F64 = sum(
        (share * np.roll(texts, step, axis=1) for share, step in zip(shares, steps.tolist(), strict=True)),
        np.zeros_like(texts),
    )
    return mixed


def _block_best(texts: F64, size: int) -> F64:
    """Scores f64[M, B] -> of each block of `size` views, spread over all, the best of each text: f64[M // size, B]."""
    blocks = len(texts) // size
    best: F64 = texts[: blocks * size].reshape(size, blocks, -1).max(0)
    return best


def _growth(texts: F64, views: int) -> float:
    """Scores f64[M, B], M at least _FEWEST_VIEWS -> how much higher the best of so many views is than that of M.

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
