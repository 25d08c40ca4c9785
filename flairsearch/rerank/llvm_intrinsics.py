"""LLVM vector code for the compiled loops: products with a tile of sums in registers, softmax, decoding.

numba's own vectoriser does not keep such a tile in registers. LLVM splits wide vectors to fit any processor.
numba caches compiled loops until the file with the loops changes: touch rerank/numba_kernels.py after changes here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from numba import types
from numba.core import cgutils
from numba.core.codegen import ll
from numba.core.codegen import llvmir as ir
from numba.extending import intrinsic

LANES = 8  # This number of heads is processed side by side.
_WIDE = bool(ll.get_host_cpu_features().get("avx512f"))
HEADS = 8 if _WIDE else 4  # A tile of `mix` has this number of heads; its sums fill the registers.
_VECTOR = 16 if _WIDE else 8  # A register holds this number of float32 values.
TILE = 2 * _VECTOR  # A tile of `mix` has this number of channels.


def _splat(builder: Any, scalar: Any, lanes: int) -> Any:
    """Return a vector with the scalar in all lanes."""
    vector = ir.VectorType(scalar.type, lanes)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, first, _int_vector([0] * lanes))


def _int_vector(numbers: Sequence[int]) -> Any:
    """Return a constant vector of int32 values."""
    return ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), list(numbers))


def _float_vector(number: float, lanes: int) -> Any:
    """Return a constant vector with one float32 value in all lanes."""
    return ir.Constant(ir.VectorType(ir.FloatType(), lanes), [number] * lanes)


def _multiply_add(builder: Any, total: Any, a: Any, b: Any) -> None:
    """Emit total += a b, as a fused multiply-add if the processor has one."""
    product = builder.fmul(a, b, flags=("contract",))
    builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)


def _zero_sums(builder: Any, number: int, vector: Any) -> list[Any]:
    """Return variables that start at zero; LLVM keeps them in registers."""
    return [cgutils.alloca_once_value(builder, ir.Constant(vector, None)) for _ in range(number)]


def _inline(write: Callable[..., None]) -> Any:
    """Make an intrinsic over three arrays and a tuple of integers from a function that emits its code."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def point(which: int, index: Any, vector: Any) -> Any:
            """Return a pointer to a `vector` that starts at element `index` of array `which`."""
            data = context.make_array(signature.args[which])(context, builder, arguments[which]).data
            return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())

        write(builder, point, cgutils.unpack_tuple(builder, arguments[3]))
        return context.get_dummy_value()

    def typed(typing: Any, a: Any, b: Any, c: Any, numbers: Any) -> Any:
        return types.void(a, b, c, types.UniTuple(types.intp, len(numbers))), generate

    return intrinsic(typed)


def _dots_of(rows: int) -> Any:
    """Make the intrinsic that multiplies a tile of rows with 8 heads."""

    def write(builder: Any, point: Callable[..., Any], numbers: list[Any]) -> None:
        """Emit out[r, :8] = sum_i x[r, i] v[i, :8]: one vector of sums per row; x[r, i] is read into all 8 lanes."""
        x_at, x_step, v_at, v_step, out_at, out_step, length = numbers
        real, vector = ir.FloatType(), ir.VectorType(ir.FloatType(), LANES)
        near = [point(0, builder.add(x_at, builder.mul(x_step, x_step.type(r))), real) for r in range(min(rows, 7))]
        far = builder.mul(x_step, x_step.type(7))
        totals = _zero_sums(builder, rows, vector)
        with cgutils.for_range(builder, length) as loop:
            v = builder.load(point(1, builder.add(v_at, builder.mul(v_step, loop.index)), vector), align=4)
            columns = [loop.index, builder.add(loop.index, far)]
            for r, total in enumerate(totals):
                scalar = builder.load(builder.gep(near[r % 7], [columns[r // 7]]))
                _multiply_add(builder, total, _splat(builder, scalar, LANES), v)
        for r, total in enumerate(totals):
            to = point(2, builder.add(out_at, builder.mul(out_step, out_step.type(r))), vector)
            builder.store(builder.load(total), to, align=4)

    return _inline(write)


def _write_mix(builder: Any, point: Callable[..., Any], numbers: list[Any]) -> None:
    """Emit out[h, :TILE] = sum_r a[r, h] x[r, :TILE] for HEADS heads h."""
    x_at, x_step, head, out_at, out_step, rows = numbers
    real, vector = ir.FloatType(), ir.VectorType(ir.FloatType(), _VECTOR)
    totals = _zero_sums(builder, 2 * HEADS, vector)
    with cgutils.for_range(builder, rows) as loop:
        at = builder.add(x_at, builder.mul(x_step, loop.index))
        parts = [builder.load(point(0, builder.add(at, at.type(i * _VECTOR)), vector), align=4) for i in range(2)]
        weights = builder.add(head, builder.mul(loop.index, head.type(8)))
        for h in range(HEADS):
            a = _splat(builder, builder.load(point(1, builder.add(weights, head.type(h)), real)), _VECTOR)
            for i in range(2):
                _multiply_add(builder, totals[2 * h + i], a, parts[i])
    for h, i in product(range(HEADS), range(2)):
        target = builder.add(builder.add(out_at, builder.mul(out_step, head.type(h))), head.type(i * _VECTOR))
        builder.store(builder.load(totals[2 * h + i]), point(2, target, vector), align=4)


def _exp(builder: Any, x: Any) -> Any:
    """Emit e^x for x <= 0, accurate to 2 ulp: 2^n by the exponent's bits, the fraction by Cephes' polynomial exp2f."""
    lanes = x.type.count
    bits = ir.VectorType(ir.IntType(32), lanes)
    x = builder.fmul(x, _float_vector(1.4426950408889634, lanes))
    low = _float_vector(-126.0, lanes)
    x = builder.select(builder.fcmp_ordered(">", x, low), x, low)
    shifted = builder.fadd(x, _float_vector(1.5 * 2**23, lanes))
    fraction = builder.fsub(x, builder.fsub(shifted, _float_vector(1.5 * 2**23, lanes)))
    value = _float_vector(1.535336188319500e-4, lanes)
    for term in (1.339887440266574e-3, 9.618437357674640e-3, 5.550332471162809e-2, 0.2402264791363012, 0.6931472, 1.0):
        value = builder.fmul(value, fraction, flags=("contract",))
        value = builder.fadd(value, _float_vector(term, lanes), flags=("contract",))
    exponent = builder.shl(builder.bitcast(shifted, bits), _int_vector([23] * lanes))
    return builder.bitcast(builder.add(builder.bitcast(value, bits), exponent), x.type)


def _write_softmax(builder: Any, point: Callable[..., Any], numbers: list[Any]) -> None:
    """Emit the softmax of logits [P, 8] and a zero key with logit 0, in place.

    It reads four patches at a time, so the array must have room for P + 3 patches.
    """
    patches, head = numbers
    vector, lanes = ir.VectorType(ir.FloatType(), 32), 32

    def reduce_lanes(wide: Any, join: Callable[[Any, Any], Any]) -> Any:
        """Combine the vectors of the four patches into one of 8 lanes."""
        half = wide.type.count // 2
        both = [builder.shuffle_vector(wide, wide, _int_vector(range(i * half, i * half + half))) for i in range(2)]
        return reduce_lanes(join(*both), join) if half > 8 else join(*both)

    def larger(a: Any, b: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", a, b), a, b)

    def spread(narrow: Any) -> Any:
        return builder.shuffle_vector(narrow, narrow, _int_vector(list(range(8)) * 4))

    end = builder.mul(patches, patches.type(8))
    builder.store(_float_vector(-1e30, 24), point(0, end, ir.VectorType(ir.FloatType(), 24)), align=4)
    bias = spread(builder.load(point(1, head, ir.VectorType(ir.FloatType(), 8)), align=4))
    top, total = _zero_sums(builder, 2, vector)
    with cgutils.for_range_slice(builder, end.type(0), end, end.type(lanes)) as (at, _):
        logits = builder.fadd(builder.load(point(0, at, vector), align=4), bias)
        builder.store(larger(logits, builder.load(top)), top)
    highest = reduce_lanes(builder.load(top), larger)
    offset = builder.fsub(spread(highest), bias)
    with cgutils.for_range_slice(builder, end.type(0), end, end.type(lanes)) as (at, _):
        value = _exp(builder, builder.fsub(builder.load(point(0, at, vector), align=4), offset))
        builder.store(value, point(0, at, vector), align=4)
        builder.store(builder.fadd(builder.load(total), value), total)
    attention = reduce_lanes(builder.load(total), builder.fadd)
    denominator = builder.fadd(attention, _exp(builder, builder.fsub(_float_vector(0.0, 8), highest)))
    factor = builder.fdiv(_float_vector(1.0, 8), denominator)
    builder.store(builder.fmul(attention, factor), point(2, end.type(0), highest.type), align=4)
    with cgutils.for_range_slice(builder, end.type(0), end, end.type(lanes)) as (at, _):
        value = builder.fmul(builder.load(point(0, at, vector), align=4), spread(factor))
        builder.store(value, point(0, at, vector), align=4)


def _load_of(number: Any, lanes: int) -> Any:
    """Make the intrinsic that converts stored numbers of an LLVM type to float32."""

    def write(builder: Any, point: Callable[..., Any], numbers: list[Any]) -> None:
        """Emit the conversion of `lanes` numbers that start at a given byte."""
        source, target = ir.VectorType(number, lanes), ir.VectorType(ir.FloatType(), lanes)
        value = builder.load(point(0, numbers[0], source), align=1)
        is_integer = isinstance(number, ir.IntType)
        value = builder.sitofp(value, target) if is_integer else builder.fpext(value, target)
        builder.store(value, point(1, numbers[1], target), align=4)

    return _inline(write)


def _write_prefetch(builder: Any, point: Callable[..., Any], numbers: list[Any]) -> None:
    """Emit a prefetch of memory that will be read soon; an address past the end does no harm."""
    address, number = point(0, numbers[0], ir.IntType(8)), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
    call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(call, [address, number(0), number(2), number(1)])


def _decode_of(bits: int) -> Any:
    """Make the intrinsic that decodes 16 codes of `bits` bits."""

    def write(builder: Any, point: Callable[..., Any], numbers: list[Any]) -> None:
        """Emit (code - mean of all codes) * step for 16 codes; they begin at a given byte, lowest bits first."""
        words, target = bits // 2, ir.VectorType(ir.FloatType(), 16)
        per_word = 16 // words
        packed = builder.load(point(0, numbers[0], ir.VectorType(ir.IntType(32), words)), align=1)
        packed = builder.shuffle_vector(packed, packed, _int_vector([i // per_word for i in range(16)]))
        codes = builder.lshr(packed, _int_vector([i % per_word * bits for i in range(16)]))
        codes = builder.and_(codes, _int_vector([(1 << bits) - 1] * 16))
        value = builder.fsub(builder.sitofp(codes, target), _float_vector(2.0 ** (bits - 1) - 0.5, 16))
        step = builder.load(point(2, numbers[1], target), align=4)
        builder.store(builder.fmul(value, step), point(1, numbers[1], target), align=4)

    return _inline(write)


dots14, dots7, dots1 = _dots_of(14), _dots_of(7), _dots_of(1)
mix = _inline(_write_mix)
softmax = _inline(_write_softmax)
load_fp16x16, load_fp16 = _load_of(ir.HalfType(), 16), _load_of(ir.HalfType(), 1)
load_int8x16, load_int8 = _load_of(ir.IntType(8), 16), _load_of(ir.IntType(8), 1)
decode8, decode4, decode2 = _decode_of(8), _decode_of(4), _decode_of(2)
prefetch = _inline(_write_prefetch)
