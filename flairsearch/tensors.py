"""A safetensors file, memory-mapped: what is asked for is read, as float32; no torch.

Format: eight bytes, the length of a JSON header; the header (type, shape and place of each tensor, and metadata); data.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flairsearch.errors import WeightsError

F32 = NDArray[np.float32]
_LARGEST_HEADER = 100 << 20  # bytes
_TYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2"}  # numpy has no bfloat16: upper halves of float32


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header, and the byte where data begin. Raises WeightsError when the file is none, or not there."""
    check_file(path)
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(_LARGEST_HEADER, path.stat().st_size):
                raise ValueError("header longer than the file")
            header = json.loads(stream.read(length))
        if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
            raise ValueError("its header is no object")
        return header, 8 + length
    except (OSError, ValueError, RecursionError, struct.error) as error:
        raise WeightsError(f"{path} is not a safetensors file ({error}) - copy or download it again") from None


def check_file(path: Path) -> None:
    """Raises WeightsError when there is no such file."""
    try:
        there = path.is_file()
    except OSError:  # a name no file can have
        there = False
    if not there:
        raise WeightsError(f"no model file at {str(path)!r} - check the path, or see 'flairsearch models list'")


class Tensors(Mapping[str, F32]):
    """Each tensor by its name, f32 of its shape; a float32 one is the file itself, mapped."""

    def __init__(self, path: Path) -> None:
        """Raises WeightsError when the file is no safetensors file, or cut."""
        self._path = path
        header, start = read_header(path)
        try:
            data = np.memmap(path, np.uint8, "r", start) if path.stat().st_size > start else np.zeros(0, np.uint8)
        except OSError as error:
            raise WeightsError(f"{path} cannot be read ({error.strerror or error}) - check its permissions") from None
        self._stored = {
            name: self._map(name, place, data.view(np.ndarray))
            for name, place in header.items()
            if name != "__metadata__"
        }

    def _map(self, name: str, place: Any, data: NDArray[np.uint8]) -> NDArray[Any]:
        """A tensor as it is stored; its place in the header is no more to be trusted than the rest."""
        try:
            kind, shape, (first, end) = _TYPES[place["dtype"]], tuple(place["shape"]), place["data_offsets"]
            whole = [*shape, first, end]
            if not all(type(number) is int and number >= 0 for number in whole):
                raise ValueError("no whole numbers")
            if not first <= end <= len(data) or end - first != prod(shape) * np.dtype(kind).itemsize:
                raise ValueError("cut")
            return data[first:end].view(kind).reshape(shape)
        except (KeyError, TypeError, ValueError) as error:
            what = f"{name[:100]!a}: {error}"
            raise WeightsError(f"{self._path} is damaged ({what}) - copy or download it again") from None

    def __getitem__(self, name: str) -> F32:
        return _as_f32(self._stored[name])

    def shape(self, name: str) -> tuple[int, ...]:
        return self._stored[name].shape

    def rows(self, name: str, which: NDArray[np.int64]) -> F32:
        """Some rows of a tensor, f32[len(which), ...]; the others are not read."""
        return _as_f32(self._stored[name][which])

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def _as_f32(stored: NDArray[Any]) -> F32:
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32, copy=False)
