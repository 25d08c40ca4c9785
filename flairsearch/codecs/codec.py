"""Codecs between tokens and bytes: each turns the tokens, shifts and scales of a view into a row of fixed length.

fp16      the tokens as float16
int8      8 bits a number, with one step for each token
q4 q2 q1  transform coding in a basis fitted to the index (codecs/transform.py), on average 4, 2 or 1 bits a number.
          Decoding yields coefficients in that basis, over spatial frequencies instead of patches; the query and the
          pool are folded into the basis, so that scores need no inverse transform.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flairsearch.codecs.transform import TransformBasis
from flairsearch.core.errors import StoreError, UsageError
from flairsearch.core.types import EncodedText, EncodedViews, PoolWeights

Coordinates = NDArray[np.float16] | NDArray[np.float32]
AVERAGE_BITS = {"q4": 4.0, "q2": 2.0, "q1": 1.0}
_BATCH_VIEWS = 32  # Views are encoded in batches of this size, whose temporary arrays fit the processor's cache.


@dataclass(frozen=True, eq=False)
class Codec(ABC):
    """The interface of all codecs. K rows, P patches, D dimensions, C channels (D for a codec without a basis).

    Every row ends with the token statistics, the shift r and the scale s of each token: float16, little-endian,
    4 P bytes. If `spatial` f32[F, P] is given, an orthonormal matrix, then coordinates y are over F spatial
    frequencies, and spatial^T y are the coordinates over patches.
    """

    patches: int
    dim: int

    @property
    @abstractmethod
    def stride(self) -> int:
        """Number of bytes of one view."""

    @property
    def spatial(self) -> NDArray[np.float32] | None:
        """The transform between frequencies and patches, f32[F, P]; None if coordinates are over patches."""
        return None

    @abstractmethod
    def encode(self, encoded: EncodedViews) -> NDArray[np.uint8]:
        """Encode K views as rows u8[K, stride]."""

    @abstractmethod
    def decode(self, rows: NDArray[np.uint8]) -> Coordinates:
        """Decode rows u8[K, stride] to coordinates [K, P, C], or [K, F, C] if `spatial` is given."""

    def restore(self, rows: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Decode rows u8[K, stride] to approximate tokens x f16[K, P, D]."""
        return self.decode(rows).astype(np.float16, copy=False)

    def decode_token_stats(self, rows: NDArray[np.uint8]) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        """Decode rows u8[K, stride] to shifts r f16[K, P] and scales s f16[K, P]: the local token is s (x + r)."""
        values = np.ascontiguousarray(rows[:, -4 * self.patches :]).view("<f2")
        return values[:, : self.patches], values[:, self.patches :]

    def restore_all(self, rows: NDArray[np.uint8], pooled: NDArray[np.float16]) -> EncodedViews:
        """Decode rows u8[K, stride] and add their global tokens, pooled f16[K, D]."""
        return EncodedViews(pooled, self.restore(rows), *self.decode_token_stats(rows))

    def fold(self, query: EncodedText) -> EncodedText:
        """Express a query in the codec's coordinates."""
        return query

    def fold_weights(self, weights: PoolWeights) -> PoolWeights:
        """Express the value side of the pool in the codec's coordinates."""
        return weights

    def _append_token_stats(self, codes: NDArray[np.uint8], encoded: EncodedViews) -> NDArray[np.uint8]:
        """Return rows u8[K, stride] from codes u8[K, ...] and the shifts and scales of the views."""
        stats = np.concatenate([part.astype("<f2", copy=False) for part in (encoded.shift, encoded.scale)], axis=1)
        return np.concatenate([codes, np.ascontiguousarray(stats).view(np.uint8)], axis=1)


@dataclass(frozen=True, eq=False)
class Fp16(Codec):
    """Tokens as float16: 2 P D + 4 P bytes a view."""

    @property
    def stride(self) -> int:
        """Number of bytes of one view."""
        return 2 * self.patches * self.dim + 4 * self.patches

    def encode(self, encoded: EncodedViews) -> NDArray[np.uint8]:
        """Encode K views as rows u8[K, stride]."""
        tokens = np.ascontiguousarray(encoded.tokens, "<f2").reshape(len(encoded.tokens), -1)
        return self._append_token_stats(tokens.view(np.uint8), encoded)

    def decode(self, rows: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Decode rows u8[K, stride] to tokens f16[K, P, D]."""
        tokens = np.ascontiguousarray(rows[:, : -4 * self.patches]).view("<f2")
        return tokens.reshape(len(rows), self.patches, self.dim)


@dataclass(frozen=True, eq=False)
class Int8(Codec):
    """x = code * step, step = the largest absolute value of the token / 127: P D + 6 P bytes a view."""

    @property
    def stride(self) -> int:
        """Number of bytes of one view."""
        return self.patches * self.dim + 6 * self.patches

    def encode(self, encoded: EncodedViews) -> NDArray[np.uint8]:
        """Encode K views as rows u8[K, stride]."""
        pieces = [
            self._encode(encoded.tokens[i : i + _BATCH_VIEWS]) for i in range(0, len(encoded.tokens), _BATCH_VIEWS)
        ]
        return self._append_token_stats(np.concatenate(pieces), encoded)

    def _encode(self, tokens: NDArray[np.float16]) -> NDArray[np.uint8]:
        """Encode tokens f16[n, P, D] as codes and steps, u8[n, P D + 2 P]."""
        values = tokens.astype(np.float32, order="C")
        step = (np.maximum(values.max(-1), -values.min(-1)) / 127).astype("<f2")
        step[step == 0] = 1
        codes = np.clip(np.rint(values / step.astype(np.float32)[..., None]), -127, 127).astype(np.int8)
        return np.concatenate([codes.reshape(len(codes), -1).view(np.uint8), step.view(np.uint8)], axis=1)

    def decode(self, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Decode rows u8[K, stride] to tokens f32[K, P, D]."""
        count, split = len(rows), self.patches * self.dim
        codes = rows[:, :split].view(np.int8).reshape(count, self.patches, self.dim)
        step = np.ascontiguousarray(rows[:, split : split + 2 * self.patches]).view("<f2")
        return np.multiply(codes, step.astype(np.float32)[..., None], dtype=np.float32)


_PLAIN_CODECS: dict[str, type[Fp16] | type[Int8]] = {"fp16": Fp16, "int8": Int8}
CODECS = (*_PLAIN_CODECS, *AVERAGE_BITS)


@dataclass(frozen=True, eq=False)
class Quantised(Codec):
    """Codes of 8, 4 and 2 bits in a basis.

    A row holds one plane for each width, 8 bits first, then the gain codes, then the token statistics. A gain code
    u8[F] is the energy of each frequency in this view relative to the training sample, in steps of 1/8 octave;
    128 = equal. Gains keep views unlike the sample from being clipped at the ends of the quantisers.
    """

    basis: TransformBasis

    @property
    def stride(self) -> int:
        """Number of bytes of one view."""
        return sum(len(positions) * width // 8 for width, positions in self.basis.planes) + 5 * self.patches

    @property
    def spatial(self) -> NDArray[np.float32]:
        """The transform between frequencies and patches, f32[F, P]."""
        return self.basis.cosines

    def encode(self, encoded: EncodedViews) -> NDArray[np.uint8]:
        """Encode K views as rows u8[K, stride]."""
        pieces = [
            self._encode(encoded.tokens[i : i + _BATCH_VIEWS]) for i in range(0, len(encoded.tokens), _BATCH_VIEWS)
        ]
        return self._append_token_stats(np.concatenate(pieces), encoded)

    def _encode(self, tokens: NDArray[np.float16]) -> NDArray[np.uint8]:
        """Encode tokens f16[n, P, D] as planes and gain codes, u8[n, ...]."""
        basis, count = self.basis, len(tokens)
        channels = (tokens.astype(np.float32) - basis.mean) @ basis.forward
        y = np.asarray(basis.cosines @ channels / basis.step, np.float32)
        steps = np.rint(8 * np.log2(np.maximum(basis.channel_energy(y), 1e-9)))
        gain_codes = np.clip(steps + 128, 0, 255).astype(np.uint8)
        y /= _GAIN_FACTORS[gain_codes][..., None]
        y = y.reshape(count, -1)
        planes = []
        for width, positions in basis.planes:
            half = 1 << (width - 1)
            codes = (np.clip(np.floor(y[:, positions]), -half, half - 1) + half).astype(np.uint8)
            packed = codes[:, :: 8 // width].copy()
            for i in range(1, 8 // width):
                packed |= codes[:, i :: 8 // width] << (i * width)
            planes.append(packed)
        return np.concatenate([*planes, gain_codes], axis=1)

    def decode(self, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Decode rows u8[K, stride] to the midpoint of each code's interval, f32[K, F, C]."""
        y = np.zeros((len(rows), self.basis.step.size), np.float32)
        start = 0
        for width, positions in self.basis.planes:
            end = start + len(positions) * width // 8
            numbers = _unpack_table(width)[rows[:, start:end]].reshape(len(rows), len(positions))
            y[:, positions] = numbers * self.basis.step.reshape(-1)[positions]
            start = end
        y = y.reshape(len(rows), *self.basis.step.shape)
        y *= _GAIN_FACTORS[rows[:, start : start + self.patches]][..., None]
        return y

    def restore(self, rows: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Decode rows u8[K, stride] to approximate tokens x f16[K, P, D]."""
        x = np.asarray(self.basis.cosines.T @ self.decode(rows) @ self.basis.inverse, np.float32)
        x += self.basis.mean
        return x.astype(np.float16)

    def fold(self, query: EncodedText) -> EncodedText:
        """Express a query in the basis: x u + c = y (inverse u) + (mean u + c)."""
        return replace(query, u=query.u @ self.basis.inverse.T, c=query.c + query.u @ self.basis.mean)

    def fold_weights(self, weights: PoolWeights) -> PoolWeights:
        """Express the value projection in the basis.

        W_v sum_p a_p x_p = (W_v inverse^T) sum_p a_p y_p + (sum_p a_p) W_v mean.
        """
        value_bias = weights.value_bias + weights.value @ self.basis.mean
        return replace(weights, value=weights.value @ self.basis.inverse.T, value_bias=value_bias)


_GAIN_FACTORS: NDArray[np.float32] = np.exp2((np.arange(256, dtype=np.float32) - 128) / 8)


def _unpack_table(width: int) -> NDArray[np.float32]:
    """Return the numbers that each byte holds, f32[256, 8 / width], lowest bits first, in quantiser steps."""
    shifts = np.arange(0, 8, width)
    codes = (np.arange(256)[:, None] >> shifts) & ((1 << width) - 1)
    return (codes - (1 << (width - 1)) + 0.5).astype(np.float32)


def needs_basis(name: str) -> bool:
    """Return whether a codec needs a basis fitted to the index."""
    return name in AVERAGE_BITS


def check_codec(name: str) -> str:
    """Return the name of a codec.

    Raises UsageError when there is no codec of that name.
    """
    if name not in CODECS:
        raise UsageError(f"no token codec named {name!r} - use one of {', '.join(CODECS)}")
    return name


def make_codec(name: str, patches: int, dim: int, basis: TransformBasis | None = None) -> Codec:
    """Make the codec of an index.

    Raises StoreError when there is no codec of that name, or its basis is missing or of another size.
    """
    if name not in CODECS:
        raise StoreError(f"the index names a codec {name!r} that this flairsearch does not know - update flairsearch")
    if name in _PLAIN_CODECS:
        return _PLAIN_CODECS[name](patches, dim)
    if basis is None or (len(basis.mean), len(basis.step)) != (dim, patches):
        raise StoreError(f"the basis of codec {name} is missing or of another size - run flairsearch index --rebuild")
    return Quantised(patches, dim, basis)
