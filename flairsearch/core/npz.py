"""Store arrays in .npz files and check them when they are read; nothing in a file is executed or trusted."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import DTypeLike, NDArray

# A layout gives the dtype and the dimensions of each array: `"D C"` has two, and a letter has one size in all arrays.
Layout = Mapping[str, tuple[DTypeLike, str]]
# These are the errors of numpy and zipfile on a damaged file; an encrypted file raises RuntimeError.
_DAMAGE_ERRORS = (
    *(OSError, ValueError, KeyError, EOFError, TypeError, MemoryError, RuntimeError, OverflowError),
    *(BadZipFile, TokenError, zlib.error),
)


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write the file that `load_arrays` reads; the caller makes the write atomic."""
    with path.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def load_arrays(path: Path, layout: Layout) -> dict[str, NDArray[Any]]:
    """Read the arrays of a layout and check their dtypes and shapes, and that all numbers are finite.

    Raises FileNotFoundError, and ValueError with a one-line description when the file does not fit the layout.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in layout}
    except FileNotFoundError:
        raise
    except _DAMAGE_ERRORS as error:
        raise ValueError(str(error).splitlines()[0] if str(error) else type(error).__name__) from None
    sizes: dict[str, int] = {}
    for name, (dtype, dimensions) in layout.items():
        expected = [int(letter) if letter.isdigit() else sizes.get(letter) for letter in dimensions.split()]
        shape = arrays[name].shape
        fits = len(shape) == len(expected) and all(
            size in (None, real) for size, real in zip(expected, shape, strict=True)
        )
        if arrays[name].dtype != dtype or not fits or not arrays[name].size or not np.isfinite(arrays[name]).all():
            raise ValueError("its arrays do not fit")
        sizes |= dict(zip(dimensions.split(), shape, strict=True))
    return arrays
