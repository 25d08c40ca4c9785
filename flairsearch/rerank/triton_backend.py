"""The pool's attention over stored rows on a GPU, fused with decoding; experimental: not run on a GPU yet.

    mixed, share = attend(codec, rows, u, c)

The kernels are in rerank/triton_kernels.py. This module prepares codecs and queries for them and copies rows to the
device. Importing it raises ImportError without triton; TRITON_INTERPRET=1 runs the kernels without a GPU.
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

_SCRATCH_VALUES = 1 << 24  # Bounds the float32 values between the passes over quantised rows: 64 MiB.
_FREQUENCY_BLOCK = 32  # The tables of a quantised codec are padded to a multiple of this number of frequencies.
_CHANNEL_BLOCK = 64  # The tables of a quantised codec are padded to a multiple of this number of channels.
_LOG2_BITS = {2: 1, 4: 2, 8: 3}  # The tables state a code's number of bits as its logarithm; 0 means no code.


class _Tables(NamedTuple):
    """Where the codes of a quantised row lie. Frequencies are sorted: the one with the most coded channels first."""

    addresses: Tensor  # i32[FP, CP]: 16 times the byte, plus 2 times the lowest bit, plus log2 of the number of bits.
    steps: Tensor  # f32[FP, CP]: quantisation steps in units of `scale`; at most 1, so that float16 holds every value.
    scale: Tensor  # f32[CP]: a power of two for each channel.
    coded_channels: Tensor  # i32[FP]: the number of channels of each frequency that have bits.
    coded_frequencies: Tensor  # i32[CP]: the number of frequencies of each channel that have bits.
    gains: int  # The first byte of the gains in a row.
    order: Tensor  # i64[F]: the sorted frequencies.
    cosines: Tensor  # f32[FP, P]: the cosine transform's matrix.


@lru_cache(maxsize=4)
def _tables(codec: Quantised, device: str) -> _Tables:
    """Make the tables of a codec on a device."""
    import torch

    basis = codec.basis
    frequencies, channels = basis.step.shape
    padded = _padded(frequencies, _FREQUENCY_BLOCK), _padded(channels, _CHANNEL_BLOCK)
    addresses, start = np.zeros(frequencies * channels, np.int32), 0
    for bits, positions in basis.planes:
        number = np.arange(len(positions))
        lowest_bit = number % (8 // bits) * bits
        addresses[positions] = (start + number * bits // 8) << 4 | lowest_bit << 1 | _LOG2_BITS[bits]
        start += len(positions) * bits // 8
    addresses = addresses.reshape(frequencies, channels)
    steps = np.where(addresses & 3, basis.step, 0)
    scale = np.exp2(np.ceil(np.log2(np.maximum(steps.max(0), 1e-30)))).astype(np.float32)
    coded_channels = basis.counts.astype(np.int64).sum(0)
    order = np.argsort(-coded_channels, kind="stable")
    padding = padded[0] - frequencies, padded[1] - channels
    arrays = {
        "addresses": np.pad(addresses[order], ((0, padding[0]), (0, padding[1]))),
        "steps": np.pad((steps / scale)[order].astype(np.float32), ((0, padding[0]), (0, padding[1]))),
        "scale": np.pad(scale, (0, padding[1])),
        "coded_channels": np.pad(coded_channels[order], (0, padding[0])).astype(np.int32),
        "coded_frequencies": (coded_channels[:, None] > np.arange(padded[1])).sum(0).astype(np.int32),
        "order": order,
        "cosines": np.pad(basis.cosines[order], ((0, padding[0]), (0, 0))),
    }
    moved = {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in arrays.items()}
    return _Tables(gains=start, **moved)


def attend(codec: Codec, rows: Tensor, u: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Attend to stored rows: a = softmax over [x_p . u + c, 0], x in the codec's coordinates.

    rows: u8[n, stride]. u: f32[Q, H, C], c: f32[Q, H], folded by codec.fold.
    Returns mixed f32[n, Q, H, C] = sum_p a_p x_p and share f32[n, Q, H] = sum_p a_p.
    Raises ValueError if the rows are not the codec's, TypeError if there is no kernel for the codec.
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
        chunk = max(1, _SCRATCH_VALUES // (c.numel() * _padded(codec.patches, _FREQUENCY_BLOCK)))
        for start in range(0, len(rows), chunk):
            part = slice(start, start + chunk)
            _attend_frequencies(codec, rows[part], u, c, mixed[part], share[part])
    elif isinstance(codec, Fp16 | Int8):
        _attend_tokens(codec, rows, u, c, mixed, share)
    else:
        raise TypeError(f"no kernel for {type(codec).__name__}")
    return mixed, share


def _attend_tokens(codec: Fp16 | Int8, rows: Tensor, u: Tensor, c: Tensor, mixed: Tensor, share: Tensor) -> None:
    """`attend` for rows that hold tokens, fp16 or int8; fills mixed and share."""
    import torch

    width = max(16, int(triton.next_power_of_2(codec.dim)))
    block = max(16, min(_block(c.numel()), 2**14 // width))  # Larger tiles exceed the registers and the shared memory.
    high, low, factor = _split_columns(u, width, block)
    values = rows.view(torch.float16 if isinstance(codec, Fp16) else torch.int8)
    stride = values.shape[1]
    attend_patches[(len(rows) * (len(factor) // block),)](
        *(values, high, low, factor, c.contiguous(), mixed, share),
        *(codec.patches, codec.dim, c.numel(), len(factor), stride),
        **{"ALIGN": gcd(stride, 16), "INT8": isinstance(codec, Int8), "BD": width, "BQ": block},
    )


def _attend_frequencies(codec: Quantised, rows: Tensor, u: Tensor, c: Tensor, mixed: Tensor, share: Tensor) -> None:
    """`attend` for rows that hold spatial frequencies; fills mixed and share.

    Logits and attention are over patches; tokens stay in the frequency domain.
    """
    tables = _tables(codec, str(rows.device))
    frequencies, channels = tables.addresses.shape
    n, columns = len(rows), c.numel()
    block = _block(columns)
    high, low, factor = _split_columns(u * tables.scale[: u.shape[-1]], channels, block)
    logits = u.new_empty(n, columns, frequencies)
    sizes = (n, codec.stride, frequencies, channels)

    def grid_of(tile: str, length: int) -> Any:
        return lambda meta: (triton.cdiv(n, meta["BV"]) * (length // meta[tile]) * (len(factor) // block),)

    project[grid_of("BF", frequencies)](
        *(rows, tables.addresses, tables.steps, tables.coded_channels, high, low, factor, logits),
        *(*sizes, columns, len(factor)),
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
    denominator = total + (-top).exp_()
    weights /= denominator
    share.copy_((total / denominator).view_as(share))
    weights = (weights.flatten(0, 1) @ tables.cosines.T).view_as(logits) * gains[:, None]
    size = weights.abs().amax(-1).clamp_min(1e-30)
    weights = (weights / size[..., None]).half()
    mix[grid_of("BC", channels)](
        *(rows, tables.addresses, tables.steps, tables.coded_frequencies, weights, size, tables.scale, mixed),
        *(*sizes, u.shape[-1], columns, len(factor)),
        **{"BQ": block},
    )


def _split_columns(u: Tensor, width: int, block: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split u f32[Q, H, C] into high and low f16[width, QP] and factor f32[QP], with u = (high + low) * factor.

    The columns, one for each query's head, are padded to whole blocks: QP of them.
    """
    columns = u.flatten(0, 1).T
    unit = u.new_zeros(width, _padded(columns.shape[1], block))
    unit[: len(columns), : columns.shape[1]] = columns
    factor = unit.abs().amax(0).clamp_min(1e-30)
    unit /= factor
    high = unit.half()
    return high.contiguous(), (unit - high.float()).half().contiguous(), factor


def _block(columns: int) -> int:
    """Return the number of columns of one program; tensor cores need at least 16."""
    return min(64, max(16, int(triton.next_power_of_2(columns))))


def _padded(count: int, unit: int) -> int:
    """Round up to a multiple of the unit."""
    return -(-count // unit) * unit


# -- copying rows to the device


def stream(pieces: Iterable[NDArray[np.uint8]], device: str) -> Iterator[Tensor]:
    """Copy pieces of rows u8[n, stride] to the device and yield them there, in order.

    A yielded piece is valid until the next one is requested; the host piece may be overwritten by then, too.
    The next piece is read and copied while the device works on the current one, provided that the caller does not
    wait for results in between.
    """
    import torch

    target_device = torch.device(device)
    if target_device.type != "cuda":
        yield from (torch.from_numpy(piece.copy()).to(target_device) for piece in pieces)
        return
    copier = torch.cuda.Stream(target_device)
    slots: list[tuple[Tensor, Tensor]] = []  # Two pairs of buffers: pinned on the host, and on the device.
    copied, used = ([torch.cuda.Event() for _ in range(2)] for _ in range(2))
    for i, piece in enumerate(pieces):
        slot = i % 2
        copied[slot].synchronize()  # From here on the pinned buffer is free.
        if slot == len(slots) or slots[slot][0].numel() < piece.size:
            used[slot].synchronize()
            pinned = torch.empty(piece.size, dtype=torch.uint8, pin_memory=True)
            slots[slot : slot + 1] = [(pinned, torch.empty(piece.size, dtype=torch.uint8, device=target_device))]
            used[slot].record(
                torch.cuda.current_stream(target_device)
            )  # The memory's former user may still be running.
        host, target = (part[: piece.size] for part in slots[slot])
        np.copyto(host.numpy().reshape(piece.shape), piece)
        current = torch.cuda.current_stream(target_device)
        with torch.cuda.stream(copier):
            copier.wait_event(used[slot])
            target.copy_(host, non_blocking=True)
            copied[slot].record(copier)
        current.wait_event(copied[slot])
        yield target.view(piece.shape)
        used[slot].record(torch.cuda.current_stream(target_device))
