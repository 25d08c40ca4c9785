"""The Triton kernels of triton_backend; experimental: not run on a GPU yet.

fp16, int8: One program handles a view and a block of columns (a column is a query's head), with an online softmax over
            the patches.
q4 q2 q1:   Three passes: logits of all frequencies, softmax over patches, weighted sum over frequencies. A table says
            where each code lies; a program handles several views, so that it reads the table once for all of them.
Tensor cores multiply float16: codes and tokens are exact in it, u is split into two float16 parts with 22 bits
together, and weights are scaled so that the largest is near 1. Sums are float32.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def"

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


def _tuned(key: str, names: str, *variants: tuple[int, ...]) -> Any:
    """Autotune over variants (the named tile sizes, warps, stages) once per key; the interpreter takes the first."""
    kept = variants[:1] if triton.knobs.runtime.interpret else variants
    tiles = [dict(zip(names.split(), v, strict=False)) for v in kept]
    configs = [triton.Config(t, num_warps=v[-2], num_stages=v[-1]) for t, v in zip(tiles, kept, strict=True)]
    return triton.autotune(configs, key.split(), cache_results=True)


# -- fp16, int8


@_tuned(
    "P D BQ INT8", "BP", (32, 4, 3), (32, 8, 3), (64, 8, 2), (16, 4, 4), (16, 4, 1)
)  # The last variant needs little shared memory.
@triton.jit
def attend_patches(
    rows, high, low, factor, c, mixed, share, P, D, QH, QP, stride,
    ALIGN: tl.constexpr, INT8: tl.constexpr, BD: tl.constexpr, BQ: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Attend to rows f16 or i8[n, stride]; store mixed f32[n, QH, D] and share f32[n, QH].

    The queries: u = (high + low) * factor, high and low f16[BD, QP], factor f32[QP]; c f32[QH].
    """
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
            factors = row + P * D + 2 * p  # The address may be odd, so the float16 is read byte by byte.
            lower = tl.load(factors, mask=p < P, other=0).to(tl.int32) & 255
            upper = tl.load(factors + 1, mask=p < P, other=0).to(tl.int32) & 255
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
    # The zero key joins last: with it from the start, weights far below the zero key's would vanish in float16.
    highest = tl.maximum(top, 0.0)
    fade = tl.exp(top - highest)
    fade /= total * fade + tl.exp(-highest)
    column = view * QH + q
    tl.store(share + column, total * fade, mask=q < QH)
    valid = (d < D)[:, None] & (q < QH)[None, :]
    tl.store(mixed + column[None, :] * D + d[:, None], acc * fade[None, :], mask=valid)


# -- q4, q2, q1


@triton.jit
def _decode(rows, start, addresses, steps, entry):
    """Decode f16[V, F, C] from rows u8; start i64[V]: first byte of a view, entry i32[F, C]: index into the tables."""
    address = tl.load(addresses + entry)
    step = tl.load(steps + entry)
    bits = 1 << (address & 3)
    mask = (1 << bits) - 1
    shift = ((address >> 2) & 3) * 2
    lowest = (0.5 - (1 << (bits - 1)).to(tl.float32)) * step
    byte = tl.load(rows + (start[:, None, None] + (address >> 4)[None, :, :])).to(tl.int32)
    code = ((byte >> shift[None, :, :]) & mask[None, :, :]).to(tl.float32)
    return (code * step[None, :, :] + lowest[None, :, :]).to(tl.float16)


@_tuned("FP CP BQ", "BV BF BC", (8, 16, 64, 4, 2), (8, 16, 64, 8, 2), (8, 16, 32, 4, 2), (16, 16, 32, 8, 2))
@triton.jit
def project(
    rows, addresses, steps, coded_channels, high, low, factor, out, n, stride, FP, CP, QH, QP,
    BQ: tl.constexpr, BV: tl.constexpr, BF: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Store the logits y . u in out f32[n, QH, FP], y in the tables' units; coded_channels i32[FP] is descending."""
    blocks, tiles = QP // BQ, FP // BF
    pid = tl.program_id(0)
    q = (pid % blocks) * BQ + tl.arange(0, BQ)
    first = (pid // blocks % tiles) * BF
    f = first + tl.arange(0, BF)
    v = (pid // blocks // tiles * BV + tl.arange(0, BV)).to(tl.int64)
    start = tl.minimum(v, n - 1) * stride
    acc = tl.zeros([BV * BF, BQ], tl.float32)
    for channel in range(0, tl.load(coded_channels + first), BC):
        c = channel + tl.arange(0, BC)
        y = tl.reshape(_decode(rows, start, addresses, steps, f[:, None] * CP + c[None, :]), (BV * BF, BC))
        u_high = tl.load(high + c[:, None] * QP + q[None, :])
        u_low = tl.load(low + c[:, None] * QP + q[None, :])
        acc = tl.dot(y, u_low, tl.dot(y, u_high, acc))
    logits = tl.reshape(acc * tl.load(factor + q)[None, :], (BV, BF, BQ))
    target = (v[:, None, None] * QH + q[None, None, :]) * FP + f[None, :, None]
    tl.store(out + target, logits, mask=(v < n)[:, None, None] & (q < QH)[None, None, :])


@_tuned("FP CP BQ", "BV BF BC", (8, 16, 64, 8, 2), (8, 16, 64, 4, 2), (4, 16, 64, 4, 2), (4, 16, 32, 4, 1))
@triton.jit
def mix(
    rows, addresses, steps, coded_frequencies, weights, size, scale, mixed, n, stride, FP, CP, C, QH, QP,
    BQ: tl.constexpr, BV: tl.constexpr, BF: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Store mixed f32[n, QH, C] = sum over frequencies of y times weights f16[n, QH, FP] times size f32[n, QH]."""
    blocks, tiles = QP // BQ, CP // BC
    pid = tl.program_id(0)
    q = (pid % blocks) * BQ + tl.arange(0, BQ)
    first = (pid // blocks % tiles) * BC
    c = first + tl.arange(0, BC)
    v = (pid // blocks // tiles * BV + tl.arange(0, BV)).to(tl.int64)
    start = tl.minimum(v, n - 1) * stride
    column = v[:, None] * QH + q[None, :]
    valid = (v < n)[:, None] & (q < QH)[None, :]
    acc = tl.zeros([BV, BQ, BC], tl.float32)
    for frequency in range(0, tl.load(coded_frequencies + first), BF):
        f = frequency + tl.arange(0, BF)
        y = _decode(rows, start, addresses, steps, f[:, None] * CP + c[None, :])
        a = tl.load(weights + column[:, :, None] * FP + f[None, None, :], mask=valid[:, :, None], other=0)
        acc = tl.dot(a, y, acc)
    acc *= tl.load(size + column, mask=valid, other=0)[:, :, None] * tl.load(scale + c)[None, None, :]
    tl.store(mixed + column[:, :, None] * C + c[None, None, :], acc, mask=valid[:, :, None] & (c < C)[None, None, :])
