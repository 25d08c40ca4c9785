"""The pool's attention fused over stored rows on a GPU; experimental: not run on a GPU yet.

    mixed, share = attend(codec, rows, u, c)

The kernels are in rerank/triton_kernels.py; here codecs and queries are laid out for them, and rows go to the device.
Importing this raises ImportError where there is no triton; TRITON_INTERPRET=1 runs it without a GPU.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def"

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from math import gcd
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import triton
from numpy.typing import NDArray

from flairsearch.codecs.codec import Codec, Fp16, Int8, Quantised
from flairsearch.rerank.triton_kernels import attend_patches, mix, project

if TYPE_CHECKING:
    from torch import Tensor

_SCRATCH = 1 << 24  # float32 numbers between the passes over a quantised codec: bounds the views looked at together
_FREQUENCIES, _CHANNELS = 32, 64  # the tables of a quantised codec are padded to multiples of these
_CODE_OF_WIDTH = {2: 1, 4: 2, 8: 3}


class _Tables(NamedTuple):
    """Where the numbers of a quantised row lie. Frequencies in an order of their own, those with most bits first."""

    where: Tensor  # i32[FP, CP]: 16 times the byte, 2 times the lowest bit, 1 to 3 for 2, 4, 8 bits, 0 for none
    step: Tensor  # f32[FP, CP] in units of scale: at most 1, so that float16 holds every number
    scale: Tensor  # f32[CP]
    used: Tensor  # i32[FP] channels of a frequency that have bits
    reach: Tensor  # i32[CP] frequencies of a channel that have
    gains: int  # their first byte
    order: Tensor  # i64[F]
    cosines: Tensor  # f32[FP, P]


@lru_cache(maxsize=4)
def _tables(codec: Quantised, device: str) -> _Tables:
    import torch

    basis = codec.basis
    frequencies, channels = basis.step.shape
    padded = _padded(frequencies, _FREQUENCIES), _padded(channels, _CHANNELS)
    where, start = np.zeros(frequencies * channels, np.int32), 0
    for width, places in basis.planes:
        number = np.arange(len(places))
        bit = number % (8 // width) * width
        where[places] = (start + number * width // 8) << 4 | bit << 1 | _CODE_OF_WIDTH[width]
        start += len(places) * width // 8
    where = where.reshape(frequencies, channels)
    step = np.where(where & 3, basis.step, 0)
    scale = np.exp2(np.ceil(np.log2(np.maximum(step.max(0), 1e-30)))).astype(np.float32)
    used = basis.counts.astype(np.int64).sum(0)
    order = np.argsort(-used, kind="stable")
    rest = padded[0] - frequencies, padded[1] - channels
    arrays = {
        "where": np.pad(where[order], ((0, rest[0]), (0, rest[1]))),
        "step": np.pad((step / scale)[order].astype(np.float32), ((0, rest[0]), (0, rest[1]))),
        "scale": np.pad(scale, (0, rest[1])),
        "used": np.pad(used[order], (0, rest[0])).astype(np.int32),
        "reach": (used[:, None] > np.arange(padded[1])).sum(0).astype(np.int32),
        "order": order,
        "cosines": np.pad(basis.cosines[order], ((0, rest[0]), (0, 0))),
    }
    moved = {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in arrays.items()}
    return _Tables(gains=start, **moved)


def attend(codec: Codec, rows: Tensor, u: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """a = softmax over [x_p . u + c, 0] of stored rows u8[n, stride], u f32[Q, H, C], c f32[Q, H] from codec.fold.

    mixed f32[n, Q, H, C] = sum_p a_p x_p in the codec's coordinates, share f32[n, Q, H] = sum_p a_p.
    """
    import torch

    if rows.dtype != torch.uint8 or rows.shape[1:] != (codec.stride,):
        raise ValueError(f"rows are {rows.dtype}{list(rows.shape)}, not uint8[n, {codec.stride}]")
    rows, u = rows.contiguous(), u.float()
    mixed = torch.empty((len(rows), *u.shape), dtype=torch.float32, device=rows.device)
    share = torch.empty((len(rows), *c.shape), dtype=torch.float32, device=rows.device)
    if not share.numel():
        return mixed, share
    if isinstance(codec, Quantised):
        chunk = max(1, _SCRATCH // (c.numel() * _padded(codec.patches, _FREQUENCIES)))
        for start in range(0, len(rows), chunk):
            part = slice(start, start + chunk)
            _attend_frequencies(codec, rows[part], u, c, mixed[part], share[part])
    elif isinstance(codec, Fp16 | Int8):
        _attend_tokens(codec, rows, u, c, mixed, share)
    else:
        raise TypeError(f"no kernel for {type(codec).__name__}")
    return mixed, share


def _attend_tokens(codec: Fp16 | Int8, rows: Tensor, u: Tensor, c: Tensor, mixed: Tensor, share: Tensor) -> None:
    """`attend` over tokens as they are, into mixed and share."""
    import torch

    width = max(16, int(triton.next_power_of_2(codec.dim)))
    block = max(16, min(_block(c.numel()), 2**14 // width))  # what registers and shared memory hold
    high, low, factor = _columns(u, width, block)
    values = rows.view(torch.float16 if isinstance(codec, Fp16) else torch.int8)
    stride = values.shape[1]
    attend_patches[(len(rows) * (len(factor) // block),)](
        *(values, high, low, factor, c.contiguous(), mixed, share),
        *(codec.patches, codec.dim, c.numel(), len(factor), stride),
        **{"ALIGN": gcd(stride, 16), "INT8": isinstance(codec, Int8), "BD": width, "BQ": block},
    )


def _attend_frequencies(codec: Quantised, rows: Tensor, u: Tensor, c: Tensor, mixed: Tensor, share: Tensor) -> None:
    """`attend` over spatial frequencies, into mixed and share: logits and weights are over patches, tokens are not."""
    tables = _tables(codec, str(rows.device))
    frequencies, channels = tables.where.shape
    n, columns = len(rows), c.numel()
    block = _block(columns)
    high, low, factor = _columns(u * tables.scale[: u.shape[-1]], channels, block)
    logits = u.new_empty(n, columns, frequencies)
    sizes = (n, codec.stride, frequencies, channels)

    def grid_of(tile: str, length: int) -> Any:
        return lambda meta: (triton.cdiv(n, meta["BV"]) * (length // meta[tile]) * (len(factor) // block),)

    project[grid_of("BF", frequencies)](
        *(rows, tables.where, tables.step, tables.used, high, low, factor, logits, *sizes, columns, len(factor)),
        **{"BQ": block},
    )
    codes = rows[:, tables.gains : tables.gains + codec.patches][:, tables.order]
    gains = u.new_zeros(n, frequencies)
    gains[:, : codec.patches] = ((codes.float() - 128) / 8).exp2()
    logits *= gains[:, None]
    weights = (logits.flatten(0, 1) @ tables.cosines).unflatten(0, (n, columns)) + c.flatten()[:, None]
    top = weights.amax(-1, keepdim=True).clamp_min(0)
    weights = (weights - top).exp_()
    total = weights.sum(-1, keepdim=True)
    weights /= (whole := total + (-top).exp_())
    share.copy_((total / whole).view_as(share))
    weights = (weights.flatten(0, 1) @ tables.cosines.T).view_as(logits) * gains[:, None]
    size = weights.abs().amax(-1).clamp_min(1e-30)
    weights = (weights / size[..., None]).half()
    mix[grid_of("BC", channels)](
        *(rows, tables.where, tables.step, tables.reach, weights, size, tables.scale, mixed),
        *(*sizes, u.shape[-1], columns, len(factor)),
        **{"BQ": block},
    )


def _columns(u: Tensor, width: int, block: int) -> tuple[Tensor, Tensor, Tensor]:
    """u f32[Q, H, C] -> f16[width, QP], f16[width, QP], f32[QP]: (first + second) * third is u; QP whole blocks."""
    columns = u.flatten(0, 1).T
    unit = u.new_zeros(width, _padded(columns.shape[1], block))
    unit[: len(columns), : columns.shape[1]] = columns
    factor = unit.abs().amax(0).clamp_min(1e-30)
    unit /= factor
    high = unit.half()
    return high.contiguous(), (unit - high.float()).half().contiguous(), factor


def _block(columns: int) -> int:
    """How many columns a program has: tensor cores take 16 at least."""
    return min(64, max(16, int(triton.next_power_of_2(columns))))


def _padded(count: int, unit: int) -> int:
    return -(-count // unit) * unit


# -- rows on their way to the device


def stream(pieces: Iterable[NDArray[np.uint8]], device: str) -> Iterator[Tensor]:
    """Pieces u8[n, stride] -> the same on the device, in order, each good until the next one is asked for.

    A piece may be overwritten by the one after it. While the device works on one, the next is read and copied: for that
    the caller must not wait for results in between.
    """
    import torch

    where = torch.device(device)
    if where.type != "cuda":
        yield from (torch.from_numpy(piece.copy()).to(where) for piece in pieces)
        return
    copier = torch.cuda.Stream(where)
    slots: list[tuple[Tensor, Tensor]] = []  # pinned, on the device
    copied, used = ([torch.cuda.Event() for _ in range(2)] for _ in range(2))
    for i, piece in enumerate(pieces):
        turn = i % 2
        copied[turn].synchronize()  # the pinned memory is free again
        if turn == len(slots) or slots[turn][0].numel() < piece.size:
            used[turn].synchronize()
            pinned = torch.empty(piece.size, dtype=torch.uint8, pin_memory=True)
            slots[turn : turn + 1] = [(pinned, torch.empty(piece.size, dtype=torch.uint8, device=where))]
            used[turn].record(torch.cuda.current_stream(where))  # what had this memory before may still be at work
        host, there = (part[: piece.size] for part in slots[turn])
        np.copyto(host.numpy().reshape(piece.shape), piece)
        current = torch.cuda.current_stream(where)
        with torch.cuda.stream(copier):
            copier.wait_event(used[turn])
            there.copy_(host, non_blocking=True)
            copied[turn].record(copier)
        current.wait_event(copied[turn])
        yield there.view(piece.shape)
        used[turn].record(torch.cuda.current_stream(where))
