"""The Triton kernels of rerank_triton; experimental: not run on a GPU yet.

fp16, int8: one program a view and block of columns (a column: a query's head); softmax goes along with the patches.
q4 q2 q1:   logits of all frequencies, softmax over patches, weighted sum over frequencies. A table says where each
            number lies; a program has several views, so that it reads that table once for all of them.
Tensor cores see float16: codes and tokens are exact in it, u comes as two halves that add up to 22 bits, weights are
scaled so that the largest is near 1. Sums are float32.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def"

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


def _tuned(key: str, names: str, *variants: tuple[int, ...]) -> Any:
    """Variants: the named tile sizes, warps, stages; measured once for each key, but in the interpreter."""
    kept = variants[:1] if triton.knobs.runtime.interpret else variants
    tiles = [dict(zip(names.split(), v, strict=False)) for v in kept]
    configs = [triton.Config(t, num_warps=v[-2], num_stages=v[-1]) for t, v in zip(tiles, kept, strict=True)]
    return triton.autotune(configs, key.split(), cache_results=True)


# -- fp16, int8


@_tuned("P D BQ INT8", "BP", (32, 4, 3), (32, 8, 3), (64, 8, 2), (16, 4, 4), (16, 4, 1))  # last: little shared memory
@triton.jit
def attend_patches(
    rows, high, low, factor, c, mixed, share, P, D, QH, QP, stride,
    ALIGN: tl.constexpr, INT8: tl.constexpr, BD: tl.constexpr, BQ: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """rows f16 or i8[n, stride], high, low f16[BD, QP], factor f32[QP], c f32[QH] -> mixed f32[n, QH, D], share."""
    blocks = QP // BQ
    view = (tl.program_id(0) // blocks).to(tl.int64)
    q = (tl.program_id(0) % blocks) * BQ + tl.arange(0, BQ)
    d = tl.arange(0, BD)
    row = rows + tl.multiple_of(view * stride, ALIGN)
    u_high = tl.load(high + d[:, None] * QP + q[None, :])
    u_low = tl.load(low + d[:, None] * QP + q[None, :])
    u_factor, constant = tl.load(factor + q), tl.load(c + q, mask=q < QH, other=0)
    top = tl.full([BQ], float("-inf"), tl.float32)
    total = tl.zeros([BQ], tl.float32)
    acc = tl.zeros([BD, BQ], tl.float32)
    for start in range(0, P, BP):
        p = start + tl.arange(0, BP)
        x = tl.load(row + p[:, None] * D + d[None, :], mask=(p < P)[:, None] & (d < D)[None, :], other=0)
        x = x.to(tl.float16)
        logits = tl.dot(x, u_low, tl.dot(x, u_high))
        if INT8:
            place = row + P * D + 2 * p  # at any address, so byte by byte
            lower = tl.load(place, mask=p < P, other=0).to(tl.int32) & 255
            upper = tl.load(place + 1, mask=p < P, other=0).to(tl.int32) & 255
            step = (lower | (upper << 8)).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)
            logits *= step[:, None]
        logits = logits * u_factor[None, :] + constant[None, :]
        logits = tl.where((p < P)[:, None], logits, float("-inf"))
        higher = tl.maximum(top, tl.max(logits, 0))
        fade = tl.exp(top - higher)
        weights = tl.exp(logits - higher[None, :])
        total = total * fade + tl.sum(weights, 0)
        if INT8:
            weights *= step[:, None]
        acc = tl.dot(tl.trans(x), weights.to(tl.float16), acc * fade[None, :])
        top = higher
    # The zero key joins last: with it from the start, weights far below its own would vanish in float16.
    highest = tl.maximum(top, 0.0)
    fade = tl.exp(top - highest)
    fade /= total * fade + tl.exp(-highest)
    place = view * QH + q
    tl.store(share + place, total * fade, mask=q < QH)
    there = (d < D)[:, None] & (q < QH)[None, :]
    tl.store(mixed + place[None, :] * D + d[:, None], acc * fade[None, :], mask=there)


# -- q4, q2, q1


@triton.jit
def _numbers(rows, start, where, step, place):
    """rows u8, start i64[V] of each view, where i32 and step f32 at place i32[F, C] -> f16[V, F, C]."""
    code = tl.load(where + place)
    size = tl.load(step + place)
    bits = 1 << (code & 3)
    cut = (1 << bits) - 1
    shift = ((code >> 2) & 3) * 2
    least = (0.5 - (1 << (bits - 1)).to(tl.float32)) * size
    byte = tl.load(rows + (start[:, None, None] + (code >> 4)[None, :, :])).to(tl.int32)
    number = ((byte >> shift[None, :, :]) & cut[None, :, :]).to(tl.float32)
    return (number * size[None, :, :] + least[None, :, :]).to(tl.float16)


@_tuned("FP CP BQ", "BV BF BC", (8, 16, 64, 4, 2), (8, 16, 64, 8, 2), (8, 16, 32, 4, 2), (16, 16, 32, 8, 2))
@triton.jit
def project(
    rows, where, step, used, high, low, factor, out, n, stride, FP, CP, QH, QP,
    BQ: tl.constexpr, BV: tl.constexpr, BF: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """out f32[n, QH, FP] = y . u, y in units of the tables'; used i32[FP]: channels with bits, falling."""
    blocks, tiles = QP // BQ, FP // BF
    pid = tl.program_id(0)
    q = (pid % blocks) * BQ + tl.arange(0, BQ)
    first = (pid // blocks % tiles) * BF
    f = first + tl.arange(0, BF)
    v = (pid // blocks // tiles * BV + tl.arange(0, BV)).to(tl.int64)
    start = tl.minimum(v, n - 1) * stride
    acc = tl.zeros([BV * BF, BQ], tl.float32)
    for channel in range(0, tl.load(used + first), BC):
        c = channel + tl.arange(0, BC)
        y = tl.reshape(_numbers(rows, start, where, step, f[:, None] * CP + c[None, :]), (BV * BF, BC))
        u_high = tl.load(high + c[:, None] * QP + q[None, :])
        u_low = tl.load(low + c[:, None] * QP + q[None, :])
        acc = tl.dot(y, u_low, tl.dot(y, u_high, acc))
    logits = tl.reshape(acc * tl.load(factor + q)[None, :], (BV, BF, BQ))
    place = (v[:, None, None] * QH + q[None, None, :]) * FP + f[None, :, None]
    tl.store(out + place, logits, mask=(v < n)[:, None, None] & (q < QH)[None, None, :])


@_tuned("FP CP BQ", "BV BF BC", (8, 16, 64, 8, 2), (8, 16, 64, 4, 2), (4, 16, 64, 4, 2), (4, 16, 32, 4, 1))
@triton.jit
def mix(
    rows, where, step, reach, weights, size, scale, mixed, n, stride, FP, CP, C, QH, QP,
    BQ: tl.constexpr, BV: tl.constexpr, BF: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """weights f16[n, QH, FP], size f32[n, QH] -> mixed f32[n, QH, C]; reach i32[CP]: frequencies with bits, falling."""
    blocks, tiles = QP // BQ, CP // BC
    pid = tl.program_id(0)
    q = (pid % blocks) * BQ + tl.arange(0, BQ)
    first = (pid // blocks % tiles) * BC
    c = first + tl.arange(0, BC)
    v = (pid // blocks // tiles * BV + tl.arange(0, BV)).to(tl.int64)
    start = tl.minimum(v, n - 1) * stride
    column = v[:, None] * QH + q[None, :]
    there = (v < n)[:, None] & (q < QH)[None, :]
    acc = tl.zeros([BV, BQ, BC], tl.float32)
    for frequency in range(0, tl.load(reach + first), BF):
        f = frequency + tl.arange(0, BF)
        y = _numbers(rows, start, where, step, f[:, None] * CP + c[None, :])
        a = tl.load(weights + column[:, :, None] * FP + f[None, None, :], mask=there[:, :, None], other=0)
        acc = tl.dot(a, y, acc)
    acc *= tl.load(size + column, mask=there, other=0)[:, :, None] * tl.load(scale + c)[None, None, :]
    tl.store(mixed + column[:, :, None] * C + c[None, None, :], acc, mask=there[:, :, None] & (c < C)[None, None, :])
