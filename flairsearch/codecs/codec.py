"""Tokens <-> bytes. A codec turns one view's tokens, shifts and scales into a row of fixed length, and back.

fp16    the tokens as they are
int8    one scale a token
q4 q2   a basis of the index's own (codecs/transform.py), 4 or 2 bits a number on average. What is decoded are
        coordinates in that basis, over spatial frequencies instead of patches; query and pool are folded into it.
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
_CHUNK = 32  # views encoded at once: the temporary arrays stay near the cache


@dataclass(frozen=True, eq=False)
class Codec(ABC):
    """What every codec can do. K rows, P patches, D dimensions, C channels (D where there is no basis).

    Every row ends with r and s, float16, little-endian: 4 P bytes. Where `spatial` f32[F, P] is given, an orthonormal
    matrix, coordinates are over F spatial frequencies: over patches they are spatial^T y.
    """

    patches: int
    dim: int

    @property
    @abstractmethod
    def stride(self) -> int:
        """Bytes of one view."""

    @property
    def spatial(self) -> NDArray[np.float32] | None:
        """The transform from frequencies to patches, f32[F, P]; None where coordinates are over patches."""
        return None

    @abstractmethod
    def encode(self, encoded: EncodedViews) -> NDArray[np.uint8]:
        """K views -> u8[K, stride]."""

    @abstractmethod
    def decode(self, rows: NDArray[np.uint8]) -> Coordinates:
        """u8[K, stride] -> coordinates [K, P, C], float16 or float32; [K, F, C] where there is `spatial`."""

    def restore(self, rows: NDArray[np.uint8]) -> NDArray[np.float16]:
        """u8[K, stride] -> x f16[K, P, D], as far as the codec kept it."""
        return self.decode(rows).astype(np.float16, copy=False)

    def decode_moments(self, rows: NDArray[np.uint8]) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        """u8[K, stride] -> r f16[K, P], s f16[K, P]: the local token is s (x + r)."""
        values = np.ascontiguousarray(rows[:, -4 * self.patches :]).view("<f2")
        return values[:, : self.patches], values[:, self.patches :]

    def restore_all(self, rows: NDArray[np.uint8], pooled: NDArray[np.float16]) -> EncodedViews:
        """u8[K, stride] and pooled f16[K, D] -> what was encoded, as far as the codec kept it."""
        return EncodedViews(pooled, self.restore(rows), *self.decode_moments(rows))

    def fold(self, query: EncodedText) -> EncodedText:
        """The query in the codec's coordinates."""
        return query

    def fold_weights(self, weights: PoolWeights) -> PoolWeights:
        """The value side of the pool in the codec's coordinates."""
        return weights

    def _with_moments(self, codes: NDArray[np.uint8], encoded: EncodedViews) -> NDArray[np.uint8]:
        moments = np.concatenate([part.astype("<f2", copy=False) for part in (encoded.shift, encoded.scale)], axis=1)
        return np.concatenate([codes, np.ascontiguousarray(moments).view(np.uint8)], axis=1)


@dataclass(frozen=True, eq=False)
class Fp16(Codec):
    """2 P D + 4 P bytes a view."""

    @property
    def stride(self) -> int:
        """Bytes of one view."""
        return 2 * self.patches * self.dim + 4 * self.patches

    def encode(self, encoded: EncodedViews) -> NDArray[np.uint8]:
        """K views -> u8[K, stride]."""
        tokens = np.ascontiguousarray(encoded.tokens, "<f2").reshape(len(encoded.tokens), -1)
        return self._with_moments(tokens.view(np.uint8), encoded)

    def decode(self, rows: NDArray[np.uint8]) -> NDArray[np.float16]:
        """u8[K, stride] -> coordinates, float16."""
        tokens = np.ascontiguousarray(rows[:, : -4 * self.patches]).view("<f2")
        return tokens.reshape(len(rows), self.patches, self.dim)


@dataclass(frozen=True, eq=False)
class Int8(Codec):
    """x = code times the token's largest value / 127: P D + 2 P + 4 P bytes a view."""

    @property
    def stride(self) -> int:
        """Bytes of one view."""
        return self.patches * self.dim + 6 * self.patches

    def encode(self, encoded: EncodedViews) -> NDArray[np.uint8]:
        """K views -> u8[K, stride]."""
        pieces = [self._encode(encoded.tokens[i : i + _CHUNK]) for i in range(0, len(encoded.tokens), _CHUNK)]
        return self._with_moments(np.concatenate(pieces), encoded)

    def _encode(self, tokens: NDArray[np.float16]) -> NDArray[np.uint8]:
        values = tokens.astype(np.float32, order="C")
        step = (np.maximum(values.max(-1), -values.min(-1)) / 127).astype("<f2")
        step[step == 0] = 1
        codes = np.clip(np.rint(values / step.astype(np.float32)[..., None]), -127, 127).astype(np.int8)
        return np.concatenate([codes.reshape(len(codes), -1).view(np.uint8), step.view(np.uint8)], axis=1)

    def decode(self, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """u8[K, stride] -> coordinates, float32."""
        count, split = len(rows), self.patches * self.dim
        codes = rows[:, :split].view(np.int8).reshape(count, self.patches, self.dim)
        step = np.ascontiguousarray(rows[:, split : split + 2 * self.patches]).view("<f2")
        return np.multiply(codes, step.astype(np.float32)[..., None], dtype=np.float32)


_PLAIN: dict[str, type[Fp16] | type[Int8]] = {"fp16": Fp16, "int8": Int8}
CODECS = (*_PLAIN, *AVERAGE_BITS)


@dataclass(frozen=True, eq=False)
class Quantised(Codec):
    """Codes of 8, 4 and 2 bits in a basis, in planes: all numbers of one width after those of the other; then gains.

    A gain u8[F] of each frequency: how loud it is in this view against the sample the basis was fitted to, in eighths
    of an octave, 128 for alike. So a view of another kind than the sample is not cut off at the quantisers' ends.
    """

    basis: TransformBasis

    @property
    def stride(self) -> int:
        """Bytes of one view."""
        return sum(len(places) * width // 8 for width, places in self.basis.planes) + 5 * self.patches

    @property
    def spatial(self) -> NDArray[np.float32]:
        """The transform from frequencies to patches, f32[F, P]."""
        return self.basis.cosines

    def encode(self, encoded: EncodedViews) -> NDArray[np.uint8]:
        """K views -> u8[K, stride]."""
        pieces = [self._encode(encoded.tokens[i : i + _CHUNK]) for i in range(0, len(encoded.tokens), _CHUNK)]
        return self._with_moments(np.concatenate(pieces), encoded)

    def _encode(self, tokens: NDArray[np.float16]) -> NDArray[np.uint8]:
        """f16[n, P, D] -> the planes u8[n, ...]."""
        basis, count = self.basis, len(tokens)
        channels = (tokens.astype(np.float32) - basis.mean) @ basis.forward
        y = np.asarray(basis.cosines @ channels / basis.step, np.float32)
        gains = np.clip(np.rint(8 * np.log2(np.maximum(basis.loudness(y), 1e-9))) + 128, 0, 255).astype(np.uint8)
        y /= _GAINS[gains][..., None]
        y = y.reshape(count, -1)
        planes = []
        for width, places in basis.planes:
            half = 1 << (width - 1)
            codes = (np.clip(np.floor(y[:, places]), -half, half - 1) + half).astype(np.uint8)
            packed = codes[:, :: 8 // width].copy()
            for i in range(1, 8 // width):
                packed |= codes[:, i :: 8 // width] << (i * width)
            planes.append(packed)
        return np.concatenate([*planes, gains], axis=1)

    def decode(self, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The middle of each code's interval, f32[K, F, C]."""
        y = np.zeros((len(rows), self.basis.step.size), np.float32)
        start = 0
        for width, places in self.basis.planes:
            end = start + len(places) * width // 8
            numbers = _numbers_of_byte(width)[rows[:, start:end]].reshape(len(rows), len(places))
            y[:, places] = numbers * self.basis.step.reshape(-1)[places]
            start = end
        y = y.reshape(len(rows), *self.basis.step.shape)
        y *= _GAINS[rows[:, start : start + self.patches]][..., None]
        return y

    def restore(self, rows: NDArray[np.uint8]) -> NDArray[np.float16]:
        """u8[K, stride] -> x f16[K, P, D], as far as the codec kept it."""
        x = np.asarray(self.basis.cosines.T @ self.decode(rows) @ self.basis.inverse, np.float32)
        x += self.basis.mean
        return x.astype(np.float16)

    def fold(self, query: EncodedText) -> EncodedText:
        """x u + c = y (inverse u) + (mean u + c)."""
        return replace(query, u=query.u @ self.basis.inverse.T, c=query.c + query.u @ self.basis.mean)

    def fold_weights(self, weights: PoolWeights) -> PoolWeights:
        """W_v sum_p a_p x_p = (W_v inverse^T) sum_p a_p y_p + (sum_p a_p) W_v mean."""
        value_bias = weights.value_bias + weights.value @ self.basis.mean
        return replace(weights, value=weights.value @ self.basis.inverse.T, value_bias=value_bias)


_GAINS: NDArray[np.float32] = np.exp2((np.arange(256, dtype=np.float32) - 128) / 8)


def _numbers_of_byte(width: int) -> NDArray[np.float32]:
    """f32[256, 8 / width]: the numbers that each byte stands for, lowest bits first."""
    shifts = np.arange(0, 8, width)
    codes = (np.arange(256)[:, None] >> shifts) & ((1 << width) - 1)
    return (codes - (1 << (width - 1)) + 0.5).astype(np.float32)


def needs_basis(name: str) -> bool:
    """Whether a codec of that name codes in a basis of the index's own."""
    return name in AVERAGE_BITS


def check_codec(name: str) -> str:
    """Raises UsageError when there is no codec of that name."""
    if name not in CODECS:
        raise UsageError(f"no token codec named {name!r} - use one of {', '.join(CODECS)}")
    return name


def make_codec(name: str, patches: int, dim: int, basis: TransformBasis | None = None) -> Codec:
    """Raises StoreError when there is no codec of that name, or its basis is missing or of another size."""
    if name not in CODECS:
        raise StoreError(f"the index names a codec {name!r} that this flairsearch does not know - update flairsearch")
    if name in _PLAIN:
        return _PLAIN[name](patches, dim)
    if basis is None or (len(basis.mean), len(basis.step)) != (dim, patches):
        raise StoreError(f"the basis of codec {name} is missing or of another size - run flairsearch index --rebuild")
    return Quantised(patches, dim, basis)
