"""The compiled loops of rerank_cpu: from stored rows of views to mixed tokens, and from these to scores.

A view is decoded into a scratch that fits the second-level cache, R rows (patches, or frequencies with their numbers
of coded channels falling); then for 8 heads at a time: logits = rows . u, softmax, mixed = weights . rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.numba_runtime import compiled
from flairsearch.rerank import llvm_intrinsics

F32 = NDArray[np.float32]
HALF, BYTE, CODES = 0, 1, 2  # Layout.kind: how the numbers of a view are stored
_AHEAD = 32768  # bytes from where a view is read to what is asked for


class Layout(NamedTuple):
    """What the loops need to know of a codec; R rows of the scratch, in the order of falling lengths."""

    kind: int
    dim: int  # numbers of a row
    stride: int  # floats from one row of the scratch to the next
    factors: int  # byte of a stored view where those of its rows begin
    order: NDArray[np.int64]  # [R] patch or frequency of each row
    length: NDArray[np.int64]  # [R] numbers it has
    planes: NDArray[np.int64]  # [R, 6] first byte and number of its codes of 8, of 4, of 2 bits
    step: F32  # [R * stride] of a coded number, 0 beyond the last
    loud: F32  # [256] what a gain multiplies by
    down: F32  # [2, G, G] cosines down the grid: to patches, to frequencies; [2, 0, 0] where rows are patches
    along: F32  # [2, W, W] along it


class Scratch(NamedTuple):
    """What one thread works in. The softmax reads four patches at a time."""

    x: F32  # [R * stride] a view's rows
    scale: F32  # [R] what they are multiplied by
    logits: F32  # [(P + 4) * 8]
    weights: F32  # [(P + 4) * 8]
    spare: F32  # [(P + 4) * 8]
    shares: F32  # [8]
    sums: F32  # [8 * C'] mixed


class Projection(NamedTuple):
    """The pool's value and output side, 8 outputs side by side; d' and D' are d and D filled up to eights."""

    value: F32  # [H, d'/8, C', 8]
    value_bias: F32  # [H, d']
    out: F32  # [D'/8, H d', 8]
    out_bias: F32  # [D']


@compiled
def attend_views(
    rows: NDArray[np.uint8],
    layout: Layout,
    scratch: Scratch,
    asked: tuple[F32, F32],
    mixed: F32,
    share: F32,
    first_view: int,
) -> None:
    """Rows from one on of u8[n, stride] -> mixed f32[k, N, C], share f32[k, N]; asked: numba_backend._queries."""
    x, scale, logits, weights, spare, shares, sums = scratch
    u, c = asked
    count, columns, flat, queries = len(layout.order), mixed.shape[1], rows.reshape(-1), u.reshape(-1)
    for view in range(len(mixed)):
        start = (first_view + view) * rows.shape[1]
        _decode(flat, start, layout, x)
        _factors(flat, start, layout, scale)
        for block in range(u.shape[0]):
            at = block * u.shape[1] * 8
            row = 0
            while row < count:
                tile = 14 if count - row >= 14 else 7 if count - row >= 7 else 1
                place = (row * layout.stride, layout.stride, at, 8, row * 8, 8, layout.length[row])
                _dots(x, queries, spare, place, tile)
                row += tile
            _to_patches(layout, spare, scale, logits)
            llvm_intrinsics.softmax(logits, c, shares, (count, block * 8))
            _to_rows(layout, logits, scale, weights, spare)
            for first in range(0, u.shape[1], llvm_intrinsics.TILE):
                used = count
                while layout.length[used - 1] <= first and used > 1:
                    used -= 1
                for head in range(0, 8, llvm_intrinsics.HEADS):
                    llvm_intrinsics.mix(
                        x, weights, sums, (first, layout.stride, head, head * u.shape[1] + first, u.shape[1], used)
                    )
            for head in range(min(8, columns - block * 8)):
                share[view, block * 8 + head] = shares[head]
                for i in range(mixed.shape[2]):
                    mixed[view, block * 8 + head, i] = sums[head * u.shape[1] + i]


@compiled
def project_views(projection: Projection, mixed: F32, share: F32, texts: F32, spare: F32, scores: F32) -> None:
    """mixed f32[k, Q H, C], share f32[k, Q H], texts f32[Q, D'] of unit length -> scores f32[k, Q]."""
    heads, blocks, channels, _ = projection.value.shape
    value, out = projection.value.reshape(-1), projection.out.reshape(-1)
    queries, dim, step = len(texts), mixed.shape[2], spare.shape[2]
    count = len(mixed) * queries
    head, joined, pooled = spare[0].reshape(-1), spare[1].reshape(-1), spare[2].reshape(-1)
    for h in range(heads):
        for i in range(count):  # rows a power of two apart would fall on the same lines of the cache
            for j in range(dim):
                head[i * step + j] = mixed[i // queries, i % queries * heads + h, j]
        for block in range(blocks):
            at = (h * blocks + block) * 8
            _dots(head, value, joined, (0, step, at * channels, 8, at, step, dim), count)
        for i in range(count):
            whole = share[i // queries, i % queries * heads + h]
            for j in range(blocks * 8):
                joined[i * step + h * blocks * 8 + j] += whole * projection.value_bias[h, j]
    for block in range(len(projection.out)):
        place = (0, step, block * 8 * heads * blocks * 8, 8, block * 8, step, heads * blocks * 8)
        _dots(joined, out, pooled, place, count)
    for i in range(count):
        product, square = np.float32(0), np.float32(0)
        for j in range(len(projection.out_bias)):
            value_j = pooled[i * step + j] + projection.out_bias[j]
            product += value_j * texts[i % queries, j]
            square += value_j * value_j
        scores[i // queries, i % queries] = product / max(np.sqrt(square), np.float32(1e-8))


@compiled
def _factors(flat: NDArray[np.uint8], start: int, layout: Layout, scale: F32) -> None:
    """What each row is multiplied by, f32[R]."""
    for row in range(len(scale)):
        if layout.kind == BYTE:
            llvm_intrinsics.half(flat, scale, scale, (start + layout.factors + 2 * row, row))
        elif layout.kind == CODES:
            scale[row] = layout.loud[flat[start + layout.factors + layout.order[row]]]


@compiled
def _decode(flat: NDArray[np.uint8], start: int, layout: Layout, x: F32) -> None:
    """Stored rows of the view that begins at byte `start` -> the scratch x, but for their factors."""
    whole, size = layout.dim - layout.dim % 16, layout.dim * (2 - layout.kind)
    for row in range(len(layout.order)):
        at, to = start + row * size, row * layout.stride
        if layout.kind != CODES:
            for i in range(0, size, 64):
                llvm_intrinsics.fetch(flat, x, x, (at + i + _AHEAD,))
        if layout.kind == HALF:
            for i in range(0, whole, 16):
                llvm_intrinsics.halves(flat, x, x, (at + 2 * i, to + i))
            for i in range(whole, layout.dim):
                llvm_intrinsics.half(flat, x, x, (at + 2 * i, to + i))
        elif layout.kind == BYTE:
            for i in range(0, whole, 16):
                llvm_intrinsics.bytes16(flat, x, x, (at + i, to + i))
            for i in range(whole, layout.dim):
                llvm_intrinsics.byte(flat, x, x, (at + i, to + i))
        else:  # a vector may write past its numbers: those of fewer bits come after, and beyond the last, step is 0
            first8, count8, first4, count4, first2, count2 = layout.planes[row]
            for i in range(0, count8, 16):
                llvm_intrinsics.codes8(flat, x, layout.step, (start + first8 + i, to + i))
            to += count8
            for i in range(0, count4, 16):
                llvm_intrinsics.codes4(flat, x, layout.step, (start + first4 + (i >> 1), to + i))
            to += count4
            for i in range(0, count2, 16):
                llvm_intrinsics.codes2(flat, x, layout.step, (start + first2 + (i >> 2), to + i))


@compiled
def _dots(x: F32, v: F32, out: F32, place: tuple[int, int, int, int, int, int, int], rows: int) -> None:
    """out[r, :8] = sum_i x[r, i] v[i, :8]; place: offset and row stride of x, v and out, and the number of i."""
    x_at, x_step, v_at, v_step, out_at, out_step, length = place
    row = 0
    while row < rows:
        here = (x_at + row * x_step, x_step, v_at, v_step, out_at + row * out_step, out_step, length)
        if rows - row >= 14:
            llvm_intrinsics.dots14(x, v, out, here)
            row += 14
        elif rows - row >= 7:
            llvm_intrinsics.dots7(x, v, out, here)
            row += 7
        else:
            llvm_intrinsics.dots1(x, v, out, here)
            row += 1


@compiled
def _to_patches(layout: Layout, dots: F32, scale: F32, logits: F32) -> None:
    """Dots of rows f32[R, 8] -> logits of patches f32[P, 8]; dots are spent."""
    if layout.kind != CODES:
        for row in range(len(scale)):
            for lane in range(8):
                logits[row * 8 + lane] = dots[row * 8 + lane] * scale[row]
        return
    for row in range(len(scale)):
        for lane in range(8):
            logits[layout.order[row] * 8 + lane] = dots[row * 8 + lane] * scale[row]
    _turn(layout, 0, logits, dots)


@compiled
def _to_rows(layout: Layout, weights: F32, scale: F32, out: F32, spare: F32) -> None:
    """Weights of patches f32[P, 8] -> of rows f32[R, 8]; weights are spent."""
    if layout.kind == CODES:
        _turn(layout, 1, weights, spare)
    for row in range(len(scale)):
        for lane in range(8):
            out[row * 8 + lane] = weights[layout.order[row] * 8 + lane] * scale[row]


@compiled
def _turn(layout: Layout, way: int, values: F32, spare: F32) -> None:
    """The cosine transform of values f32[G, W, 8], in place."""
    high, wide = layout.down.shape[1], layout.along.shape[1]
    down, along = layout.down[way].reshape(-1), layout.along[way].reshape(-1)
    for row in range(high):
        _dots(along, values, spare, (0, wide, row * wide * 8, 8, row * wide * 8, 8, wide), wide)
    for column in range(wide):
        _dots(down, spare, values, (0, high, column * 8, wide * 8, column * 8, wide * 8, high), high)
