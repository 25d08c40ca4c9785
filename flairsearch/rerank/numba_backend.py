"""The pool's attention over stored rows, without a float copy of them: numba, vectors written out, threads of our own.

The loops are in rerank/numba_kernels.py; here codecs, queries and weights are laid out for them, and threads share the
views.
Measured on 2 busy cores, D 512, H 8, one query: int8 25,800 views/s, torch on decoded chunks 4,800.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from flairsearch.codecs.codec import Codec, Fp16, Quantised
from flairsearch.codecs.transform import cosines_1d
from flairsearch.core.numba_runtime import run_in_threads
from flairsearch.core.types import PoolWeights
from flairsearch.rerank import llvm_intrinsics
from flairsearch.rerank.numba_kernels import BYTE, CODES, HALF, Layout, Projection, Scratch, attend_views, project_views

F32 = NDArray[np.float32]
_PIECE = 28  # views that a thread takes at a time; whole tiles of rows for the projections
_PAD = 32  # rows of the scratch are padded to this many channels


def attend(codec: Codec, rows: NDArray[np.uint8], u: F32, c: F32, threads: int | None = None) -> tuple[F32, F32]:
    """a = softmax over [x_p . u + c, 0] of every view, query and head, x the codec's coordinates of stored views.

    rows u8[n, stride] as codec.encode made them; u f32[Q, H, C], c f32[Q, H] folded by codec.fold.
    Returns mixed f32[n, Q, H, C] = sum_p a_p x_p and share f32[n, Q, H] = sum_p a_p.
    """
    layout, stored, queries = _layout(codec), _readable(rows, codec.patches), _queries(u, c)
    mixed, share = np.empty((len(rows), c.size, u.shape[2]), np.float32), np.empty((len(rows), c.size), np.float32)

    def work(pieces: Iterator[tuple[int, int]]) -> None:
        scratch = _scratch(layout, queries[0].shape[1])
        for span in pieces:
            attend_views(stored, layout, scratch, queries, mixed[slice(*span)], share[slice(*span)], span[0])

    run_in_threads(work, len(rows), _PIECE, threads)
    return mixed.reshape(len(rows), *u.shape), share.reshape(len(rows), *c.shape)


def score(codec: Codec, rows: NDArray[np.uint8], projection: Projection, u: F32, c: F32, text: F32) -> F32:
    """`attend`, then cos(pool(t, L), t): all of it in this module's threads, a few views at a time, f32[n, Q].

    text f32[Q, D]; projection of the weights folded by codec.fold_weights.
    """
    layout, stored, queries = _layout(codec), _readable(rows, codec.patches), _queries(u, c)
    scores, size = np.empty((len(rows), len(u)), np.float32), max(1, 2 * _PIECE // max(2, len(u)))
    texts = np.zeros((len(u), len(projection.out_bias)), np.float32)
    texts[:, : text.shape[1]] = text / np.linalg.norm(text, axis=1, keepdims=True)

    def work(pieces: Iterator[tuple[int, int]]) -> None:
        scratch = _scratch(layout, queries[0].shape[1])
        mixed, share = np.empty((size, c.size, u.shape[2]), np.float32), np.empty((size, c.size), np.float32)
        widest = max(u.shape[2], texts.shape[1], projection.value_bias.size)
        spare = np.zeros((3, size * len(u), _stride(widest)), np.float32)
        for first, last in pieces:
            attend_views(stored, layout, scratch, queries, mixed[: last - first], share[: last - first], first)
            project_views(projection, mixed[: last - first], share[: last - first], texts, spare, scores[first:last])

    run_in_threads(work, len(rows), size, None)
    return scores


def project_with(weights: PoolWeights) -> Projection:
    """Weights folded by codec.fold_weights, laid out for `score`: once for any number of queries."""
    heads, size, _ = weights.value.shape
    full = -(-size // llvm_intrinsics.LANES) * llvm_intrinsics.LANES
    out = np.zeros((len(weights.out), heads, full), np.float32)
    out[:, :, :size] = weights.out.reshape(-1, heads, size)
    value_bias, out_bias = (
        np.zeros((heads, full), np.float32),
        np.zeros(-(-len(out) // llvm_intrinsics.LANES) * llvm_intrinsics.LANES, np.float32),
    )
    value_bias[:, :size], out_bias[: len(out)] = weights.value_bias, weights.out_bias
    value = np.stack([_side_by_side(head) for head in weights.value])
    return Projection(value, value_bias, _side_by_side(out.reshape(len(out), -1), 1), out_bias)


def _queries(u: F32, c: F32) -> tuple[F32, F32]:
    """u f32[Q, H, C], c f32[Q, H] -> u f32[N/8, C', 8], c f32[N], N = Q H filled up to eights."""
    blocks = _side_by_side(u.reshape(c.size, -1))
    biases = np.zeros(len(blocks) * llvm_intrinsics.LANES, np.float32)
    biases[: c.size] = c.reshape(-1)
    return blocks, biases


def _side_by_side(matrix: F32, pad: int = _PAD) -> F32:
    """f32[N, C] -> f32[N/8, C', 8], zeros where there is nothing."""
    blocks, channels = -(-len(matrix) // llvm_intrinsics.LANES), -(-matrix.shape[1] // pad) * pad
    full = np.zeros((blocks * llvm_intrinsics.LANES, channels), np.float32)
    full[: len(matrix), : matrix.shape[1]] = matrix
    return np.ascontiguousarray(full.reshape(blocks, llvm_intrinsics.LANES, channels).transpose(0, 2, 1))


def _scratch(layout: Layout, channels: int) -> Scratch:
    rows = len(layout.order)
    sizes = (
        rows * layout.stride,
        rows,
        *[(rows + 4) * llvm_intrinsics.LANES] * 3,
        llvm_intrinsics.LANES,
        llvm_intrinsics.LANES * channels,
    )
    return Scratch(*(np.zeros(size, np.float32) for size in sizes))._replace(scale=np.ones(rows, np.float32))


def _readable(rows: NDArray[np.uint8], patches: int) -> NDArray[np.uint8]:
    """Contiguous and read-only, whatever came: one type to compile for. Codes are read up to 16 bytes at a time."""
    if patches < 4:
        rows = np.pad(rows, ((0, 0), (0, 16)))
    rows = np.ascontiguousarray(rows).view()
    rows.flags.writeable = False
    return rows


@lru_cache(maxsize=16)
def _layout(codec: Codec) -> Layout:
    patches, nothing = codec.patches, np.zeros((2, 0, 0), np.float32)
    if not isinstance(codec, Quantised):
        kind, factors = (HALF, 0) if isinstance(codec, Fp16) else (BYTE, patches * codec.dim)
        rows = np.arange(patches), np.full(patches, codec.dim), np.zeros((patches, 6), np.int64)
        flat = nothing.reshape(-1)
        return Layout(kind, codec.dim, _stride(codec.dim), factors, *rows, flat, flat, nothing, nothing)
    counts = codec.basis.counts.astype(np.int64)
    length = counts.sum(0)
    order = np.argsort(-length, kind="stable")
    planes, start = np.zeros((patches, 6), np.int64), 0
    for i, width in enumerate((8, 4, 2)):
        sizes = counts[i] * width // 8
        planes[:, 2 * i], planes[:, 2 * i + 1] = start + np.cumsum(sizes) - sizes, counts[i]
        start += int(sizes.sum())
    channels = codec.basis.step.shape[1]
    step = np.zeros((patches, _stride(channels)), np.float32)
    step[:, :channels] = np.where(np.arange(channels) < length[:, None], codec.basis.step, 0)
    side = isqrt(patches)
    sides = (side, side) if side * side == patches else (1, patches)
    cosines = [np.stack([both.T, both]).astype(np.float32) for both in map(cosines_1d, sides)]
    loud = np.exp2((np.arange(256, dtype=np.float32) - 128) / 8)
    parts = order, length[order], planes[order], step[order].reshape(-1), loud
    return Layout(CODES, channels, step.shape[1], start, *parts, *cosines)


def _stride(channels: int) -> int:
    """Room for a vector past the end; not a power of two, whose rows would fall on the same lines of the cache."""
    return -(-channels // _PAD) * _PAD + 16
