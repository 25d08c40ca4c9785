"""A cache of whole segments in a GPU's memory; rows of segments that are not cached are streamed to the GPU.

    pieces = GpuSegmentCache(device).rows(number, segment, wanted, streamed)

This module needs triton, because it copies rows by triton_backend.stream.
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
    """The thresholds that decide which segments are kept on a device."""

    memory_share: float = 0.6
    """Cached segments may take this share of the device's memory."""
    admit_fraction: float = 0.1
    """A segment is cached once this share of its rows was requested in total, or at once if others must be evicted."""
    copy_bytes: int = 32 << 20
    """A segment is copied to the device in pieces of this size."""
    gather_bytes: int = 256 << 20
    """Rows of a cached segment are gathered in pieces of at most this size."""


_DEFAULT = ResidencePolicy()


class GpuSegmentCache:
    """The rows of whole segments on a device, by segment number; the least recently used segments are evicted first.

    A number must refer to the same rows throughout the cache's life, as it does within one snapshot of an index.
    """

    def __init__(self, device: str, capacity: int | None = None, policy: ResidencePolicy = _DEFAULT) -> None:
        """capacity: bytes for cached segments; None: the policy's share of the device's memory."""
        import torch

        if capacity is None:
            capacity = int(policy.memory_share * torch.cuda.get_device_properties(torch.device(device)).total_memory)
        self._device, self._capacity, self._policy = device, capacity, policy
        self._segments: OrderedDict[int, Tensor] = OrderedDict()
        self._requested_rows: Counter[int] = Counter()  # Rows requested so far of each segment that is not cached.

    def __contains__(self, number: int) -> bool:
        return number in self._segments

    def rows(
        self,
        number: int,
        segment: NDArray[np.uint8],
        wanted: NDArray[np.int64],
        streamed: Iterable[NDArray[np.uint8]],
    ) -> Iterator[Tensor]:
        """Return rows of a segment on the device, in order, as an iterator over pieces.

        segment: u8[n, stride], the whole segment. wanted: i64[K], the numbers of the requested rows.
        streamed: u8[k, stride] pieces of the same K rows from host memory; read only if the segment is not cached.
        A piece is valid until the next one is requested (triton_backend.stream).
        """
        cached = self._find_or_admit(number, segment, len(wanted))
        if cached is None:
            return stream(streamed, self._device)
        return _gather(cached, wanted, self._policy.gather_bytes)

    def _find_or_admit(self, number: int, segment: NDArray[np.uint8], requested: int) -> Tensor | None:
        """Return the cached segment; first cache it if a request of `requested` rows justifies that; else None."""
        if number not in self._segments:
            self._requested_rows[number] += requested
            fits = segment.nbytes <= self._capacity - self._used()
            counted = self._requested_rows[number] if fits else requested
            if counted >= self._policy.admit_fraction * len(segment) > 0:
                self.put(number, segment)
        return self.get(number)

    def get(self, number: int) -> Tensor | None:
        """Return a segment's rows u8[n, stride] on the device, or None if it is not cached."""
        if number in self._segments:
            self._segments.move_to_end(number)
        return self._segments.get(number)

    def put(self, number: int, rows: NDArray[np.uint8]) -> Tensor | None:
        """Cache a segment's rows u8[n, stride]; None if they exceed the capacity or the device is out of memory."""
        import torch

        self._segments.pop(number, None)
        if rows.nbytes > self._capacity:
            return None
        while self._used() + rows.nbytes > self._capacity:
            self._segments.popitem(last=False)
        try:
            cached = torch.empty(rows.shape, dtype=torch.uint8, device=self._device)
        except torch.OutOfMemoryError:  # Other programs use the device, too.
            return None
        length, start = max(1, self._policy.copy_bytes // max(1, rows.shape[1])), 0
        for piece in stream((rows[i : i + length] for i in range(0, len(rows), length)), self._device):
            cached[start : start + len(piece)] = piece
            start += len(piece)
        self._segments[number] = cached
        return cached

    def _used(self) -> int:
        """Return the bytes of all cached segments."""
        return sum(cached.numel() for cached in self._segments.values())


def _gather(cached: Tensor, wanted: NDArray[np.int64], gather_bytes: int) -> Iterator[Tensor]:
    """Yield rows `wanted` i64[K] of u8[n, stride] in pieces; consecutive rows come as one view without a copy."""
    import torch

    if len(wanted) and (np.diff(wanted) == 1).all():
        yield cached[int(wanted[0]) : int(wanted[-1]) + 1]
        return
    step = max(1, gather_bytes // max(1, cached.shape[1]))
    for start in range(0, len(wanted), step):
        yield cached[torch.from_numpy(wanted[start : start + step]).to(cached.device)]
