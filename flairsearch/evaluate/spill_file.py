"""A temporary file of encoded views: written once, in order, and read again in any order.

5,000 views of a published model take 1 GB of disk, and no memory apart from the operating system's cache.
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
    """A context manager. The file is deleted when it is closed, or when the process ends."""

    def __init__(self) -> None:
        """Open the file. Raises FlairSearchError when the temporary folder cannot be written."""
        self._row = np.dtype([])
        self._rows = self.patches = 0
        try:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - __exit__ closes it.
        except OSError as error:
            raise _write_error(error) from None

    def __enter__(self) -> SpillFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._rows

    def add(self, encoded: EncodedViews) -> None:
        """Append views. Raises FlairSearchError when the disk is full."""
        columns = {field.name: getattr(encoded, field.name) for field in fields(EncodedViews)}
        self._row = np.dtype([(name, column.dtype, column.shape[1:]) for name, column in columns.items()])
        rows = np.empty(len(encoded.tokens), self._row)
        for name, column in columns.items():
            rows[name] = column
        unwritten = memoryview(rows.tobytes())
        try:
            while unwritten:
                unwritten = unwritten[self._file.write(unwritten) :]
        except OSError as error:
            raise _write_error(error) from None
        self._rows += len(rows)
        self.patches = encoded.tokens.shape[1]

    def read(self, views: NDArray[np.int64]) -> EncodedViews:
        """Read views by number, i64[n], counted from 0 in the order in which they were added."""
        size = self._row.itemsize
        data = bytearray().join(os.pread(self._file.fileno(), size, view * size) for view in views.tolist())
        rows = np.frombuffer(data, self._row)
        return EncodedViews(*(rows[field.name] for field in fields(EncodedViews)))


def _write_error(error: OSError) -> FlairSearchError:
    return FlairSearchError(
        f"views cannot be put aside in {tempfile.gettempdir()} ({error.strerror}) - make room, or set TMPDIR"
    )
