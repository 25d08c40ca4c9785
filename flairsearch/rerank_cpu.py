"""The pool's attention over stored rows, without a float copy of them: numba, vectors written out, threads of our own.

A view is decoded into a scratch that fits the second-level cache, R rows (patches, or frequencies with their numbers
of coded channels falling); then for 8 heads at a time: logits = rows . u, softmax, mixed = weights . rows.
MEASURED
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from itertools import count
from math import isqrt
from threading import Thread
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from flairsearch.codec import Codec, Fp16, Quantised
from flairsearch.vectors import (
    HEADS,
    LANES,
    TILE,
    byte,
    bytes16,
    codes2,
    codes4,
    codes8,
    dots1,
    dots7,
    dots14,
    fetch,
    half,
    halves,
    mix,
    softmax,
)

F32 = NDArray[np.float32]
_Function = TypeVar("_Function", bound=Callable[..., Any])
_AHEAD = 32768  # bytes from where a view is read to what is asked for
_PIECE = 32  # views a thread takes at a time
_HALF, _BYTE, _CODES = 0, 1, 2
_PAD = 32  # rows of the scratch are padded to this many channels


class _Layout(NamedTuple):
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


class _Scratch(NamedTuple):
    """What one thread works in. The softmax reads four patches at a time."""

    x: F32  # [R * stride] a view's rows
    scale: F32  # [R] what they are multiplied by
    logits: F32  # [(P + 4) * 8]
    weights: F32  # [(P + 4) * 8]
    spare: F32  # [(P + 4) * 8]
    shares: F32  # [8]
    sums: F32  # [8 * C'] mixed


def attend(codec: Codec, rows: NDArray[np.uint8], u: F32, c: F32, threads: int | None = None) -> tuple[F32, F32]:
    """a = softmax over [x_p . u + c, 0] of every view, query and head, x the codec's coordinates of stored views.

    rows u8[n, stride] as codec.encode made them; u f32[Q, H, C], c f32[Q, H] folded by codec.fold.
    Returns mixed f32[n, Q, H, C] = sum_p a_p x_p and share f32[n, Q, H] = sum_p a_p.
    """
    columns = u.shape[0] * u.shape[1]
    layout = _layout(codec)
    channels = -(-u.shape[2] // _PAD) * _PAD
    blocks = -(-columns // LANES)
    tall = np.zeros((blocks, channels, LANES), np.float32)
    wide = np.zeros((blocks * LANES, channels), np.float32)
    wide[:columns, : u.shape[2]] = u.reshape(columns, -1)
    tall[:] = wide.reshape(blocks, LANES, channels).transpose(0, 2, 1)
    biases = np.zeros(blocks * LANES, np.float32)
    biases[:columns] = c.reshape(-1)
    mixed = np.empty((len(rows), columns, u.shape[2]), np.float32)
    share = np.empty((len(rows), columns), np.float32)
    stored = _readable(rows, codec.patches)
    starts = count(0, _PIECE)

    def work() -> None:
        scratch = _scratch(layout, channels)
        while (start := next(starts)) < len(rows):
            span = (start, min(start + _PIECE, len(rows)))
            _views(stored, layout, scratch, tall, biases, (mixed, share), span)

    helpers = [Thread(target=work) for _ in range(1, min(threads or _cores(), -(-len(rows) // _PIECE)))]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    return mixed.reshape(len(rows), *u.shape), share.reshape(len(rows), *c.shape)


def _scratch(layout: _Layout, channels: int) -> _Scratch:
    rows = len(layout.order)
    sizes = (rows * layout.stride, rows, *[(rows + 4) * LANES] * 3, LANES, LANES * channels)
    return _Scratch(*(np.zeros(size, np.float32) for size in sizes))._replace(scale=np.ones(rows, np.float32))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _readable(rows: NDArray[np.uint8], patches: int) -> NDArray[np.uint8]:
    """Contiguous and read-only, whatever came: one type to compile for. Codes are read up to 16 bytes at a time."""
    if patches < 4:
        rows = np.pad(rows, ((0, 0), (0, 16)))
    rows = np.ascontiguousarray(rows).view()
    rows.flags.writeable = False
    return rows


@lru_cache(maxsize=16)
def _layout(codec: Codec) -> _Layout:
    patches, nothing = codec.patches, np.zeros((2, 0, 0), np.float32)
    if not isinstance(codec, Quantised):
        kind, factors = (_HALF, 0) if isinstance(codec, Fp16) else (_BYTE, patches * codec.dim)
        rows = np.arange(patches), np.full(patches, codec.dim), np.zeros((patches, 6), np.int64)
        flat = nothing.reshape(-1)
        return _Layout(kind, codec.dim, _stride(codec.dim), factors, *rows, flat, flat, nothing, nothing)
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
    cosines = [_cosines(size) for size in ((side, side) if side * side == patches else (1, patches))]
    loud = np.exp2((np.arange(256, dtype=np.float32) - 128) / 8)
    parts = order, length[order], planes[order], step[order].reshape(-1), loud
    return _Layout(_CODES, channels, step.shape[1], start, *parts, *cosines)


def _stride(channels: int) -> int:
    """Room for a vector past the end; not a power of two, whose rows would fall on the same lines of the cache."""
    return -(-channels // _PAD) * _PAD + 16


def _cosines(size: int) -> F32:
    """The orthonormal cosine transform both ways f32[2, size, size]: to patches, to frequencies."""
    f, p = np.arange(size)[:, None], np.arange(size)[None]
    matrix = np.cos(np.pi * (p + 0.5) * f / size) * np.sqrt(np.where(f, 2, 1) / size)
    return np.stack([matrix.T, matrix]).astype(np.float32)


# -- compiled: loops


def _compiled(function: _Function) -> _Function:
    jitted: _Function = numba.njit(cache=True, nogil=True)(function)
    return jitted


@_compiled
def _views(
    rows: NDArray[np.uint8],
    layout: _Layout,
    scratch: _Scratch,
    u: F32,
    c: F32,
    out: tuple[F32, F32],
    span: tuple[int, int],
) -> None:
    """Views span[0] to span[1] of u8[n, stride] -> mixed f32[n, N, C], share f32[n, N]; u f32[N/8, C', 8], c f32[N]."""
    x, scale, logits, weights, spare, shares, sums = scratch
    mixed, share = out
    count, columns, flat, queries = len(layout.order), mixed.shape[1], rows.reshape(-1), u.reshape(-1)
    for view in range(span[0], span[1]):
        start = view * rows.shape[1]
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
            softmax(logits, c, shares, (count, block * 8))
            _to_rows(layout, logits, scale, weights, spare)
            for first in range(0, u.shape[1], TILE):
                used = count
                while layout.length[used - 1] <= first and used > 1:
                    used -= 1
                for head in range(0, 8, HEADS):
                    mix(x, weights, sums, (first, layout.stride, head, head * u.shape[1] + first, u.shape[1], used))
            for head in range(min(8, columns - block * 8)):
                share[view, block * 8 + head] = shares[head]
                for i in range(mixed.shape[2]):
                    mixed[view, block * 8 + head, i] = sums[head * u.shape[1] + i]


@_compiled
def _factors(flat: NDArray[np.uint8], start: int, layout: _Layout, scale: F32) -> None:
    """What each row is multiplied by, f32[R]."""
    for row in range(len(scale)):
        if layout.kind == _BYTE:
            half(flat, scale, scale, (start + layout.factors + 2 * row, row))
        elif layout.kind == _CODES:
            scale[row] = layout.loud[flat[start + layout.factors + layout.order[row]]]


@_compiled
def _decode(flat: NDArray[np.uint8], start: int, layout: _Layout, x: F32) -> None:
    """Stored rows of the view that begins at byte `start` -> the scratch x, but for their factors."""
    whole, size = layout.dim - layout.dim % 16, layout.dim * (2 - layout.kind)
    for row in range(len(layout.order)):
        at, to = start + row * size, row * layout.stride
        if layout.kind != _CODES:
            for i in range(0, size, 64):
                fetch(flat, x, x, (at + i + _AHEAD,))
        if layout.kind == _HALF:
            for i in range(0, whole, 16):
                halves(flat, x, x, (at + 2 * i, to + i))
            for i in range(whole, layout.dim):
                half(flat, x, x, (at + 2 * i, to + i))
        elif layout.kind == _BYTE:
            for i in range(0, whole, 16):
                bytes16(flat, x, x, (at + i, to + i))
            for i in range(whole, layout.dim):
                byte(flat, x, x, (at + i, to + i))
        else:  # a vector may write past its numbers: those of fewer bits come after, and beyond the last, step is 0
            first8, count8, first4, count4, first2, count2 = layout.planes[row]
            for i in range(0, count8, 16):
                codes8(flat, x, layout.step, (start + first8 + i, to + i))
            to += count8
            for i in range(0, count4, 16):
                codes4(flat, x, layout.step, (start + first4 + (i >> 1), to + i))
            to += count4
            for i in range(0, count2, 16):
                codes2(flat, x, layout.step, (start + first2 + (i >> 2), to + i))


@_compiled
def _dots(x: F32, v: F32, out: F32, place: tuple[int, int, int, int, int, int, int], rows: int) -> None:
    """out[r, :8] = sum_i x[r, i] v[i, :8]; place: offset and row stride of x, v and out, and the number of i."""
    x_at, x_step, v_at, v_step, out_at, out_step, length = place
    row = 0
    while row < rows:
        here = (x_at + row * x_step, x_step, v_at, v_step, out_at + row * out_step, out_step, length)
        if rows - row >= 14:
            dots14(x, v, out, here)
            row += 14
        elif rows - row >= 7:
            dots7(x, v, out, here)
            row += 7
        else:
            dots1(x, v, out, here)
            row += 1


@_compiled
def _to_patches(layout: _Layout, dots: F32, scale: F32, logits: F32) -> None:
    """Dots of rows f32[R, 8] -> logits of patches f32[P, 8]; dots are spent."""
    if layout.kind != _CODES:
        for row in range(len(scale)):
            for lane in range(8):
                logits[row * 8 + lane] = dots[row * 8 + lane] * scale[row]
        return
    for row in range(len(scale)):
        for lane in range(8):
            logits[layout.order[row] * 8 + lane] = dots[row * 8 + lane] * scale[row]
    _turn(layout, 0, logits, dots)


@_compiled
def _to_rows(layout: _Layout, weights: F32, scale: F32, out: F32, spare: F32) -> None:
    """Weights of patches f32[P, 8] -> of rows f32[R, 8]; weights are spent."""
    if layout.kind == _CODES:
        _turn(layout, 1, weights, spare)
    for row in range(len(scale)):
        for lane in range(8):
            out[row * 8 + lane] = weights[layout.order[row] * 8 + lane] * scale[row]


@_compiled
def _turn(layout: _Layout, way: int, values: F32, spare: F32) -> None:
    """The cosine transform of values f32[G, W, 8], in place."""
    high, wide = layout.down.shape[1], layout.along.shape[1]
    down, along = layout.down[way].reshape(-1), layout.along[way].reshape(-1)
    for row in range(high):
        _dots(along, values, spare, (0, wide, row * wide * 8, 8, row * wide * 8, 8, wide), wide)
    for column in range(wide):
        _dots(down, spare, values, (0, high, column * 8, wide * 8, column * 8, wide * 8, high), high)
