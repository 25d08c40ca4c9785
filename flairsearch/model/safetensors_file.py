"""Read tensors of a memory-mapped safetensors file as float32, without torch.

The safetensors package reads and checks the header. It would copy every tensor, and numpy has no bfloat16, so the data
are mapped here; the package guarantees that tensors follow each other without a gap up to the end of the file.
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
# A bfloat16 number is the upper half of a float32.
_NUMPY_TYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2"}
_MAX_QUOTED_CHARACTERS = 200  # An error message quotes at most this many characters of the package's own message.


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata in the header of a safetensors file.

    Raises WeightsError when the file is missing or is not a safetensors file.
    """
    return dict(_open(path).metadata() or {})


def check_file(path: Path) -> None:
    """Raise WeightsError when there is no such file."""
    try:
        exists = path.is_file()
    except OSError:  # The name is too long, for example.
        exists = False
    if not exists:
        raise WeightsError(f"no model file at {str(path)!r} - check the path, or see 'flairsearch models list'")


def _open(path: Path) -> Any:
    """Open a file with the safetensors package, which checks its header."""
    check_file(path)
    try:
        with path.open("rb"):  # The package would report an unreadable file as missing.
            return safe_open(path, "np")
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror or error}) - check its permissions") from None
    except SafetensorError as error:
        reason = ascii(str(error)[:_MAX_QUOTED_CHARACTERS])[1:-1]
        raise WeightsError(f"{path} is not a safetensors file ({reason}) - copy or download it again") from None


class SafetensorsFile(Mapping[str, F32]):
    """The tensors of a file by name, as float32; a tensor stored as float32 is mapped, not copied."""

    def __init__(self, path: Path) -> None:
        """Map a file.

        Raises WeightsError when it is not a safetensors file, or holds anything but floating point numbers.
        """
        header = _open(path)
        self._stored: dict[str, NDArray[Any]] = {}
        data = np.memmap(path, np.uint8, "r").view(np.ndarray)
        end = len(data)
        for name in reversed(header.offset_keys()):
            entry = header.get_slice(name)
            try:
                kind, shape = np.dtype(_NUMPY_TYPES[entry.get_dtype()]), tuple(entry.get_shape())
                start = end - prod(shape) * kind.itemsize
                self._stored[name] = data[start:end].view(kind).reshape(shape)
            except (KeyError, ValueError) as error:  # numpy refuses huge shapes, even of no elements.
                reason = f"{name[:100]!a}: {error}"
                raise WeightsError(f"{path} is damaged ({reason}) - copy or download it again") from None
            end = start

    def __getitem__(self, name: str) -> F32:
        return _as_f32(self._stored[name])

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading its data."""
        return self._stored[name].shape

    def rows(self, name: str, indices: NDArray[np.int64]) -> F32:
        """Read the rows of a tensor at `indices` i64[...], f32[*indices.shape, ...]; no other row is read."""
        return _as_f32(self._stored[name][indices])

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def _as_f32(stored: NDArray[Any]) -> F32:
    """Convert to float32; uint16 is bfloat16."""
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32, copy=False)
