"""fitted/: a fit and the codes of views (shortlist/score_predictor.py).

Derived from the stored tokens, but costly, so kept.

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

from flairsearch.core.atomic_file import atomic_path, atomic_write
from flairsearch.shortlist.score_predictor import ScorePredictor

CODES_OFFSET_BYTES = 16  # bytes of a row before its codes


class PredictorFile:
    """The folder of one index."""

    def __init__(self, index: Path, dim: int) -> None:
        self._folder, self._dim = index / "fitted", dim

    @property
    def _rows(self) -> Path:
        return self._folder / "codes"

    def fit(self) -> ScorePredictor | None:
        """None where there is none yet, or a damaged one."""
        return ScorePredictor.load(self._folder / "map.npz", self._dim)

    def rows(self, fit: ScorePredictor, generation: int) -> NDArray[np.void]:
        """Rows of (view, generation, codes, crc) up to a generation, memory-mapped; not a part of one at the end.

        Rows of a later generation are those of a future that a backup put back has not: their ids may mean other views.
        None where the file cannot be read.
        """
        kind = _row(len(fit.steps))
        try:
            with self._rows.open("rb") as stream:  # one file, whatever another process puts in its place meanwhile
                count = os.fstat(stream.fileno()).st_size // kind.itemsize
                if not count:
                    return np.zeros(0, kind)
                rows = np.memmap(stream, kind, "r", shape=(count,)).view(np.ndarray)
        except OSError:
            return np.zeros(0, kind)
        while count and rows["generation"][count - 1] > generation:
            count -= 1
        return rows[:count]

    def whole(self, fit: ScorePredictor, rows: NDArray[np.void]) -> NDArray[np.bool_]:
        """Which rows are what was written for this fit, bool[n]."""
        expected: NDArray[np.bool_] = rows["crc"] == np.asarray(_checksums(fit, rows), np.uint32)
        return expected

    def size(self) -> int:
        """Bytes of all rows."""
        try:
            return self._rows.stat().st_size
        except OSError:
            return 0

    # -- for the one writer of the index

    def start(self, fit: ScorePredictor) -> None:
        """A new fit; codes of an older one go."""
        self.remove()
        self._folder.mkdir()
        with atomic_path(self._folder / "map.npz") as part:
            fit.save(part)

    def remove(self) -> None:
        """The fit and all codes go."""
        if self._folder.is_dir() and not self._folder.is_symlink():
            shutil.rmtree(self._folder)
        else:
            self._folder.unlink(missing_ok=True)

    def drop_after(self, last: int, generation: int) -> None:
        """Rows of views with a larger id than the `last` one there is, and of later generations, go. Raises OSError.

        The others keep their places: caches know those (shortlist/shortlist.py).
        """
        fit = self.fit()
        if fit is None:
            return
        rows = self.rows(fit, generation)
        lost = rows["view"] > last
        if lost.any():
            rows = rows.copy()
            rows[lost] = 0
            self._replace(rows)
        elif self._has_more(rows):
            self._replace(rows)

    def append(self, fit: ScorePredictor, views: NDArray[np.int64], codes: NDArray[np.int8], generation: int) -> None:
        """Rows of views i64[n], codes i8[n, W]; after this they survive a power cut. Raises OSError."""
        rows = np.zeros(len(views), _row(len(fit.steps)))
        rows["view"], rows["generation"], rows["codes"] = views, generation, codes
        rows["crc"] = _checksums(fit, rows)
        kept = self.rows(fit, generation)
        if self._has_more(kept):  # of a future that is lost
            self._replace(kept)
        with self._rows.open("ab") as stream:
            stream.truncate(len(kept) * rows.itemsize)  # what a kill left of a row
            stream.write(rows.tobytes())
            stream.flush()
            os.fsync(stream.fileno())

    def _has_more(self, kept: NDArray[np.void]) -> bool:
        """Whether whole rows follow those."""
        return self._rows.is_file() and self._rows.stat().st_size >= (len(kept) + 1) * kept.itemsize

    def _replace(self, kept: NDArray[np.void]) -> None:
        """By another file, as a reader may have the rows that go mapped."""
        with atomic_write(self._rows) as stream:
            stream.write(kept.view(np.uint8).data)


def _row(width: int) -> Any:
    return np.dtype([("view", "<i8"), ("generation", "<i8"), ("codes", "i1", (width,)), ("crc", "<u4")])


def _checksums(fit: ScorePredictor, rows: NDArray[np.void]) -> list[int]:
    """CRC-32 of the fit's, then of the bytes of each row but the last four."""
    return [zlib.crc32(row[:-4].data, fit.crc) for row in rows.view(np.uint8).reshape(len(rows), rows.itemsize)]
