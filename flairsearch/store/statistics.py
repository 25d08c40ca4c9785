"""Statistics of an index: photos per folder, bytes per purpose, the last run and the files it skipped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from flairsearch.core.atomic_file import atomic_write
from flairsearch.core.reports import IndexRun, Skipped
from flairsearch.store.database import Database

PARTS = ("tokens", "pooled_vectors", "fitted_vectors", "catalogue", "caches", "other")
"""The purposes that the bytes of an index are counted for."""
_LAST_RUN = "last-run.json"  # The record of the last run is in this file of the index.


class IndexStatistics:
    """Statistics of one index, read from its folder and its catalogue."""

    def __init__(self, folder: Path, database: Database) -> None:
        self._folder, self._database = folder, database

    def photos(self) -> dict[str, int]:
        """Return the number of images of each root, by its absolute path."""
        query = "SELECT path, (SELECT count(*) FROM images WHERE images.root = roots.id) FROM roots"
        with self._database.read() as connection:
            return dict(connection.execute(query))

    def skipped(self) -> list[Skipped]:
        """Return the files that the last run skipped."""
        with self._database.read() as connection:
            return [Skipped(*row) for row in connection.execute("SELECT path, reason FROM skipped")]

    def replace_skipped(self, skipped: Sequence[Skipped]) -> None:
        """Store the files that a run skipped, in place of those of the previous run."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM skipped")
            connection.executemany("INSERT INTO skipped VALUES (?, ?)", [(s.path, s.reason) for s in skipped])

    def sizes(self) -> dict[str, int]:
        """Return the bytes on disk of each of PARTS."""
        sizes = dict.fromkeys(PARTS, 0)
        for path, size in _files(os.fspath(self._folder)):
            sizes[_part_of(os.path.relpath(path, self._folder))] += size
        return sizes

    def last_run(self) -> IndexRun | None:
        """Return the last run; None if there is no readable record of one."""
        try:
            fields = json.loads((self._folder / _LAST_RUN).read_text(encoding="utf-8"))
            run = IndexRun(**fields)
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        return run if all(isinstance(value, int | float) for value in fields.values()) else None

    def save_run(self, run: IndexRun) -> None:
        """Record a run; only the writer of the index may call this. An error such as a full disk is ignored."""
        with suppress(OSError), atomic_write(self._folder / _LAST_RUN) as stream:
            stream.write((json.dumps(asdict(run)) + "\n").encode())


def _files(folder: str) -> Iterator[tuple[str, int]]:
    """Yield path and size of every file below a folder."""
    with suppress(OSError), os.scandir(folder) as scan:  # A writer may remove the folder meanwhile.
        for entry in scan:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
                continue
            with suppress(OSError):
                yield entry.path, entry.stat().st_size


def _part_of(path: str) -> str:
    """Return which of PARTS a file counts for; path: relative to the index."""
    top, _, rest = path.replace(os.sep, "/").partition("/")
    if top == "segments":
        return "pooled_vectors" if rest.endswith(".pooled") else "tokens"
    if top.startswith("catalog.sqlite"):
        return "catalogue"
    return {"fitted": "fitted_vectors", "prefilter": "caches"}.get(top, "other")
