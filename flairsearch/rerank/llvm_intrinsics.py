"""What compiled loops need of LLVM's vectors: products that keep a tile of sums in registers, softmax, unpacking.

numba's own vectoriser keeps no such tile. Vectors are as wide as is useful; LLVM cuts them to any processor.
numba keeps what it compiled until the file of the loops changes: touch rerank/numba_kernels.py when this one does.
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

LANES = 8  # heads side by side
_WIDE = bool(ll.get_host_cpu_features().get("avx512f"))
HEADS, _VECTOR = (8, 16) if _WIDE else (4, 8)  # of one tile of `mix`: as many sums as there are registers for
TILE = 2 * _VECTOR  # channels of it


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


def _inline(write: Callable[..., None]) -> Any:
    """A function of compiled code over three arrays and a tuple of whole numbers, from one that writes its code."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def point(which: int, place: Any, vector: Any) -> Any:
            """Pointer to `vector` at element `place` of an array."""
            data = context.make_array(signature.args[which])(context, builder, arguments[which]).data
            return builder.bitcast(builder.gep(data, [place]), vector.as_pointer())

        write(builder, point, cgutils.unpack_tuple(builder, arguments[3]))
        return context.get_dummy_value()

    def typed(typing: Any, a: Any, b: Any, c: Any, place: Any) -> Any:
        return types.void(a, b, c, types.UniTuple(types.intp, len(place))), generate

    return intrinsic(typed)


def _dots_of(rows: int) -> Any:
    def write(builder: Any, point: Callable[..., Any], numbers: list[Any]) -> None:
        """A sum for each row, 8 heads wide; a number of x is spread over the heads as it is read."""
        x_at, x_step, v_at, v_step, out_at, out_step, length = numbers
        real, vector = ir.FloatType(), ir.VectorType(ir.FloatType(), LANES)
        near = [point(0, builder.add(x_at, builder.mul(x_step, x_step.type(r))), real) for r in range(min(rows, 7))]
        far = builder.mul(x_step, x_step.type(7))
        totals = _sums(builder, rows, vector)
        with cgutils.for_range(builder, length) as loop:
            v = builder.load(point(1, builder.add(v_at, builder.mul(v_step, loop.index)), vector), align=4)
            places = [loop.index, builder.add(loop.index, far)]
            for r, total in enumerate(totals):
                scalar = builder.load(builder.gep(near[r % 7], [places[r // 7]]))
                _add_product(builder, total, _splat(builder, scalar, LANES), v)
        for r, total in enumerate(totals):
            to = point(2, builder.add(out_at, builder.mul(out_step, out_step.type(r))), vector)
            builder.store(builder.load(total), to, align=4)

    return _inline(write)


def _write_mix(builder: Any, point: Callable[..., Any], numbers: list[Any]) -> None:
    """out[h, :TILE] = sum_r a[r, h] x[r, :TILE] for HEADS h."""
    x_at, x_step, head, out_at, out_step, rows = numbers
    real, vector = ir.FloatType(), ir.VectorType(ir.FloatType(), _VECTOR)
    totals = _sums(builder, 2 * HEADS, vector)
    with cgutils.for_range(builder, rows) as loop:
        at = builder.add(x_at, builder.mul(x_step, loop.index))
        parts = [builder.load(point(0, builder.add(at, at.type(i * _VECTOR)), vector), align=4) for i in range(2)]
        weights = builder.add(head, builder.mul(loop.index, head.type(8)))
        for h in range(HEADS):
            a = _splat(builder, builder.load(point(1, builder.add(weights, head.type(h)), real)), _VECTOR)
            for i in range(2):
                _add_product(builder, totals[2 * h + i], a, parts[i])
    for h, i in product(range(HEADS), range(2)):
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
    value = _real(1.535336188319500e-4, lanes)
    for term in (1.339887440266574e-3, 9.618437357674640e-3, 5.550332471162809e-2, 0.2402264791363012, 0.6931472, 1.0):
        value = builder.fmul(value, rest, flags=("contract",))
        value = builder.fadd(value, _real(term, lanes), flags=("contract",))
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

    return _inline(write)


def _write_fetch(builder: Any, point: Callable[..., Any], numbers: list[Any]) -> None:
    """Ask for memory that will be read soon; past the end it asks in vain."""
    here, number = point(0, numbers[0], ir.IntType(8)), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [here.type, number, number, number])
    call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(call, [here, number(0), number(2), number(1)])


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

    return _inline(write)


dots14, dots7, dots1 = _dots_of(14), _dots_of(7), _dots_of(1)
mix = _inline(_write_mix)
softmax = _inline(_write_softmax)
halves, half = _widen_of(ir.HalfType(), 16), _widen_of(ir.HalfType(), 1)
bytes16, byte = _widen_of(ir.IntType(8), 16), _widen_of(ir.IntType(8), 1)
codes8, codes4, codes2 = _codes_of(8), _codes_of(4), _codes_of(2)
fetch = _inline(_write_fetch)
