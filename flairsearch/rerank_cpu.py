"""The pool's attention over stored rows, without a float copy of them: numba, vectors written out, threads of our own.

A view is decoded into a scratch that fits the second-level cache, R rows (patches, or frequencies with their numbers
of coded channels falling); then for 8 heads at a time: logits = rows . u, softmax, mixed = weights . rows.
The products and the softmax are LLVM vector code, which keeps tiles of sums in registers on any processor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import count, product
from math import isqrt
from threading import Thread
from typing import Any, NamedTuple, TypeVar

import llvmlite.binding
import numba
import numpy as np
from numba.core import cgutils, types
from numba.core.cgutils import ir
from numba.extending import intrinsic
from numpy.typing import NDArray

from flairsearch.codec import Codec, Fp16, Int8, Quantised

F32 = NDArray[np.float32]
_Function = TypeVar("_Function", bound=Callable[..., Any])
_LANES = 8  # heads side by side
_PIECE = 8  # views a thread takes at a time
_HALF, _BYTE, _CODES = 0, 1, 2
_WIDE = bool(llvmlite.binding.get_host_cpu_features().get("avx512f"))
_HEADS, _VECTOR = (8, 16) if _WIDE else (4, 8)  # of one tile of `mix`: as many sums as there are registers for
_TILE = 2 * _VECTOR  # channels of it
_PAD = 32  # rows of the scratch are padded to this many channels


class _Layout(NamedTuple):
    """What the loops need to know of a codec; R rows of the scratch, in the order of falling lengths."""

    kind: int
    dim: int  # numbers of a row
    stride: int  # floats from one row of the scratch to the next
    gains: int  # byte of a stored view where the rows' factors begin
    order: NDArray[np.int64]  # [R] patch or frequency of each row
    length: NDArray[np.int64]  # [R] numbers it has
    planes: NDArray[np.int64]  # [R, 6] first byte and number of its codes of 8, of 4, of 2 bits
    step: F32  # [R * stride] of a coded number, 0 beyond the last
    loud: F32  # [256] factor of a gain
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
    blocks = -(-columns // _LANES)
    tall = np.zeros((blocks, channels, _LANES), np.float32)
    wide = np.zeros((blocks * _LANES, channels), np.float32)
    wide[:columns, : u.shape[2]] = u.reshape(columns, -1)
    tall[:] = wide.reshape(blocks, _LANES, channels).transpose(0, 2, 1)
    biases = np.zeros(blocks * _LANES, np.float32)
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
    sizes = (rows * layout.stride, rows, *[(rows + 4) * _LANES] * 3, _LANES, _LANES * channels)
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
    patches, empty = codec.patches, np.zeros(0, np.float32)
    here, none = np.arange(patches), np.zeros((2, 0, 0), np.float32)
    if not isinstance(codec, Quantised):
        kind, gains = (_HALF, 0) if isinstance(codec, Fp16) else (_BYTE, patches * codec.dim)
        length = np.full(patches, codec.dim)
        stride = _stride(codec.dim)
        return _Layout(kind, codec.dim, stride, gains, here, length, np.zeros((patches, 6), np.int64), *_no(empty, none))
    basis = codec.basis
    counts = basis.counts.astype(np.int64)
    order = np.argsort(-counts.sum(0), kind="stable")
    planes, start = np.zeros((patches, 6), np.int64), 0
    for i, width in enumerate((8, 4, 2)):
        sizes = counts[i] * width // 8
        planes[:, 2 * i], planes[:, 2 * i + 1] = start + np.cumsum(sizes) - sizes, counts[i]
        start += int(sizes.sum())
    channels = basis.step.shape[1]
    stride, length = _stride(channels), counts.sum(0)
    step = np.zeros((patches, stride), np.float32)
    step[:, :channels] = np.where(np.arange(channels) < length[:, None], basis.step, 0)
    loud = np.exp2((np.arange(256, dtype=np.float32) - 128) / 8)
    side = isqrt(patches)
    down, along = (side, side) if side * side == patches else (1, patches)
    return _Layout(
        *(_CODES, channels, stride, start, order, length[order], planes[order], step[order].reshape(-1), loud),
        *(_cosines(size) for size in (down, along)),
    )


def _no(empty: F32, none: F32) -> tuple[F32, F32, F32, F32]:
    return empty, empty, none, none


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
        _factors(flat, start, layout, scale)
        for block in range(u.shape[0]):
            at = block * u.shape[1] * 8
            row = 0
            while row < count:
                tile = 14 if count - row >= 14 else 7 if count - row >= 7 else 1
                if block == 0:
                    _decode(flat, start, layout, x, row, row + tile)
                place = (row * layout.stride, layout.stride, at, 8, row * 8, 8, layout.length[row])
                _dots(x, queries, spare, place, tile)
                row += tile
            _to_patches(layout, spare, scale, logits)
            _softmax(logits, c, shares, (count, block * 8))
            _to_rows(layout, logits, scale, weights, spare)
            for first in range(0, u.shape[1], _TILE):
                used = count
                while layout.length[used - 1] <= first and used > 1:
                    used -= 1
                for head in range(0, 8, _HEADS):
                    _mix(x, weights, sums, (first, layout.stride, head, head * u.shape[1] + first, u.shape[1], used))
            for head in range(min(8, columns - block * 8)):
                share[view, block * 8 + head] = shares[head]
                for i in range(mixed.shape[2]):
                    mixed[view, block * 8 + head, i] = sums[head * u.shape[1] + i]


@_compiled
def _factors(flat: NDArray[np.uint8], start: int, layout: _Layout, scale: F32) -> None:
    """What each row is multiplied by, f32[R]."""
    for row in range(len(scale)):
        if layout.kind == _BYTE:
            _half(flat, scale, (start + layout.gains + 2 * row, row))
        elif layout.kind == _CODES:
            scale[row] = layout.loud[flat[start + layout.gains + layout.order[row]]]


@_compiled
def _decode(flat: NDArray[np.uint8], start: int, layout: _Layout, x: F32, first: int, last: int) -> None:
    """Stored rows first to last of the view that begins at byte `start` -> the scratch x, but for their factors."""
    whole = layout.dim - layout.dim % 16
    for row in range(first, last):
        to = row * layout.stride
        if layout.kind == _HALF:
            at = start + row * layout.dim * 2
            for i in range(0, whole, 16):
                _halves(flat, x, (at + 2 * i, to + i))
            for i in range(whole, layout.dim):
                _half(flat, x, (at + 2 * i, to + i))
        elif layout.kind == _BYTE:
            at = start + row * layout.dim
            for i in range(0, whole, 16):
                _bytes(flat, x, (at + i, to + i))
            for i in range(whole, layout.dim):
                _byte(flat, x, (at + i, to + i))
        else:  # a vector may write past its numbers: those of fewer bits come after, and beyond the last, step is 0
            first8, count8, first4, count4, first2, count2 = layout.planes[row]
            for i in range(0, count8, 16):
                _codes8(flat, x, layout.step, (start + first8 + i, to + i))
            to += count8
            for i in range(0, count4, 16):
                _codes4(flat, x, layout.step, (start + first4 + (i >> 1), to + i))
            to += count4
            for i in range(0, count2, 16):
                _codes2(flat, x, layout.step, (start + first2 + (i >> 2), to + i))


@_compiled
def _dots(x: F32, v: F32, out: F32, place: tuple[int, int, int, int, int, int, int], rows: int) -> None:
    """out[r, :8] = sum_i x[r, i] v[i, :8]; place: offset and row stride of x, v and out, and the number of i."""
    x_at, x_step, v_at, v_step, out_at, out_step, length = place
    row = 0
    while row < rows:
        here = (x_at + row * x_step, x_step, v_at, v_step, out_at + row * out_step, out_step, length)
        if rows - row >= 14:
            _dots14(x, v, out, here)
            row += 14
        elif rows - row >= 7:
            _dots7(x, v, out, here)
            row += 7
        else:
            _dots1(x, v, out, here)
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


# -- compiled: vectors


def _at(context: Any, builder: Any, kind: Any, array: Any, place: Any, vector: Any) -> Any:
    """Pointer to `vector` at element `place` of an array."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [place]), vector.as_pointer())


def _splat(builder: Any, scalar: Any, lanes: int) -> Any:
    vector = ir.VectorType(scalar.type, lanes)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, one, _whole([0] * lanes))


def _whole(numbers: Sequence[int]) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), list(numbers))


def _real(number: float, lanes: int) -> Any:
    return ir.Constant(ir.VectorType(ir.FloatType(), lanes), [number] * lanes)


def _add_product(builder: Any, total: Any, a: Any, b: Any) -> None:
    """total += a b, in one rounding where the processor can."""
    product = builder.fmul(a, b, flags=("contract",))
    builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)


def _sums(builder: Any, number: int, vector: Any) -> list[Any]:
    """Variables that start at zero; LLVM keeps them in registers."""
    return [cgutils.alloca_once_value(builder, ir.Constant(vector, None)) for _ in range(number)]


def _inline(write: Callable[..., None], arrays: int) -> Any:
    """A function of compiled code that takes arrays and a tuple of whole numbers, from one that writes its code."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        numbers = cgutils.unpack_tuple(builder, arguments[arrays])

        def point(which: int, place: Any, vector: Any) -> Any:
            return _at(context, builder, signature.args[which], arguments[which], place, vector)

        write(builder, point, numbers)
        return context.get_dummy_value()

    if arrays == 2:

        def two(typing: Any, a: Any, b: Any, place: Any) -> Any:
            return types.void(a, b, _tuple(place)), generate

        return intrinsic(two)

    def three(typing: Any, a: Any, b: Any, c: Any, place: Any) -> Any:
        return types.void(a, b, c, _tuple(place)), generate

    return intrinsic(three)


def _tuple(place: Any) -> Any:
    return types.UniTuple(types.intp, len(place))


def _dots_of(rows: int) -> Any:
    def write(builder: Any, point: Callable[..., Any], numbers: list[Any]) -> None:
        """A sum for each row, 8 heads wide; a number of x is spread over the heads as it is read."""
        x_at, x_step, v_at, v_step, out_at, out_step, length = numbers
        real, vector = ir.FloatType(), ir.VectorType(ir.FloatType(), _LANES)
        near = [point(0, builder.add(x_at, builder.mul(x_step, x_step.type(r))), real) for r in range(min(rows, 7))]
        far = builder.mul(x_step, x_step.type(7))
        totals = _sums(builder, rows, vector)
        with cgutils.for_range(builder, length) as loop:
            v = builder.load(point(1, builder.add(v_at, builder.mul(v_step, loop.index)), vector), align=4)
            places = [loop.index, builder.add(loop.index, far)]
            for r, total in enumerate(totals):
                scalar = builder.load(builder.gep(near[r % 7], [places[r // 7]]))
                _add_product(builder, total, _splat(builder, scalar, _LANES), v)
        for r, total in enumerate(totals):
            to = point(2, builder.add(out_at, builder.mul(out_step, out_step.type(r))), vector)
            builder.store(builder.load(total), to, align=4)

    return _inline(write, 3)


def _write_mix(builder: Any, point: Callable[..., Any], numbers: list[Any]) -> None:
    """out[h, :TILE] = sum_r a[r, h] x[r, :TILE] for HEADS h."""
    x_at, x_step, head, out_at, out_step, rows = numbers
    real, vector = ir.FloatType(), ir.VectorType(ir.FloatType(), _VECTOR)
    totals = _sums(builder, 2 * _HEADS, vector)
    with cgutils.for_range(builder, rows) as loop:
        at = builder.add(x_at, builder.mul(x_step, loop.index))
        parts = [builder.load(point(0, builder.add(at, at.type(i * _VECTOR)), vector), align=4) for i in range(2)]
        weights = builder.add(head, builder.mul(loop.index, head.type(8)))
        for h in range(_HEADS):
            a = _splat(builder, builder.load(point(1, builder.add(weights, head.type(h)), real)), _VECTOR)
            for i in range(2):
                _add_product(builder, totals[2 * h + i], a, parts[i])
    for h, i in product(range(_HEADS), range(2)):
        place = builder.add(builder.add(out_at, builder.mul(out_step, head.type(h))), head.type(i * _VECTOR))
        builder.store(builder.load(totals[2 * h + i]), point(2, place, vector), align=4)


def _exp(builder: Any, x: Any) -> Any:
    """e^x for x <= 0, to 2 units in the last place: 2^whole by the exponent's bits, the rest by Cephes' polynomial."""
    lanes = x.type.count
    bits = ir.VectorType(ir.IntType(32), lanes)
    x = builder.fmul(x, _real(1.4426950408889634, lanes))
    low = _real(-126.0, lanes)
    x = builder.select(builder.fcmp_ordered(">", x, low), x, low)
    shifted = builder.fadd(x, _real(1.5 * 2**23, lanes))
    rest = builder.fsub(x, builder.fsub(shifted, _real(1.5 * 2**23, lanes)))
    value = _real(np.float32(1.535336188319500e-4), lanes)
    for term in (1.339887440266574e-3, 9.618437357674640e-3, 5.550332471162809e-2, 0.2402264791363012, 0.6931472, 1.0):
        value = builder.fmul(value, rest, flags=("contract",))
        value = builder.fadd(value, _real(float(np.float32(term)), lanes), flags=("contract",))
    exponent = builder.shl(builder.bitcast(shifted, bits), _whole([23] * lanes))
    return builder.bitcast(builder.add(builder.bitcast(value, bits), exponent), x.type)


def _write_softmax(builder: Any, point: Callable[..., Any], numbers: list[Any]) -> None:
    """logits [P, 8] -> weights, in place, with a logit of 0 beside them; four patches at a time, P + 3 are there."""
    patches, head = numbers
    vector, lanes = ir.VectorType(ir.FloatType(), 32), 32

    def fold(wide: Any, join: Callable[[Any, Any], Any]) -> Any:
        half = wide.type.count // 2
        both = [builder.shuffle_vector(wide, wide, _whole(range(i * half, i * half + half))) for i in range(2)]
        return fold(join(*both), join) if half > 8 else join(*both)

    def larger(a: Any, b: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", a, b), a, b)

    def spread(narrow: Any) -> Any:
        return builder.shuffle_vector(narrow, narrow, _whole(list(range(8)) * 4))

    end = builder.mul(patches, patches.type(8))
    builder.store(_real(-1e30, 24), point(0, end, ir.VectorType(ir.FloatType(), 24)), align=4)
    bias = spread(builder.load(point(1, head, ir.VectorType(ir.FloatType(), 8)), align=4))
    top, total = _sums(builder, 2, vector)
    with cgutils.for_range_slice(builder, end.type(0), end, end.type(lanes)) as (at, _):
        here = builder.fadd(builder.load(point(0, at, vector), align=4), bias)
        builder.store(larger(here, builder.load(top)), top)
    highest = fold(builder.load(top), larger)
    spare = builder.fsub(spread(highest), bias)
    with cgutils.for_range_slice(builder, end.type(0), end, end.type(lanes)) as (at, _):
        value = _exp(builder, builder.fsub(builder.load(point(0, at, vector), align=4), spare))
        builder.store(value, point(0, at, vector), align=4)
        builder.store(builder.fadd(builder.load(total), value), total)
    patches_part = fold(builder.load(total), builder.fadd)
    whole = builder.fadd(patches_part, _exp(builder, builder.fsub(_real(0.0, 8), highest)))
    factor = builder.fdiv(_real(1.0, 8), whole)
    builder.store(builder.fmul(patches_part, factor), point(2, end.type(0), highest.type), align=4)
    with cgutils.for_range_slice(builder, end.type(0), end, end.type(lanes)) as (at, _):
        value = builder.fmul(builder.load(point(0, at, vector), align=4), spread(factor))
        builder.store(value, point(0, at, vector), align=4)


def _widen_of(number: Any, lanes: int) -> Any:
    def write(builder: Any, point: Callable[..., Any], numbers: list[Any]) -> None:
        """Stored numbers from a byte on -> floats."""
        source, target = ir.VectorType(number, lanes), ir.VectorType(ir.FloatType(), lanes)
        value = builder.load(point(0, numbers[0], source), align=1)
        whole = isinstance(number, ir.IntType)
        value = builder.sitofp(value, target) if whole else builder.fpext(value, target)
        builder.store(value, point(1, numbers[1], target), align=4)

    return _inline(write, 2)


def _codes_of(width: int) -> Any:
    def write(builder: Any, point: Callable[..., Any], numbers: list[Any]) -> None:
        """16 codes of `width` bits, from a byte on, lowest bits first -> the middle of their intervals, in steps."""
        words, target = width // 2, ir.VectorType(ir.FloatType(), 16)
        each = 16 // words
        packed = builder.load(point(0, numbers[0], ir.VectorType(ir.IntType(32), words)), align=1)
        packed = builder.shuffle_vector(packed, packed, _whole([i // each for i in range(16)]))
        codes = builder.lshr(packed, _whole([i % each * width for i in range(16)]))
        codes = builder.and_(codes, _whole([(1 << width) - 1] * 16))
        value = builder.fsub(builder.sitofp(codes, target), _real(2.0 ** (width - 1) - 0.5, 16))
        step = builder.load(point(2, numbers[1], target), align=4)
        builder.store(builder.fmul(value, step), point(1, numbers[1], target), align=4)

    return _inline(write, 3)


_dots14, _dots7, _dots1 = _dots_of(14), _dots_of(7), _dots_of(1)
_mix = _inline(_write_mix, 3)
_softmax = _inline(_write_softmax, 3)
_halves, _half = _widen_of(ir.HalfType(), 16), _widen_of(ir.HalfType(), 1)
_bytes, _byte = _widen_of(ir.IntType(8), 16), _widen_of(ir.IntType(8), 1)
_codes8, _codes4, _codes2 = _codes_of(8), _codes_of(4), _codes_of(2)
