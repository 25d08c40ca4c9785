"""Tokens <-> bytes. A codec turns one view's tokens, shifts and scales into a row of fixed length, and back.

fp16    the tokens as they are
int8    one scale a token
q4 q2   a basis of the model's own (`fit_basis`), 4 or 2 bits a number on average: many for the directions that vary and
        matter to the pool, none for most. What is decoded are coordinates in that basis; the query is folded into it.
"""

from __future__ import annotations

import heapq
import os
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from flairsearch.errors import StoreError
from flairsearch.records import Encoded, PoolWeights, Query

Coordinates = NDArray[np.float16] | NDArray[np.float32]
AVERAGE_BITS = {"q4": 4.0, "q2": 2.0, "q1": 1.0}
_CHUNK = 32  # views encoded at once: the temporary arrays stay near the cache
_WIDTHS = (8, 4, 2)  # bits a number can have besides none: a byte holds a whole number of them
# Mean squared error of the best uniform quantiser of a Gaussian of variance 1, and its step (Max, IRE 1960).
_ERROR = {0: 1.0, 2: 0.1188, 4: 0.01154, 8: 0.0001}
_STEP = {2: 0.9957, 4: 0.3352, 8: 0.0308}


@dataclass(frozen=True, eq=False)
class Codec(ABC):
    """What every codec can do. K rows, P patches, D dimensions, C coordinates (D where there is no basis).

    Every row ends with r and s, float16, little-endian: 4 P bytes.
    """

    patches: int
    dim: int

    @property
    @abstractmethod
    def stride(self) -> int:
        """Bytes of one view."""

    @abstractmethod
    def encode(self, encoded: Encoded) -> NDArray[np.uint8]:
        """K views -> u8[K, stride]."""

    @abstractmethod
    def decode(self, rows: NDArray[np.uint8]) -> Coordinates:
        """u8[K, stride] -> coordinates [K, P, C], float16 or float32."""

    def restore(self, rows: NDArray[np.uint8]) -> NDArray[np.float16]:
        """u8[K, stride] -> x f16[K, P, D], as far as the codec kept it."""
        return self.decode(rows).astype(np.float16, copy=False)

    def decode_moments(self, rows: NDArray[np.uint8]) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        """u8[K, stride] -> r f16[K, P], s f16[K, P]: the local token is s (x + r)."""
        values = np.ascontiguousarray(rows[:, -4 * self.patches :]).view("<f2")
        return values[:, : self.patches], values[:, self.patches :]

    def fold(self, query: Query) -> Query:
        """The query in the codec's coordinates."""
        return query

    def fold_weights(self, weights: PoolWeights) -> PoolWeights:
        """The value side of the pool in the codec's coordinates."""
        return weights

    def _with_moments(self, codes: NDArray[np.uint8], encoded: Encoded) -> NDArray[np.uint8]:
        moments = np.concatenate([part.astype("<f2", copy=False) for part in (encoded.shift, encoded.scale)], axis=1)
        return np.concatenate([codes, np.ascontiguousarray(moments).view(np.uint8)], axis=1)


@dataclass(frozen=True, eq=False)
class Fp16(Codec):
    """2 P D + 4 P bytes a view."""

    @property
    def stride(self) -> int:
        return 2 * self.patches * self.dim + 4 * self.patches

    def encode(self, encoded: Encoded) -> NDArray[np.uint8]:
        tokens = np.ascontiguousarray(encoded.tokens, "<f2").reshape(len(encoded.tokens), -1)
        return self._with_moments(tokens.view(np.uint8), encoded)

    def decode(self, rows: NDArray[np.uint8]) -> NDArray[np.float16]:
        tokens = np.ascontiguousarray(rows[:, : -4 * self.patches]).view("<f2")
        return tokens.reshape(len(rows), self.patches, self.dim)


@dataclass(frozen=True, eq=False)
class Int8(Codec):
    """x = code times the token's largest value / 127: P D + 2 P + 4 P bytes a view."""

    @property
    def stride(self) -> int:
        return self.patches * self.dim + 6 * self.patches

    def encode(self, encoded: Encoded) -> NDArray[np.uint8]:
        pieces = [self._encode(encoded.tokens[i : i + _CHUNK]) for i in range(0, len(encoded.tokens), _CHUNK)]
        return self._with_moments(np.concatenate(pieces), encoded)

    def _encode(self, tokens: NDArray[np.float16]) -> NDArray[np.uint8]:
        values = tokens.astype(np.float32, order="C")
        step = (np.maximum(values.max(-1), -values.min(-1)) / 127).astype("<f2")
        step[step == 0] = 1
        codes = np.clip(np.rint(values / step.astype(np.float32)[..., None]), -127, 127).astype(np.int8)
        return np.concatenate([codes.reshape(len(codes), -1).view(np.uint8), step.view(np.uint8)], axis=1)

    def decode(self, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
        count, split = len(rows), self.patches * self.dim
        codes = rows[:, :split].view(np.int8).reshape(count, self.patches, self.dim)
        step = np.ascontiguousarray(rows[:, split : split + 2 * self.patches]).view("<f2")
        return np.multiply(codes, step.astype(np.float32)[..., None], dtype=np.float32)


_PLAIN: dict[str, type[Fp16] | type[Int8]] = {"fp16": Fp16, "int8": Int8}


# What numpy and zipfile raise on a file that is damaged; RuntimeError: encrypted, or packed in a way they do not know.
_NO_ARRAYS = (OSError, ValueError, KeyError, EOFError, TypeError, MemoryError, RuntimeError, BadZipFile, zlib.error)


@dataclass(frozen=True, eq=False)
class Basis:
    """x ~ y @ inverse + mean; y = (x - mean) @ forward, in steps, with `bits` bits each; most bits first."""

    mean: NDArray[np.float32]  # [D]
    forward: NDArray[np.float32]  # [D, C]
    inverse: NDArray[np.float32]  # [C, D]
    step: NDArray[np.float32]  # [C]
    bits: NDArray[np.uint8]  # [C]

    def save(self, path: Path) -> None:
        """Numbers only, in numpy's own format, durable; whole or not at all is the caller's care."""
        with path.open("wb") as stream:
            np.savez(stream, mean=self.mean, forward=self.forward, inverse=self.inverse, step=self.step, bits=self.bits)
            stream.flush()
            os.fsync(stream.fileno())

    @staticmethod
    def load(path: Path) -> Basis:
        """Raises StoreError when the file is missing or damaged."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                basis = Basis(*(arrays[name] for name in ("mean", "forward", "inverse", "step", "bits")))
        except FileNotFoundError:
            raise StoreError(f"{path} is missing - run flairsearch index --rebuild") from None
        except _NO_ARRAYS as error:
            what = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise StoreError(f"{path} is damaged ({what}) - run flairsearch index --rebuild") from None
        if not basis._is_sound():
            raise StoreError(f"{path} is damaged (its arrays do not fit) - run flairsearch index --rebuild")
        return basis

    def _is_sound(self) -> bool:
        """Shapes, types, finite numbers, widths that exist in falling order."""
        arrays = (self.mean, self.forward, self.inverse, self.step, self.bits)
        dim, count = self.mean.size, self.bits.size
        if [array.shape for array in arrays] != [(dim,), (dim, count), (count, dim), (count,), (count,)]:
            return False
        if [array.dtype for array in arrays] != [np.float32] * 4 + [np.uint8]:
            return False
        finite = all(np.isfinite(array).all() for array in arrays) and bool((self.step > 0).all())
        widths = self.bits.tolist()
        return finite and count > 0 and set(widths) <= set(_WIDTHS) and widths == sorted(widths, reverse=True)


@dataclass(frozen=True, eq=False)
class Quantised(Codec):
    """Codes of 8, 4 and 2 bits in a basis, in planes: all patches' bytes of one width after the other's."""

    basis: Basis

    @property
    def _planes(self) -> list[tuple[int, slice, int]]:
        """(bits, its columns, bytes of one patch) for every width in use."""
        planes, start = [], 0
        for width in _WIDTHS:
            count = int((self.basis.bits == width).sum())
            if count:
                planes.append((width, slice(start, start + count), -(-count * width // 8)))
                start += count
        return planes

    @property
    def stride(self) -> int:
        return self.patches * sum(size for _, _, size in self._planes) + 4 * self.patches

    def encode(self, encoded: Encoded) -> NDArray[np.uint8]:
        pieces = [self._encode(encoded.tokens[i : i + _CHUNK]) for i in range(0, len(encoded.tokens), _CHUNK)]
        return self._with_moments(np.concatenate(pieces), encoded)

    def _encode(self, tokens: NDArray[np.float16]) -> NDArray[np.uint8]:
        """f16[n, P, D] -> the planes u8[n, ...]."""
        basis, count = self.basis, len(tokens)
        flat = tokens.reshape(-1, self.dim).astype(np.float32) - basis.mean
        y = np.floor(flat @ (basis.forward / basis.step)).reshape(count, self.patches, -1)
        planes = []
        for width, columns, size in self._planes:
            half, per_byte = 1 << (width - 1), 8 // width
            codes = np.zeros((count, self.patches, size * per_byte), np.uint8)
            part = y[..., columns]
            codes[..., : part.shape[-1]] = np.clip(part, -half, half - 1) + half
            packed = codes[..., ::per_byte].copy()
            for i in range(1, per_byte):
                packed |= codes[..., i::per_byte] << (i * width)
            planes.append(packed.reshape(count, -1))
        return np.concatenate(planes, axis=1)

    def decode(self, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Coordinates in steps: the middle of each code's interval, f32[K, P, C]."""
        y = np.empty((len(rows), self.patches, len(self.basis.bits)), np.float32)
        start = 0
        for width, columns, size in self._planes:
            end = start + self.patches * size
            numbers = _numbers_of_byte(width)[rows[:, start:end]].reshape(len(rows), self.patches, -1)
            y[..., columns] = numbers[..., : columns.stop - columns.start]
            start = end
        return y

    @cached_property
    def _back(self) -> NDArray[np.float32]:
        """f32[C, D]: coordinates in steps -> x - mean."""
        return self.basis.step[:, None] * self.basis.inverse

    def restore(self, rows: NDArray[np.uint8]) -> NDArray[np.float16]:
        x: NDArray[np.float32] = self.decode(rows) @ self._back + self.basis.mean
        return x.astype(np.float16)

    def fold(self, query: Query) -> Query:
        """x u + c = y (back u) + (mean u + c)."""
        return replace(query, u=query.u @ self._back.T, c=query.c + query.u @ self.basis.mean)

    def fold_weights(self, weights: PoolWeights) -> PoolWeights:
        """W_v sum_p a_p x_p = (W_v back^T) sum_p a_p y_p + (sum_p a_p) W_v mean."""
        value_bias = weights.value_bias + weights.value @ self.basis.mean
        return replace(weights, value=weights.value @ self._back.T, value_bias=value_bias)


def _numbers_of_byte(width: int) -> NDArray[np.float32]:
    """f32[256, 8 / width]: the numbers that each byte stands for, lowest bits first."""
    shifts = np.arange(0, 8, width)
    codes = (np.arange(256)[:, None] >> shifts) & ((1 << width) - 1)
    return (codes - (1 << (width - 1)) + 0.5).astype(np.float32)


def fit_basis(tokens: NDArray[np.float32], metric: NDArray[np.float32], average: float) -> Basis:
    """Transform coding: decorrelate what the pool can tell apart, then spend bits where the error falls most.

    tokens f32[n, D]: a sample of x; metric f32[D, D]: how much an error e of x matters, e^T metric e; average: bits a
    number. With R R^T = metric, z = R^T (x - mean) makes all directions matter alike; its principal axes are coded.
    The covariance is drawn a little towards the identity, so that a small or odd sample forgets no direction.
    """
    tokens = tokens.astype(np.float64)
    dim = tokens.shape[1]
    mean = tokens.mean(0)
    centred = tokens - mean
    prior = 2 * dim / (2 * dim + len(tokens))
    covariance = (1 - prior) * (centred.T @ centred) / len(tokens) + prior * np.eye(dim) * centred.var()
    weight, axes = np.linalg.eigh(metric.astype(np.float64))
    weight = np.maximum(weight, 1e-6 * weight.max())
    root = axes * np.sqrt(weight)
    variance, directions = np.linalg.eigh(root.T @ covariance @ root)
    variance, directions = np.maximum(variance[::-1], 0), directions[:, ::-1]
    forward, inverse = root @ directions, directions.T @ (axes / np.sqrt(weight)).T
    bits = allocate_bits(variance, average)
    order = np.argsort(-bits.astype(int), kind="stable")[: int((bits > 0).sum())]
    step = np.array([_STEP[int(b)] for b in bits[order]]) * np.sqrt(np.maximum(variance[order], 1e-12))
    mean, forward, inverse, step = (
        np.ascontiguousarray(column, np.float32) for column in (mean, forward[:, order], inverse[order], step)
    )
    return Basis(mean, forward, inverse, step, bits[order])


def allocate_bits(variance: NDArray[np.float64], average: float) -> NDArray[np.uint8]:
    """variance f64[D] -> bits u8[D] of 0, 2, 4 or 8, `average` on average at most: greedily the best error per bit."""
    choices = (0, *sorted(_WIDTHS))
    bits = np.zeros(len(variance), np.uint8)
    left = int(average * len(variance))
    heap: list[tuple[float, int, int]] = []

    def offer(i: int) -> None:
        now = int(bits[i])
        gains = [(variance[i] * (_ERROR[now] - _ERROR[b]) / (b - now), b) for b in choices if b > now]
        if gains:
            gain, more = max(gains)
            heapq.heappush(heap, (-float(gain), i, more))

    for i in range(len(variance)):
        offer(i)
    while heap:
        _, i, more = heapq.heappop(heap)
        if more - int(bits[i]) <= left:
            left -= more - int(bits[i])
            bits[i] = more
            offer(i)
    return bits


def needs_basis(name: str) -> bool:
    return name in AVERAGE_BITS


def check_codec(name: str) -> str:
    """Raises StoreError when there is no codec of that name."""
    if name not in (*_PLAIN, *AVERAGE_BITS):
        raise StoreError(f"no token codec named {name!r} - use one of {', '.join((*_PLAIN, *AVERAGE_BITS))}")
    return name


def make_codec(name: str, patches: int, dim: int, basis: Basis | None = None) -> Codec:
    """Raises StoreError when there is no codec of that name, or its basis is missing or of another size."""
    check_codec(name)
    if name in _PLAIN:
        return _PLAIN[name](patches, dim)
    if basis is None or len(basis.mean) != dim:
        raise StoreError(f"the basis of codec {name} is missing or of another size - run flairsearch index --rebuild")
    return Quantised(patches, dim, basis)
