"""The files of an index's score predictor and of the codes of its views (shortlist/score_predictor.py).

They are derived from the stored tokens, but kept, because computing them is expensive.

    fitted/map.npz   the predictor
    fitted/codes     one row per view: its id, the catalogue's generation at the time of writing, code i8[W], CRC-32

Rows are appended; the last intact row of a view counts. Views without one are ranked by their global tokens.
"""

from __future__ import annotations

import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.atomic_file import atomic_path, atomic_write
from flairsearch.shortlist.score_predictor import ScorePredictor

CODES_OFFSET_BYTES = 16  # A row's code is preceded by this number of bytes.


class PredictorFile:
    """The predictor and the codes of one index."""

    def __init__(self, index: Path, dim: int) -> None:
        self._folder, self._dim = index / "fitted", dim

    @property
    def _codes_file(self) -> Path:
        return self._folder / "codes"

    def load(self) -> ScorePredictor | None:
        """Return the predictor; None if there is none yet or its file is damaged."""
        return ScorePredictor.load(self._folder / "map.npz", self._dim)

    def rows(self, predictor: ScorePredictor, generation: int) -> NDArray[np.void]:
        """Return the complete rows (view, generation, codes, crc) up to a generation, memory-mapped.

        Rows newer than the catalogue are ignored: after restoring an older backup, their view ids may have been reused.
        The result is empty if the file cannot be read.
        """
        dtype = _row_dtype(len(predictor.quant_steps))
        try:
            with self._codes_file.open("rb") as stream:  # Another process may replace the file meanwhile.
                count = os.fstat(stream.fileno()).st_size // dtype.itemsize
                if not count:
                    return np.zeros(0, dtype)
                rows = np.memmap(stream, dtype, "r", shape=(count,)).view(np.ndarray)
        except OSError:
            return np.zeros(0, dtype)
        while count and rows["generation"][count - 1] > generation:
            count -= 1
        return rows[:count]

    def intact(self, predictor: ScorePredictor, rows: NDArray[np.void]) -> NDArray[np.bool_]:
        """Return which rows have the right checksum and belong to this predictor, bool[n]."""
        matches: NDArray[np.bool_] = rows["crc"] == np.asarray(_checksums(predictor, rows), np.uint32)
        return matches

    def size(self) -> int:
        """Return the size of all rows in bytes."""
        try:
            return self._codes_file.stat().st_size
        except OSError:
            return 0

    # -- Only the writer of the index may call the methods below.

    def save(self, predictor: ScorePredictor) -> None:
        """Save a new predictor and remove the codes of an older one. Raises OSError."""
        self.remove()
        self._folder.mkdir()
        with atomic_path(self._folder / "map.npz") as part:
            predictor.save(part)

    def remove(self) -> None:
        """Remove the predictor and all codes. Raises OSError."""
        if self._folder.is_dir() and not self._folder.is_symlink():
            shutil.rmtree(self._folder)
        else:
            self._folder.unlink(missing_ok=True)

    def drop_after(self, last: int, generation: int) -> None:
        """Remove rows of views with ids above `last`, and of generations above `generation`. Raises OSError.

        Other rows keep their positions, because derived files refer to them (shortlist/shortlist.py).
        """
        predictor = self.load()
        if predictor is None:
            return
        rows = self.rows(predictor, generation)
        is_stale = rows["view"] > last
        if is_stale.any():
            rows = rows.copy()
            rows[is_stale] = 0
            self._replace(rows)
        elif self._has_rows_after(rows):
            self._replace(rows)

    def append(
        self, predictor: ScorePredictor, views: NDArray[np.int64], codes: NDArray[np.int8], generation: int
    ) -> None:
        """Append rows for views i64[n] with codes i8[n, W], and make them durable. Raises OSError."""
        rows = np.zeros(len(views), _row_dtype(len(predictor.quant_steps)))
        rows["view"], rows["generation"], rows["codes"] = views, generation, codes
        rows["crc"] = _checksums(predictor, rows)
        kept = self.rows(predictor, generation)
        if self._has_rows_after(kept):  # These rows are of later generations than a restored backup.
            self._replace(kept)
        with self._codes_file.open("ab") as stream:
            stream.truncate(len(kept) * rows.itemsize)  # A killed process may have left part of a row.
            stream.write(rows.tobytes())
            stream.flush()
            os.fsync(stream.fileno())

    def _has_rows_after(self, kept: NDArray[np.void]) -> bool:
        """Whether the file has complete rows after the kept ones."""
        return self._codes_file.is_file() and self._codes_file.stat().st_size >= (len(kept) + 1) * kept.itemsize

    def _replace(self, kept: NDArray[np.void]) -> None:
        """Replace the file by one with the kept rows; readers may still have the old file mapped. Raises OSError."""
        with atomic_write(self._codes_file) as stream:
            stream.write(kept.view(np.uint8).data)


def _row_dtype(width: int) -> Any:
    return np.dtype([("view", "<i8"), ("generation", "<i8"), ("codes", "i1", (width,)), ("crc", "<u4")])


def _checksums(predictor: ScorePredictor, rows: NDArray[np.void]) -> list[int]:
    """Return the CRC-32 of each row's bytes without the last four, seeded with the predictor's CRC-32."""
    return [zlib.crc32(row[:-4].data, predictor.crc) for row in rows.view(np.uint8).reshape(len(rows), rows.itemsize)]
