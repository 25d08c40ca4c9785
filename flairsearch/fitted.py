"""fitted/: a fit and the codes of views (fit.py). Derived from the stored tokens, but costly, so kept.

    fitted/map.npz   the fit
    fitted/codes     a row a view: its id, the catalogue's generation when it was written, codes i8[W], CRC-32

Rows are only ever appended; the last one of a view counts. Of views without a whole row the global token has to do.
"""

from __future__ import annotations

import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flairsearch.fit import Fit


class Fitted:
    """The folder of one index."""

    def __init__(self, index: Path, dim: int) -> None:
        self._folder, self._dim = index / "fitted", dim

    @property
    def _rows(self) -> Path:
        return self._folder / "codes"

    def fit(self) -> Fit | None:
        """None where there is none yet, or a damaged one."""
        return Fit.load(self._folder / "map.npz", self._dim)

    def rows(self, fit: Fit, generation: int) -> NDArray[np.void]:
        """Rows of (view, generation, codes, crc) up to a generation, memory-mapped; not a part of one at the end.

        Rows of a later generation are those of a future that a backup put back has not: their ids may mean other views.
        """
        kind = _row(len(fit.steps))
        try:
            count = self._rows.stat().st_size // kind.itemsize
        except OSError:
            count = 0
        if not count:
            return np.zeros(0, kind)
        rows = np.memmap(self._rows, kind, "r", shape=(count,)).view(np.ndarray)
        while count and rows["generation"][count - 1] > generation:
            count -= 1
        return rows[:count]

    def whole(self, fit: Fit, rows: NDArray[np.void]) -> NDArray[np.bool_]:
        """Which rows are what was written for this fit, bool[n]."""
        expected: NDArray[np.bool_] = rows["crc"] == np.asarray(_checksums(fit, rows), np.uint32)
        return expected

    # -- for the one writer of the index

    def start(self, fit: Fit) -> None:
        """A new fit; codes of an older one go."""
        self.remove()
        self._folder.mkdir()
        part = self._folder / "map.npz.part"
        fit.save(part)
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        part.replace(self._folder / "map.npz")

    def remove(self) -> None:
        if self._folder.exists():
            shutil.rmtree(self._folder)

    def append(self, fit: Fit, views: NDArray[np.int64], codes: NDArray[np.int8], generation: int) -> None:
        """Rows of views i64[n], codes i8[n, W]; after this they survive a power cut. Raises OSError."""
        rows = np.zeros(len(views), _row(len(fit.steps)))
        rows["view"], rows["generation"], rows["codes"] = views, generation, codes
        rows["crc"] = _checksums(fit, rows)
        kept = self.rows(fit, generation)
        if self._rows.exists() and self._rows.stat().st_size >= (len(kept) + 1) * rows.itemsize:
            part = self._folder / "codes.part"  # of a future that is lost: replaced, as a reader may have them mapped
            part.write_bytes(kept.tobytes())
            part.replace(self._rows)
        with self._rows.open("ab") as stream:
            stream.truncate(len(kept) * rows.itemsize)  # what a kill left of a row
            stream.write(rows.tobytes())
            stream.flush()
            os.fsync(stream.fileno())


def _row(width: int) -> Any:
    return np.dtype([("view", "<i8"), ("generation", "<i8"), ("codes", "i1", (width,)), ("crc", "<u4")])


def _checksums(fit: Fit, rows: NDArray[np.void]) -> list[int]:
    """CRC-32 of the fit's, then of the bytes of each row but the last four."""
    return [zlib.crc32(row[:-4].data, fit.crc) for row in rows.view(np.uint8).reshape(len(rows), rows.itemsize)]
