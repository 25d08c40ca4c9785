"""The pool's attention over stored rows on a CPU, fused with decoding: numba, explicit vector code, our own threads.

The loops are in rerank/numba_kernels.py. This module lays out codecs, queries and weights for them and distributes the
views over threads. Measured on 2 busy cores, D 512, H 8, one query: int8 25,800 views/s, torch on decoded chunks 4,800.
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
from flairsearch.rerank.numba_kernels import CODES, FP16, INT8, Layout, Projection, Scratch, attend_views, project_views

F32 = NDArray[np.float32]
_VIEWS_PER_TASK = 28  # A thread takes this number of views at a time: whole tiles of 14 rows for the projections.
_CHANNEL_MULTIPLE = 32  # Rows of the scratch are padded to a multiple of this number of channels.


def attend(codec: Codec, rows: NDArray[np.uint8], u: F32, c: F32, threads: int | None = None) -> tuple[F32, F32]:
    """Attend to stored rows: a = softmax over [x_p . u + c, 0], x in the codec's coordinates.

    rows: u8[n, stride] as codec.encode made them. u: f32[Q, H, C], c: f32[Q, H], folded by codec.fold.
    Returns mixed f32[n, Q, H, C] = sum_p a_p x_p and share f32[n, Q, H] = sum_p a_p.
    """
    layout, stored, queries = _layout(codec), _contiguous(rows, codec.patches), _pack_queries(u, c)
    mixed, share = np.empty((len(rows), c.size, u.shape[2]), np.float32), np.empty((len(rows), c.size), np.float32)

    def work(pieces: Iterator[tuple[int, int]]) -> None:
        scratch = _scratch(layout, queries[0].shape[1])
        for span in pieces:
            attend_views(stored, layout, scratch, queries, mixed[slice(*span)], share[slice(*span)], span[0])

    run_in_threads(work, len(rows), _VIEWS_PER_TASK, threads)
    return mixed.reshape(len(rows), *u.shape), share.reshape(len(rows), *c.shape)


def score(codec: Codec, rows: NDArray[np.uint8], projection: Projection, u: F32, c: F32, text: F32) -> F32:
    """Score stored rows: cos(pool(t, L), t) f32[n, Q], with the arguments of `attend`.

    Threads attend and project a few views at a time. text: f32[Q, D]. projection: pack_projection of the weights.
    """
    layout, stored, queries = _layout(codec), _contiguous(rows, codec.patches), _pack_queries(u, c)
    scores, size = np.empty((len(rows), len(u)), np.float32), max(1, 2 * _VIEWS_PER_TASK // max(2, len(u)))
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


def pack_projection(weights: PoolWeights) -> Projection:
    """Lay out weights for `score`; they are folded by codec.fold_weights. Needed once for any number of queries."""
    heads, size, _ = weights.value.shape
    full = -(-size // llvm_intrinsics.LANES) * llvm_intrinsics.LANES
    out = np.zeros((len(weights.out), heads, full), np.float32)
    out[:, :, :size] = weights.out.reshape(-1, heads, size)
    value_bias, out_bias = (
        np.zeros((heads, full), np.float32),
        np.zeros(-(-len(out) // llvm_intrinsics.LANES) * llvm_intrinsics.LANES, np.float32),
    )
    value_bias[:, :size], out_bias[: len(out)] = weights.value_bias, weights.out_bias
    value = np.stack([_interleave(head) for head in weights.value])
    return Projection(value, value_bias, _interleave(out.reshape(len(out), -1), 1), out_bias)


def _pack_queries(u: F32, c: F32) -> tuple[F32, F32]:
    """Lay out u f32[Q, H, C] as f32[N/8, C', 8] and c f32[Q, H] as f32[N], with N = Q H rounded up to 8."""
    blocks = _interleave(u.reshape(c.size, -1))
    biases = np.zeros(len(blocks) * llvm_intrinsics.LANES, np.float32)
    biases[: c.size] = c.reshape(-1)
    return blocks, biases


def _interleave(matrix: F32, multiple: int = _CHANNEL_MULTIPLE) -> F32:
    """Lay out a matrix f32[N, C] as f32[N/8, C', 8], 8 rows side by side, padded with zeros."""
    blocks, channels = -(-len(matrix) // llvm_intrinsics.LANES), -(-matrix.shape[1] // multiple) * multiple
    full = np.zeros((blocks * llvm_intrinsics.LANES, channels), np.float32)
    full[: len(matrix), : matrix.shape[1]] = matrix
    return np.ascontiguousarray(full.reshape(blocks, llvm_intrinsics.LANES, channels).transpose(0, 2, 1))


def _scratch(layout: Layout, channels: int) -> Scratch:
    """Allocate the scratch memory of one thread."""
    rows = len(layout.order)
    sizes = (
        rows * layout.stride,
        rows,
        *[(rows + 4) * llvm_intrinsics.LANES] * 3,
        llvm_intrinsics.LANES,
        llvm_intrinsics.LANES * channels,
    )
    return Scratch(*(np.zeros(size, np.float32) for size in sizes))._replace(scale=np.ones(rows, np.float32))


def _contiguous(rows: NDArray[np.uint8], patches: int) -> NDArray[np.uint8]:
    """Return rows contiguous and read-only: one type to compile for. Padding allows reads of up to 16 bytes at once."""
    if patches < 4:
        rows = np.pad(rows, ((0, 0), (0, 16)))
    rows = np.ascontiguousarray(rows).view()
    rows.flags.writeable = False
    return rows


@lru_cache(maxsize=16)
def _layout(codec: Codec) -> Layout:
    """Describe a codec for the loops."""
    patches, empty = codec.patches, np.zeros((2, 0, 0), np.float32)
    if not isinstance(codec, Quantised):
        kind, factors = (FP16, 0) if isinstance(codec, Fp16) else (INT8, patches * codec.dim)
        rows = np.arange(patches), np.full(patches, codec.dim), np.zeros((patches, 6), np.int64)
        flat = empty.reshape(-1)
        return Layout(kind, codec.dim, _stride(codec.dim), factors, *rows, flat, flat, empty, empty)
    counts = codec.basis.counts.astype(np.int64)
    length = counts.sum(0)
    order = np.argsort(-length, kind="stable")
    planes, start = np.zeros((patches, 6), np.int64), 0
    for i, bits in enumerate((8, 4, 2)):
        sizes = counts[i] * bits // 8
        planes[:, 2 * i], planes[:, 2 * i + 1] = start + np.cumsum(sizes) - sizes, counts[i]
        start += int(sizes.sum())
    channels = codec.basis.step.shape[1]
    step = np.zeros((patches, _stride(channels)), np.float32)
    step[:, :channels] = np.where(np.arange(channels) < length[:, None], codec.basis.step, 0)
    side = isqrt(patches)
    sides = (side, side) if side * side == patches else (1, patches)
    cosines = [np.stack([both.T, both]).astype(np.float32) for both in map(cosines_1d, sides)]
    gains = np.exp2((np.arange(256, dtype=np.float32) - 128) / 8)
    parts = order, length[order], planes[order], step[order].reshape(-1), gains
    return Layout(CODES, channels, step.shape[1], start, *parts, *cosines)


def _stride(channels: int) -> int:
    """Return the distance of rows: with room for a vector past the end, and never a power of two.

    Rows at a distance of a power of two would compete for the same cache lines.
    """
    return -(-channels // _CHANNEL_MULTIPLE) * _CHANNEL_MULTIPLE + 16
