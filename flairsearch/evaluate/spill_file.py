"""Encoded views put aside in a temporary file: written once, in order, read again in any order.

5,000 views of a published model take 1 GB there, and no memory but the system's cache.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.errors import FlairSearchError
from flairsearch.core.types import EncodedViews


class SpillFile:
    """Use as a context manager: the file goes with it, or with the process."""

    def __init__(self) -> None:
        self._row = np.dtype([])
        self._rows = self.patches = 0
        try:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - __exit__ closes it
        except OSError as error:
            raise _no_room(error) from None

    def __enter__(self) -> SpillFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._rows

    def add(self, encoded: EncodedViews) -> None:
        """The next views. Raises FlairSearchError when the disk is full."""
        columns = {field.name: getattr(encoded, field.name) for field in fields(EncodedViews)}
        self._row = np.dtype([(name, column.dtype, column.shape[1:]) for name, column in columns.items()])
        rows = np.empty(len(encoded.tokens), self._row)
        for name, column in columns.items():
            rows[name] = column
        left = memoryview(rows.tobytes())
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise _no_room(error) from None
        self._rows += len(rows)
        self.patches = encoded.tokens.shape[1]

    def read(self, views: NDArray[np.int64]) -> EncodedViews:
        """View numbers, from 0 in the order in which they came -> Encoded."""
        size = self._row.itemsize
        data = bytearray().join(os.pread(self._file.fileno(), size, view * size) for view in views.tolist())
        rows = np.frombuffer(data, self._row)
        return EncodedViews(*(rows[field.name] for field in fields(EncodedViews)))


def _no_room(error: OSError) -> FlairSearchError:
    return FlairSearchError(
        f"views cannot be put aside in {tempfile.gettempdir()} ({error.strerror}) - make room, or set TMPDIR"
    )
