"""Rows on a GPU: whole segments stay there while there is room for them, rows of the others go through.

    pieces = Resident(device).rows(number, segment, wanted, streamed)

Imports rerank_triton for its `stream`, so that it needs triton as well.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flairsearch.rerank.triton_backend import stream

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ResidencePolicy:
    """The thresholds of what stays on a device."""

    memory_share: float = 0.6
    """This share of the device's memory is for rows that stay there."""
    admit_fraction: float = 0.1
    """A segment comes to stay when this share of its rows was asked for in all; at once where others must make room."""
    copy_bytes: int = 32 << 20
    """This number of bytes are copied to the device at once."""
    gather_bytes: int = 256 << 20
    """This number of bytes of rows are picked out at once."""


_DEFAULT = ResidencePolicy()


class GpuSegmentCache:
    """Whole segments' rows on a device, by segment number; those not asked for longest make room.

    A number stands for the same rows for as long as this lives: as within one committed state of an index.
    """

    def __init__(self, device: str, room: int | None = None, policy: ResidencePolicy = _DEFAULT) -> None:
        """room: bytes; without it, the policy's share of the device's memory."""
        import torch

        if room is None:
            room = int(policy.memory_share * torch.cuda.get_device_properties(torch.device(device)).total_memory)
        self._device, self._room, self._policy = device, room, policy
        self._rows: OrderedDict[int, Tensor] = OrderedDict()
        self._asked: Counter[int] = Counter()  # rows of those that are not there

    def __contains__(self, number: int) -> bool:
        return number in self._rows

    def rows(
        self,
        number: int,
        segment: NDArray[np.uint8],
        wanted: NDArray[np.int64],
        streamed: Iterable[NDArray[np.uint8]],
    ) -> Iterator[Tensor]:
        """Rows `wanted` i64[K] of a segment u8[n, stride] -> the same on the device, in order, in pieces.

        streamed: these K rows in pieces, from wherever they are read best; asked for only where the segment does not
        come to stay. A piece is good until the next one is asked for (`stream`).
        """
        kept = self._hold(number, segment, len(wanted))
        return stream(streamed, self._device) if kept is None else _taken(kept, wanted, self._policy.gather_bytes)

    def _hold(self, number: int, segment: NDArray[np.uint8], asked: int) -> Tensor | None:
        """The segment on the device, if need be copied there, `asked` many rows being worth it; else None."""
        if number not in self._rows:
            self._asked[number] += asked
            there_is_room = segment.nbytes <= self._room - self._used()
            if (self._asked[number] if there_is_room else asked) >= self._policy.admit_fraction * len(segment) > 0:
                self.put(number, segment)
        return self.get(number)

    def get(self, number: int) -> Tensor | None:
        """A segment's rows u8[n, stride], where they are on the device."""
        if number in self._rows:
            self._rows.move_to_end(number)
        return self._rows.get(number)

    def put(self, number: int, rows: NDArray[np.uint8]) -> Tensor | None:
        """Copy a segment's rows u8[n, stride] there; None where they alone exceed the room, or memory is out."""
        import torch

        self._rows.pop(number, None)
        if rows.nbytes > self._room:
            return None
        while self._used() + rows.nbytes > self._room:
            self._rows.popitem(last=False)
        try:
            kept = torch.empty(rows.shape, dtype=torch.uint8, device=self._device)
        except torch.OutOfMemoryError:  # others use the device too
            return None
        length, start = max(1, self._policy.copy_bytes // max(1, rows.shape[1])), 0
        for piece in stream((rows[i : i + length] for i in range(0, len(rows), length)), self._device):
            kept[start : start + len(piece)] = piece
            start += len(piece)
        self._rows[number] = kept
        return kept

    def _used(self) -> int:
        return sum(kept.numel() for kept in self._rows.values())


def _taken(kept: Tensor, wanted: NDArray[np.int64], gather_bytes: int) -> Iterator[Tensor]:
    """Rows `wanted` i64[K] of u8[n, stride], in pieces; where they lie in a row, in one, and nothing is copied."""
    import torch

    if len(wanted) and (np.diff(wanted) == 1).all():
        yield kept[int(wanted[0]) : int(wanted[-1]) + 1]
        return
    step = max(1, gather_bytes // max(1, kept.shape[1]))
    for start in range(0, len(wanted), step):
        yield kept[torch.from_numpy(wanted[start : start + step]).to(kept.device)]
