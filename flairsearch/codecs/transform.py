"""The basis of a quantised codec: where the tokens of an index vary, and how many bits each number of it gets.

Transform coding, as JPEG does it, for tokens: channels are decorrelated (principal axes under a metric that says what
the pool can tell apart), patches by a cosine transform over their grid; then bits go where the error falls most. All of
it is linear, so that a query is scored on the coefficients: only the logits of H heads go back to patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import isqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.errors import StoreError
from flairsearch.core.npz import Layout, load_arrays, save_arrays

BASIS_SAMPLE_VIEWS = 300  # A basis is fitted to at most this many views, some 60,000 tokens.
WIDTHS = (8, 4, 2)  # bits a number can have besides none: a byte holds a whole number of them
# Mean squared error of the best uniform quantiser of a Gaussian of variance 1, and its step (Max, IRE 1960).
_ERROR = {0: 1.0, 2: 0.1188, 4: 0.01154, 8: 0.0001}
_STEP = {2: 0.9957, 4: 0.3352, 8: 0.0308}
_VIEWS = 16  # looked at together in a fit
_ALIKE = 0.02  # this much of a frequency's variance is taken to be as in the mean of all frequencies
_LAYOUT: Layout = {
    "mean": (np.float32, "D"),
    "forward": (np.float32, "D C"),
    "inverse": (np.float32, "C D"),
    "step": (np.float32, "F C"),
    "counts": (np.uint16, "3 F"),
}


@dataclass(frozen=True, eq=False)
class TransformBasis:
    """y = cosine transform over patches of (x - mean) @ forward; x ~ y back to patches @ inverse + mean.

    C channels, those that vary most first; F = P spatial frequencies. At frequency f the first counts[0, f] channels
    have 8 bits, the next counts[1, f] have 4, the next counts[2, f] have 2, all others none.
    """

    mean: NDArray[np.float32]  # [D]
    forward: NDArray[np.float32]  # [D, C]
    inverse: NDArray[np.float32]  # [C, D]
    step: NDArray[np.float32]  # [F, C]
    counts: NDArray[np.uint16]  # [3, F]; of the 4-bit ones even, of the 2-bit ones a multiple of 4

    def save(self, path: Path) -> None:
        """Numbers only, in numpy's own format; durable, and whole or not at all, is the caller's care."""
        save_arrays(path, {name: getattr(self, name) for name in _LAYOUT})

    @staticmethod
    def load(path: Path) -> TransformBasis:
        """Raises StoreError when the file is missing, damaged, or from before format 2."""
        todo = "run flairsearch verify --repair, or index --rebuild"
        try:
            basis = TransformBasis(**load_arrays(path, _LAYOUT))
            if not basis._is_sound():
                raise ValueError("its arrays do not fit")
        except FileNotFoundError:
            raise StoreError(f"{path} is missing - {todo}") from None
        except ValueError as error:
            raise StoreError(f"{path} is damaged ({error}) - {todo}") from None
        return basis

    def _is_sound(self) -> bool:
        """Whether steps are above 0, and counts are whole bytes and no more than there are channels."""
        whole = not (self.counts[1] % 2).any() and not (self.counts[2] % 4).any()
        used = self.counts.astype(np.int64).sum(0).max()
        return bool((self.step > 0).all()) and whole and 0 < used <= len(self.inverse)

    @cached_property
    def cosines(self) -> NDArray[np.float32]:
        """f32[F, P]: the orthonormal cosine transform over the grid of patches."""
        return cosine_transform(self.step.shape[0])

    @cached_property
    def _weights(self) -> NDArray[np.float32]:
        """f32[F, C]: of a number in steps, squared, in the loudness of its frequency, squared; 0 of those without bits.

        A number in standard deviations of the sample counts by that deviation: counted alike, one that hardly varied
        there would drown the others, and by energy the loudest alone would decide for all.
        """
        ends, place = np.cumsum(self.counts.astype(np.int64), 0)[:, :, None], np.arange(self.step.shape[1])
        conditions = [place < ends[0], place < ends[1], place < ends[2]]
        factor = np.select(conditions, [_STEP[width] for width in WIDTHS], 0.0)
        deviation = np.where(factor > 0, self.step / np.where(factor > 0, factor, 1), 0)
        weights = factor**2 * deviation / np.maximum(deviation.sum(1, keepdims=True), 1e-30)
        return np.asarray(weights, np.float32)

    def loudness(self, y: NDArray[np.float32]) -> NDArray[np.float32]:
        """y f32[n, F, C] in steps -> f32[n, F]: how loud each frequency is, 1 as in the sample."""
        loudness: NDArray[np.float32] = np.sqrt(np.einsum("nfc,nfc,fc->nf", y, y, self._weights))
        return loudness

    @cached_property
    def planes(self) -> list[tuple[int, NDArray[np.int64]]]:
        """For 8, 4 and 2 bits: (bits, places i64[M] in [F, C] of the numbers, in the order they are stored in)."""
        ends = np.cumsum(self.counts.astype(np.int64), 0)
        starts = ends - self.counts
        channels = self.step.shape[1]
        planes = []
        for width, first, last in zip(WIDTHS, starts, ends, strict=True):
            spans = [f * channels + np.arange(a, b) for f, (a, b) in enumerate(zip(first, last, strict=True)) if b > a]
            if spans:
                planes.append((width, np.concatenate(spans).astype(np.int64)))
        return planes


def cosine_transform(patches: int) -> NDArray[np.float32]:
    """f32[P, P], orthonormal: DCT-II along both sides of a square grid (Ahmed, Natarajan, Rao 1974)."""
    side = isqrt(patches)
    one = cosines_1d(side)
    both = np.kron(one, one) if side * side == patches else cosines_1d(patches)
    return both.astype(np.float32)


def cosines_1d(count: int) -> NDArray[np.float64]:
    """The orthonormal cosine transform (DCT-II) of `count` places: f64[count frequencies, count places]."""
    frequency, place = np.arange(count)[:, None], np.arange(count)[None]
    matrix: NDArray[np.float64] = np.cos(np.pi * (place + 0.5) * frequency / count) * np.sqrt(2 / count)
    matrix[0] /= np.sqrt(2)
    return matrix


def fit_basis(tokens: NDArray[np.float16], metric: NDArray[np.float32], average: float) -> TransformBasis:
    """Decorrelate what the pool can tell apart, then spend bits where the error falls most.

    tokens f16[n, P, D]: a sample of x; metric f32[D, D]: an error e of x matters e^T metric e; average: bits a number.
    With R R^T = metric, z = R^T (x - mean) makes all directions matter alike; its principal axes are coded.
    The covariance is drawn a little towards the identity, so that a small or odd sample forgets no direction; the
    variance of every frequency a little towards that of all, for views of another kind than the sample's.
    """
    views, patches, dim = tokens.shape
    pieces = [slice(start, start + _VIEWS) for start in range(0, views, _VIEWS)]
    total, moment = np.zeros(dim), np.zeros((dim, dim))
    for piece in pieces:
        flat = tokens[piece].reshape(-1, dim).astype(np.float32)
        total += flat.sum(0, dtype=np.float64)
        moment += flat.T @ flat
    count = views * patches
    mean = total / count
    covariance = moment / count - np.outer(mean, mean)
    prior = 2 * dim / (2 * dim + count)
    covariance = (1 - prior) * covariance + prior * np.eye(dim) * np.trace(covariance) / dim
    weight, axes = np.linalg.eigh(metric.astype(np.float64))
    weight = np.maximum(weight, 1e-6 * weight.max())
    root = axes * np.sqrt(weight)
    _, directions = np.linalg.eigh(root.T @ covariance @ root)
    directions = directions[:, ::-1]
    forward, inverse = root @ directions, directions.T @ (axes / np.sqrt(weight)).T
    cosines, variance = cosine_transform(patches), np.zeros((patches, dim))
    for piece in pieces:
        y = cosines @ ((tokens[piece].astype(np.float32) - mean.astype(np.float32)) @ forward.astype(np.float32))
        variance += np.square(y, dtype=np.float32).sum(0)
    variance = (1 - _ALIKE) * variance / views + _ALIKE * variance.mean(0) / views
    counts, step = _spend(np.maximum(variance, 1e-12), average)
    used = int(counts.sum(0).max())
    return TransformBasis(
        np.ascontiguousarray(mean, np.float32),
        np.ascontiguousarray(forward[:, :used], np.float32),
        np.ascontiguousarray(inverse[:used], np.float32),
        np.ascontiguousarray(step[:, :used], np.float32),
        counts.astype(np.uint16),
    )


def _spend(variance: NDArray[np.float64], average: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """variance f64[F, C] -> how many channels of each frequency have 8, 4, 2 bits, i64[3, F]; their steps f64[F, C]."""
    bits = np.sort(allocate_bits(variance.ravel(), average).reshape(variance.shape).astype(np.int64), axis=1)[:, ::-1]
    counts = np.stack([(bits == width).sum(1) for width in WIDTHS])
    channels = variance.shape[1]
    counts[1], counts[2] = (counts[1] + 1) // 2 * 2, (counts[2] + 2) // 4 * 4  # whole bytes
    counts[1] = np.minimum(counts[1], (channels - counts[0]) // 2 * 2)
    counts[2] = np.minimum(counts[2], (channels - counts[0] - counts[1]) // 4 * 4)
    ends, place = np.cumsum(counts, 0)[:, :, None], np.arange(channels)
    factor = np.select([place < ends[0], place < ends[1]], [_STEP[8], _STEP[4]], _STEP[2])
    return counts, factor * np.sqrt(variance)


def allocate_bits(variance: NDArray[np.float64], average: float) -> NDArray[np.uint8]:
    """variance f64[M] -> bits u8[M] of 0, 2, 4 or 8, `average` on average at most: always the best error per bit.

    From one width to the next the gain per bit falls for every number, so that sorting all gains is the best order.
    """
    widths = (0, *sorted(WIDTHS))
    levels = list(pairwise(widths))
    gains = np.concatenate([variance * ((_ERROR[a] - _ERROR[b]) / (b - a)) for a, b in levels])
    order = np.argsort(-gains, kind="stable")
    costs = np.repeat([b - a for a, b in levels], len(variance))[order]
    bought = order[: int(np.searchsorted(np.cumsum(costs), average * len(variance), side="right"))]
    bits = np.zeros(len(variance), np.uint8)
    reached = np.repeat([b for _, b in levels], len(variance)).astype(np.uint8)
    np.maximum.at(bits, bought % len(variance), reached[bought])
    return bits
