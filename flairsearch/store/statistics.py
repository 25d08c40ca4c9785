"""What a person asks of an index: photos of each folder, what its bytes are for, what the last run did and left out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from flairsearch.core.atomic_file import atomic_write
from flairsearch.core.reports import IndexRun, Skipped, Status
from flairsearch.core.settings import IndexSettings
from flairsearch.store.database import Database

if TYPE_CHECKING:
    from flairsearch.store.catalog import Catalog

PARTS = ("tokens", "pooled_vectors", "fitted_vectors", "catalogue", "caches", "other")  # of an index's bytes
_LAST_RUN = "last-run.json"


class IndexStatistics:
    """One index, by its folder and its catalogue."""

    def __init__(self, folder: Path, database: Database) -> None:
        self._folder, self._database = folder, database

    def photos(self) -> dict[str, int]:
        """Absolute path of each root -> how many images it has."""
        query = "SELECT path, (SELECT count(*) FROM images WHERE images.root = roots.id) FROM roots"
        with self._database.read() as connection:
            return dict(connection.execute(query))

    def skipped(self) -> list[Skipped]:
        """What the last run left out."""
        with self._database.read() as connection:
            return [Skipped(*row) for row in connection.execute("SELECT path, reason FROM skipped")]

    def replace_skipped(self, found: Sequence[Skipped]) -> None:
        """Remember what a run left out."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM skipped")
            connection.executemany("INSERT INTO skipped VALUES (?, ?)", [(s.path, s.reason) for s in found])

    def sizes(self) -> dict[str, int]:
        """Bytes on disk of each of PARTS."""
        sizes = dict.fromkeys(PARTS, 0)
        for path, size in _files(os.fspath(self._folder)):
            sizes[_part_of(os.path.relpath(path, self._folder))] += size
        return sizes

    def last_run(self) -> IndexRun | None:
        """None where no run was written down, or it cannot be read."""
        try:
            found = json.loads((self._folder / _LAST_RUN).read_text(encoding="utf-8"))
            run = IndexRun(**found)
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        return run if all(isinstance(value, int | float) for value in found.values()) else None

    def save_run(self, run: IndexRun) -> None:
        """For the one writer of the index. A full disk costs no more than this note."""
        with suppress(OSError), atomic_write(self._folder / _LAST_RUN) as stream:
            stream.write((json.dumps(asdict(run)) + "\n").encode())


def _files(folder: str) -> Iterator[tuple[str, int]]:
    """Path and size of every file below."""
    with suppress(OSError), os.scandir(folder) as scan:  # a writer may remove it meanwhile
        for entry in scan:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
                continue
            with suppress(OSError):
                yield entry.path, entry.stat().st_size


def _part_of(path: str) -> str:
    """What a file of an index, relative to it, is for."""
    top, _, rest = path.replace(os.sep, "/").partition("/")
    if top == "segments":
        return "pooled_vectors" if rest.endswith(".pooled") else "tokens"
    if top.startswith("catalog.sqlite"):
        return "catalogue"
    return {"fitted": "fitted_vectors", "prefilter": "caches"}.get(top, "other")


def status_of(folder: Path, settings: IndexSettings, catalog: Catalog) -> Status:
    """What the index holds."""
    images, views = catalog.counts()
    census = catalog.census
    photos, sizes = census.photos(), census.sizes()
    return Status(
        folder=str(folder),
        model=settings.model,
        weights_hash=settings.weights_hash,
        views_policy=settings.views,
        codec=settings.codec,
        roots=tuple(sorted(photos)),
        images=images,
        views=views,
        bytes=sum(sizes.values()),
        skipped=tuple(census.skipped()),
        photos=photos,
        sizes=sizes,
        last_run=census.last_run(),
    )
