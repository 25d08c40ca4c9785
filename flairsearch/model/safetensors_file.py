"""A safetensors file, memory-mapped: what is asked for is read, as float32; no torch.

The safetensors package reads and checks the header. Its tensors are copies and numpy has no bfloat16, so data are
mapped here: the package has made sure that the tensors follow each other without a gap up to the file's end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from flairsearch.core.errors import WeightsError

F32 = NDArray[np.float32]
_TYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2"}  # A bfloat16 number is the upper half of a float32.
_MOST_TEXT = 200  # An error message quotes at most this many characters of the package's own message.


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that a file's header carries. Raises WeightsError when it is no safetensors file, or not there."""
    return dict(_open(path).metadata() or {})


def check_file(path: Path) -> None:
    """Raises WeightsError when there is no such file."""
    try:
        there = path.is_file()
    except OSError:  # a name no file can have
        there = False
    if not there:
        raise WeightsError(f"no model file at {str(path)!r} - check the path, or see 'flairsearch models list'")


def _open(path: Path) -> Any:
    """The package's handle of a file whose header is sound."""
    check_file(path)
    try:
        with path.open("rb"):  # The package says of a file that may not be read that it is not there.
            return safe_open(path, "np")
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror or error}) - check its permissions") from None
    except SafetensorError as error:
        what = ascii(str(error)[:_MOST_TEXT])[1:-1]
        raise WeightsError(f"{path} is not a safetensors file ({what}) - copy or download it again") from None


class SafetensorsFile(Mapping[str, F32]):
    """Each tensor by its name, f32 of its shape; a float32 one is the file itself, mapped."""

    def __init__(self, path: Path) -> None:
        """Raises WeightsError when the file is no safetensors file, or holds anything but floating point numbers."""
        header = _open(path)
        self._stored: dict[str, NDArray[Any]] = {}
        data = np.memmap(path, np.uint8, "r").view(np.ndarray)
        end = len(data)
        for name in reversed(header.offset_keys()):
            place = header.get_slice(name)
            try:
                kind, shape = np.dtype(_TYPES[place.get_dtype()]), tuple(place.get_shape())
                start = end - prod(shape) * kind.itemsize
                self._stored[name] = data[start:end].view(kind).reshape(shape)
            except (KeyError, ValueError) as error:  # ValueError: a shape of nothing that is too large for numpy
                what = f"{name[:100]!a}: {error}"
                raise WeightsError(f"{path} is damaged ({what}) - copy or download it again") from None
            end = start

    def __getitem__(self, name: str) -> F32:
        return _as_f32(self._stored[name])

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one tensor, of which nothing is read."""
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
