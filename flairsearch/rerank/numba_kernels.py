"""The compiled loops of numba_backend: from stored rows of views to mixed tokens, and from mixed tokens to scores.

A view is decoded into scratch memory that fits into the second-level cache: R rows, one for each patch, or for each
frequency in descending order of the number of coded channels. Then, for 8 heads at a time: logits = rows . u, softmax,
mixed = weights . rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.numba_runtime import compiled
from flairsearch.rerank import llvm_intrinsics

F32 = NDArray[np.float32]
FP16, INT8, CODES = 0, 1, 2
"""The values of Layout.kind: how the numbers of a view are stored."""
_PREFETCH_BYTES = 32768  # Memory is prefetched this number of bytes ahead of the position that is read.


class Layout(NamedTuple):
    """A codec's layout, as the loops need it; the R rows of the scratch are in descending order of their lengths."""

    kind: int  # FP16, INT8 or CODES.
    dim: int  # The number of values of a row.
    stride: int  # The number of floats from one row of the scratch to the next.
    factors: int  # The byte of a stored view at which the rows' factors begin.
    order: NDArray[np.int64]  # [R]: the patch or frequency of each row.
    length: NDArray[np.int64]  # [R]: the number of stored values of each row.
    planes: NDArray[np.int64]  # [R, 6]: first byte and number of the codes of 8, of 4 and of 2 bits.
    step: F32  # [R * stride]: the quantisation step of each value; 0 after a row's last coded value.
    gains: F32  # [256]: the factor that each gain code stands for.
    column_transform: F32  # [2, G, G]: cosine transform along columns, to patches and back; empty for rows of patches.
    row_transform: F32  # [2, W, W]: cosine transform along rows, to patches and back.


class Scratch(NamedTuple):
    """The scratch memory of one thread, for P patches. The softmax reads four patches at a time."""

    x: F32  # [R * stride]: the decoded rows of a view, without their factors.
    scale: F32  # [R]: the factor of each row.
    logits: F32  # [(P + 4) * 8]
    weights: F32  # [(P + 4) * 8]
    spare: F32  # [(P + 4) * 8]
    shares: F32  # [8]: the sum of each head's attention.
    sums: F32  # [8 * C']: mixed tokens.


class Projection(NamedTuple):
    """The value and output projections of the pool, 8 outputs side by side; d' and D' are d and D rounded up to 8."""

    value: F32  # [H, d'/8, C', 8]
    value_bias: F32  # [H, d']
    out: F32  # [D'/8, H d', 8]
    out_bias: F32  # [D']


@compiled
def attend_views(
    rows: NDArray[np.uint8],
    layout: Layout,
    scratch: Scratch,
    queries: tuple[F32, F32],
    mixed: F32,
    share: F32,
    first_view: int,
) -> None:
    """Attend to k views from `first_view` on; fill mixed f32[k, N, C] and share f32[k, N].

    rows: u8[n, stride]. queries: u and c of N heads, as numba_backend._pack_queries lays them out.
    """
    x, scale, logits, weights, spare, shares, sums = scratch
    u, c = queries
    count, columns, flat, flat_u = len(layout.order), mixed.shape[1], rows.reshape(-1), u.reshape(-1)
    for view in range(len(mixed)):
        start = (first_view + view) * rows.shape[1]
        _decode(flat, start, layout, x)
        _read_factors(flat, start, layout, scale)
        for block in range(u.shape[0]):
            u_at = block * u.shape[1] * 8
            row = 0
            while row < count:
                tile = 14 if count - row >= 14 else 7 if count - row >= 7 else 1
                offsets = (row * layout.stride, layout.stride, u_at, 8, row * 8, 8, layout.length[row])
                _dot_products(x, flat_u, spare, offsets, tile)
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
    """Fill scores f32[k, Q] from mixed f32[k, Q H, C] and share f32[k, Q H].

    texts: f32[Q, D'] of unit length. spare: f32[3, k Q, stride], scratch memory.
    """
    heads, blocks, channels, _ = projection.value.shape
    value, out = projection.value.reshape(-1), projection.out.reshape(-1)
    queries, dim, step = len(texts), mixed.shape[2], spare.shape[2]
    count = len(mixed) * queries
    head, joined, pooled = spare[0].reshape(-1), spare[1].reshape(-1), spare[2].reshape(-1)
    for h in range(heads):
        for i in range(count):  # Rows at a distance of a power of two would compete for the same cache lines.
            for j in range(dim):
                head[i * step + j] = mixed[i // queries, i % queries * heads + h, j]
        for block in range(blocks):
            out_at = (h * blocks + block) * 8
            _dot_products(head, value, joined, (0, step, out_at * channels, 8, out_at, step, dim), count)
        for i in range(count):
            total = share[i // queries, i % queries * heads + h]
            for j in range(blocks * 8):
                joined[i * step + h * blocks * 8 + j] += total * projection.value_bias[h, j]
    for block in range(len(projection.out)):
        offsets = (0, step, block * 8 * heads * blocks * 8, 8, block * 8, step, heads * blocks * 8)
        _dot_products(joined, out, pooled, offsets, count)
    for i in range(count):
        product, square = np.float32(0), np.float32(0)
        for j in range(len(projection.out_bias)):
            value_j = pooled[i * step + j] + projection.out_bias[j]
            product += value_j * texts[i % queries, j]
            square += value_j * value_j
        scores[i // queries, i % queries] = product / max(np.sqrt(square), np.float32(1e-8))


@compiled
def _read_factors(flat: NDArray[np.uint8], start: int, layout: Layout, scale: F32) -> None:
    """Read the factor of each row of the view that begins at byte `start` into scale f32[R]."""
    for row in range(len(scale)):
        if layout.kind == INT8:
            llvm_intrinsics.load_fp16(flat, scale, scale, (start + layout.factors + 2 * row, row))
        elif layout.kind == CODES:
            scale[row] = layout.gains[flat[start + layout.factors + layout.order[row]]]


@compiled
def _decode(flat: NDArray[np.uint8], start: int, layout: Layout, x: F32) -> None:
    """Decode the view that begins at byte `start` into the scratch x, without the rows' factors."""
    vectorised, size = layout.dim - layout.dim % 16, layout.dim * (2 - layout.kind)
    for row in range(len(layout.order)):
        at, to = start + row * size, row * layout.stride
        if layout.kind != CODES:
            for i in range(0, size, 64):
                llvm_intrinsics.prefetch(flat, x, x, (at + i + _PREFETCH_BYTES,))
        if layout.kind == FP16:
            for i in range(0, vectorised, 16):
                llvm_intrinsics.load_fp16x16(flat, x, x, (at + 2 * i, to + i))
            for i in range(vectorised, layout.dim):
                llvm_intrinsics.load_fp16(flat, x, x, (at + 2 * i, to + i))
        elif layout.kind == INT8:
            for i in range(0, vectorised, 16):
                llvm_intrinsics.load_int8x16(flat, x, x, (at + i, to + i))
            for i in range(vectorised, layout.dim):
                llvm_intrinsics.load_int8(flat, x, x, (at + i, to + i))
        else:
            # A vector may write past its values: the next plane overwrites them, and after the last plane step is 0.
            first8, count8, first4, count4, first2, count2 = layout.planes[row]
            for i in range(0, count8, 16):
                llvm_intrinsics.decode8(flat, x, layout.step, (start + first8 + i, to + i))
            to += count8
            for i in range(0, count4, 16):
                llvm_intrinsics.decode4(flat, x, layout.step, (start + first4 + (i >> 1), to + i))
            to += count4
            for i in range(0, count2, 16):
                llvm_intrinsics.decode2(flat, x, layout.step, (start + first2 + (i >> 2), to + i))


@compiled
def _dot_products(x: F32, v: F32, out: F32, offsets: tuple[int, int, int, int, int, int, int], rows: int) -> None:
    """out[r, :8] = sum_i x[r, i] v[i, :8]; offsets: first element and row stride of x, v and out; length."""
    x_at, x_step, v_at, v_step, out_at, out_step, length = offsets
    row = 0
    while row < rows:
        tile = (x_at + row * x_step, x_step, v_at, v_step, out_at + row * out_step, out_step, length)
        if rows - row >= 14:
            llvm_intrinsics.dots14(x, v, out, tile)
            row += 14
        elif rows - row >= 7:
            llvm_intrinsics.dots7(x, v, out, tile)
            row += 7
        else:
            llvm_intrinsics.dots1(x, v, out, tile)
            row += 1


@compiled
def _to_patches(layout: Layout, dots: F32, scale: F32, logits: F32) -> None:
    """Turn dot products of rows f32[R, 8] into logits of patches f32[P, 8]; `dots` is overwritten."""
    if layout.kind != CODES:
        for row in range(len(scale)):
            for lane in range(8):
                logits[row * 8 + lane] = dots[row * 8 + lane] * scale[row]
        return
    for row in range(len(scale)):
        for lane in range(8):
            logits[layout.order[row] * 8 + lane] = dots[row * 8 + lane] * scale[row]
    _cosine_transform(layout, 0, logits, dots)


@compiled
def _to_rows(layout: Layout, weights: F32, scale: F32, out: F32, spare: F32) -> None:
    """Turn weights of patches f32[P, 8] into weights of rows f32[R, 8]; `weights` is overwritten."""
    if layout.kind == CODES:
        _cosine_transform(layout, 1, weights, spare)
    for row in range(len(scale)):
        for lane in range(8):
            out[row * 8 + lane] = weights[layout.order[row] * 8 + lane] * scale[row]


@compiled
def _cosine_transform(layout: Layout, direction: int, values: F32, spare: F32) -> None:
    """Transform values f32[G, W, 8] in place; direction 0 is to patches, 1 to frequencies."""
    high, wide = layout.column_transform.shape[1], layout.row_transform.shape[1]
    columns, rows = layout.column_transform[direction].reshape(-1), layout.row_transform[direction].reshape(-1)
    for row in range(high):
        _dot_products(rows, values, spare, (0, wide, row * wide * 8, 8, row * wide * 8, 8, wide), wide)
    for column in range(wide):
        _dot_products(columns, spare, values, (0, high, column * 8, wide * 8, column * 8, wide * 8, high), high)
