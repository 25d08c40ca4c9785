"""Fit the basis of a quantised codec: the directions in which an index's tokens vary, and the bits for each number.

This is transform coding, as in JPEG, for tokens. Channels are decorrelated by principal axes under a metric that
weights an error by its effect on the pool; patches are decorrelated by a cosine transform over their grid. Bits are
then allocated where they reduce the error most. The transform is linear, so queries are scored on the coefficients;
only the logits of H heads are transformed back to patches.
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

BASIS_SAMPLE_VIEWS = 300  # A basis is fitted to at most this many views, about 60,000 tokens.
WIDTHS = (8, 4, 2)  # The bits of a coded number; a byte holds a whole number of codes of each width.
# Source of the two tables: J. Max, Quantizing for minimum distortion, IRE Transactions, 1960.
# This is the mean squared error of the best uniform quantiser of a Gaussian of variance 1, by its bits.
_QUANTISER_ERROR = {0: 1.0, 2: 0.1188, 4: 0.01154, 8: 0.0001}
# This is the step of that quantiser, by its bits.
_QUANTISER_STEP = {2: 0.9957, 4: 0.3352, 8: 0.0308}
_BATCH_VIEWS = 16  # A fit transforms this many views at once.
_VARIANCE_SHRINKAGE = 0.02  # Each frequency's variance is shrunk by this share towards the mean over all frequencies.
_LAYOUT: Layout = {
    "mean": (np.float32, "D"),
    "forward": (np.float32, "D C"),
    "inverse": (np.float32, "C D"),
    "step": (np.float32, "F C"),
    "counts": (np.uint16, "3 F"),
}


@dataclass(frozen=True, eq=False)
class TransformBasis:
    """A linear transform of tokens with a quantiser for each coefficient.

    Forward: y = cosines @ ((x - mean) @ forward). Backward: x ~ cosines^T @ y @ inverse + mean.
    There are C channels, in order of falling variance, and F = P spatial frequencies. At frequency f the first
    counts[0, f] channels have 8 bits, the next counts[1, f] have 4, the next counts[2, f] have 2, all others none.
    """

    mean: NDArray[np.float32]  # Mean token, [D].
    forward: NDArray[np.float32]  # Tokens to channels, [D, C].
    inverse: NDArray[np.float32]  # Channels to tokens, [C, D].
    step: NDArray[np.float32]  # Quantiser step of each coefficient, [F, C].
    counts: NDArray[np.uint16]  # Channels of 8, 4, 2 bits, [3, F]; 4-bit counts are even, 2-bit multiples of 4.

    def save(self, path: Path) -> None:
        """Write the basis as an .npz file. The caller makes the write atomic and durable."""
        save_arrays(path, {name: getattr(self, name) for name in _LAYOUT})

    @staticmethod
    def load(path: Path) -> TransformBasis:
        """Read a basis that `save` wrote.

        Raises StoreError when the file is missing, damaged, or older than format 2.
        """
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
        """Return whether all steps are positive, and counts fill whole bytes and do not exceed the channels."""
        whole = not (self.counts[1] % 2).any() and not (self.counts[2] % 4).any()
        used = self.counts.astype(np.int64).sum(0).max()
        return bool((self.step > 0).all()) and whole and 0 < used <= len(self.inverse)

    @cached_property
    def cosines(self) -> NDArray[np.float32]:
        """The orthonormal cosine transform over the grid of patches, f32[F, P]."""
        return cosine_transform(self.step.shape[0])

    @cached_property
    def _weights(self) -> NDArray[np.float32]:
        """Weights of squared coefficients, in quantiser steps, in the energy of their frequency, f32[F, C].

        Coefficients are weighted by their standard deviation in the sample: equal weights would be dominated by
        near-constant channels, energy weights by the single loudest one. Coefficients without bits have weight 0.
        """
        ends, channel = np.cumsum(self.counts.astype(np.int64), 0)[:, :, None], np.arange(self.step.shape[1])
        conditions = [channel < ends[0], channel < ends[1], channel < ends[2]]
        factor = np.select(conditions, [_QUANTISER_STEP[width] for width in WIDTHS], 0.0)
        deviation = np.where(factor > 0, self.step / np.where(factor > 0, factor, 1), 0)
        weights = factor**2 * deviation / np.maximum(deviation.sum(1, keepdims=True), 1e-30)
        return np.asarray(weights, np.float32)

    def channel_energy(self, y: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the energy of each frequency relative to the sample, f32[n, F], as a root mean square; 1 = equal.

        y: coefficients in quantiser steps, f32[n, F, C].
        """
        energy: NDArray[np.float32] = np.sqrt(np.einsum("nfc,nfc,fc->nf", y, y, self._weights))
        return energy

    @cached_property
    def planes(self) -> list[tuple[int, NDArray[np.int64]]]:
        """For each used width: (bits, positions i64[M] of its coefficients in [F, C], flattened, in stored order)."""
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
    """Return the orthonormal DCT-II along both sides of a square grid of patches, f32[P, P].

    A number of patches that is not a square is transformed as one line.
    Source: Ahmed, Natarajan and Rao, Discrete Cosine Transform, 1974.
    """
    side = isqrt(patches)
    line = cosines_1d(side)
    matrix = np.kron(line, line) if side * side == patches else cosines_1d(patches)
    return matrix.astype(np.float32)


def cosines_1d(count: int) -> NDArray[np.float64]:
    """Return the orthonormal DCT-II of `count` positions, f64[count frequencies, count positions]."""
    frequency, position = np.arange(count)[:, None], np.arange(count)[None]
    matrix: NDArray[np.float64] = np.cos(np.pi * (position + 0.5) * frequency / count) * np.sqrt(2 / count)
    matrix[0] /= np.sqrt(2)
    return matrix


def fit_basis(tokens: NDArray[np.float16], metric: NDArray[np.float32], average: float) -> TransformBasis:
    """Decorrelate tokens under the metric, then allocate bits where they reduce the error most.

    tokens: a sample of x, f16[n, P, D].
    metric: the cost of an error e of x is e^T metric e, f32[D, D].
    average: bits a number, on average.
    With R R^T = metric, an error of z = R^T (x - mean) costs the same in every direction; the principal axes of z are
    coded. The covariance is shrunk a little towards the identity, so that a small or unusual sample loses no
    direction. The variance of every frequency is shrunk a little towards the mean over all frequencies, for views
    unlike the sample.
    """
    views, patches, dim = tokens.shape
    pieces = [slice(start, start + _BATCH_VIEWS) for start in range(0, views, _BATCH_VIEWS)]
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
    variance = (1 - _VARIANCE_SHRINKAGE) * variance / views + _VARIANCE_SHRINKAGE * variance.mean(0) / views
    counts, step = _allocate_levels(np.maximum(variance, 1e-12), average)
    used = int(counts.sum(0).max())
    return TransformBasis(
        np.ascontiguousarray(mean, np.float32),
        np.ascontiguousarray(forward[:, :used], np.float32),
        np.ascontiguousarray(inverse[:used], np.float32),
        np.ascontiguousarray(step[:, :used], np.float32),
        counts.astype(np.uint16),
    )


def _allocate_levels(variance: NDArray[np.float64], average: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Allocate bits to channels; return the counts of 8, 4 and 2 bits i64[3, F] and the quantiser steps f64[F, C].

    variance: of each coefficient, f64[F, C].
    """
    bits = np.sort(allocate_bits(variance.ravel(), average).reshape(variance.shape).astype(np.int64), axis=1)[:, ::-1]
    counts = np.stack([(bits == width).sum(1) for width in WIDTHS])
    channels = variance.shape[1]
    counts[1], counts[2] = (counts[1] + 1) // 2 * 2, (counts[2] + 2) // 4 * 4  # Codes fill whole bytes.
    counts[1] = np.minimum(counts[1], (channels - counts[0]) // 2 * 2)
    counts[2] = np.minimum(counts[2], (channels - counts[0] - counts[1]) // 4 * 4)
    ends, channel = np.cumsum(counts, 0)[:, :, None], np.arange(channels)
    factor = np.select(
        [channel < ends[0], channel < ends[1]], [_QUANTISER_STEP[8], _QUANTISER_STEP[4]], _QUANTISER_STEP[2]
    )
    return counts, factor * np.sqrt(variance)


def allocate_bits(variance: NDArray[np.float64], average: float) -> NDArray[np.uint8]:
    """Return the bits of each number, u8[M], 0, 2, 4 or 8 each and at most `average` on average, with the least error.

    variance: of each number, f64[M].
    The gain per bit falls from each width to the next, so taking all steps in order of gain is optimal.
    """
    widths = (0, *sorted(WIDTHS))
    levels = list(pairwise(widths))
    gains = np.concatenate([variance * ((_QUANTISER_ERROR[a] - _QUANTISER_ERROR[b]) / (b - a)) for a, b in levels])
    order = np.argsort(-gains, kind="stable")
    costs = np.repeat([b - a for a, b in levels], len(variance))[order]
    bought = order[: int(np.searchsorted(np.cumsum(costs), average * len(variance), side="right"))]
    bits = np.zeros(len(variance), np.uint8)
    reached = np.repeat([b for _, b in levels], len(variance)).astype(np.uint8)
    np.maximum.at(bits, bought % len(variance), reached[bought])
    return bits
