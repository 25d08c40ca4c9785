"""catalog.sqlite lists what exists: roots, images, contents, views and segments."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.errors import StoreError, UsageError
from flairsearch.core.filters import NO_FILTER, Filter, is_text
from flairsearch.core.types import Frame, IndexedFile
from flairsearch.store.changeset import Changeset, Place, apply, move_views
from flairsearch.store.database import Database, select_in
from flairsearch.store.filter_sql import date_of, image_condition
from flairsearch.store.schema import LIVE
from flairsearch.store.statistics import IndexStatistics
from flairsearch.store.view_columns import ViewColumns


@dataclass(frozen=True)
class SegmentViews:
    """The views of one segment."""

    id: NDArray[np.int64]
    row: NDArray[np.int64]
    checksum: NDArray[np.int64]
    live: NDArray[np.bool_]  # Whether some image still has the view's content.


@dataclass(frozen=True)
class State:
    """One committed state of the index."""

    generation: int
    segments: list[tuple[int, int, str]]  # Number, count of views and codec of each.
    views: ViewColumns | None  # None where only the segments were asked for.


class Catalog:
    """catalog.sqlite, from any thread; every method is one transaction."""

    def __init__(self, folder: Path, create: bool = False) -> None:
        """Raises StoreError when the catalogue is missing, is not one, or is of a newer format."""
        self._database = Database(folder, create)
        self.statistics = IndexStatistics(folder, self._database)

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        # The generation grows by a random amount: an older catalogue that is put back must not reach a known number.
        more = "1 + (random() & 0x3fffffff)"
        bump = f"INSERT INTO state VALUES ('generation', {more}) ON CONFLICT (key) DO UPDATE SET value = value + {more}"
        with self._database.write() as connection:
            yield connection
            connection.execute(bump)

    # -- roots

    def roots(self) -> dict[str, int]:
        """Absolute path -> id."""
        with self._database.read() as connection:
            return _root_ids(connection)

    def add_root(self, path: str) -> int:
        """The id of a root, which is new or known."""
        with self._database.write() as connection:
            if path not in _root_ids(connection):
                connection.execute("INSERT INTO roots (path) VALUES (?)", (path,))
            return _root_ids(connection)[path]

    def remove_root(self, path: str) -> None:
        """Drop a root that has no images left."""
        with self._write() as connection:
            connection.execute("DELETE FROM roots WHERE path = ?", (path,))

    # -- images

    def known(self, root: int) -> dict[str, IndexedFile]:
        """Path relative to the root -> what the index remembers of the file."""
        query = "SELECT path, id, size, mtime_ns FROM images WHERE root = ?"
        with self._database.read() as connection:
            rows = connection.execute(query, (root,))
            return {path: IndexedFile(number, size, mtime) for path, number, size, mtime in rows}

    def hashes(self) -> set[bytes]:
        """Content hashes that have views."""
        with self._database.read() as connection:
            rows = connection.execute("SELECT hash FROM contents WHERE id IN (SELECT content FROM views)")
            return {value for (value,) in rows}

    def image_hashes(self, images: Sequence[int]) -> dict[int, bytes]:
        """Image ids -> their content hashes."""
        query = "SELECT images.id, hash FROM images JOIN contents ON contents.id = content WHERE images.id IN"
        with self._database.read() as connection:
            return dict(select_in(connection, query, images))

    def views_in(self, query_filter: Filter) -> NDArray[np.int64]:
        """Views i64[n], ascending, of contents that some image within the filter has.

        Raises UsageError when the filter's folder holds no indexed photo at all.
        """
        query = "SELECT views.id FROM views JOIN images ON images.content = views.content"
        sides, folder = query_filter.min_sides or (), query_filter.path
        with self._database.read() as connection:
            roots = _root_ids(connection)
            asked = image_condition(query_filter, roots)
            large_enough = " AND views.width >= ? AND views.height >= ?" if sides else ""
            rows = connection.execute(f"{query} WHERE {asked.sql}{large_enough}", (*asked.values, *sides))
            found = np.unique(np.fromiter(chain.from_iterable(rows), np.int64))  # A content may have several images.
            if not len(found) and folder is not None:
                below = image_condition(Filter(folder=folder), roots)
                if not connection.execute(f"SELECT 1 FROM images WHERE {below.sql} LIMIT 1", below.values).fetchone():
                    raise UsageError(
                        f"{folder} holds no indexed photo - see flairsearch status for the folders of the index",
                        "folder",
                    )
        return found

    def images_of(self, contents: Sequence[int], query_filter: Filter = NO_FILTER) -> dict[int, list[tuple[int, str]]]:
        """Content ids -> [(image id, absolute path)], by image id; only files within the filter.

        The smallest sides are judged by `views_in`: all images of a content have the same.
        """
        result: dict[int, list[tuple[int, str]]] = {}
        # By content, whatever else is asked: SQLite would walk all images of a root for a filter.
        query = """
            SELECT content, images.id, roots.path, images.path
            FROM images INDEXED BY ix_images_content JOIN roots ON roots.id = root
        """
        with self._database.read() as connection:
            asked = image_condition(query_filter, _root_ids(connection) if query_filter else {})
            query = f"{query} WHERE {asked.sql} AND content IN"
            for content, image, root, path in select_in(connection, query, contents, asked.values):
                result.setdefault(content, []).append((image, os.path.join(root, path)))
        for found in result.values():
            found.sort()
        return result

    def frames(self, views: Sequence[int]) -> dict[int, Frame]:
        """View ids -> frames."""
        query = f"SELECT id, {_FRAME_OF_VIEW} FROM views WHERE id IN"
        with self._database.read() as connection:
            return {view: Frame(*frame) for view, *frame in select_in(connection, query, views)}

    def views_at(self, path: str) -> list[int]:
        """Views of the image at an absolute path; empty when it is not in the index, where all names are text."""
        if not is_text(path):
            return []
        query = """
            SELECT views.id FROM views JOIN images ON images.content = views.content
            WHERE root = ? AND path = ? ORDER BY views.id
        """
        with self._database.read() as connection:
            for root, number in _root_ids(connection).items():
                if path.startswith(root.rstrip("/") + "/"):
                    rows = connection.execute(query, (number, os.path.relpath(path, root)))
                    if found := [view for (view,) in rows]:
                        return found
        return []

    def path_of(self, image: int) -> str | None:
        """The absolute path of an image; None where there is no such id."""
        query = "SELECT roots.path, images.path FROM images JOIN roots ON roots.id = root WHERE images.id = ?"
        with self._database.read() as connection:
            row = connection.execute(query, (image,)).fetchone()
        return None if row is None else f"{row[0].rstrip('/')}/{row[1]}"

    def dates_of(self, images: Sequence[int]) -> dict[int, datetime | None]:
        """Image ids -> when they were taken, as filters count it."""
        query = (
            "SELECT images.id, taken, mtime_ns FROM images JOIN contents ON contents.id = content WHERE images.id IN"
        )
        with self._database.read() as connection:
            return {image: date_of(taken, saved) for image, taken, saved in select_in(connection, query, images)}

    def images_below(self, path: str) -> list[int]:
        """Images whose absolute path is `path` or lies below it."""
        below = path.rstrip("/") + "/"
        query = "SELECT images.id, roots.path, images.path FROM images JOIN roots ON roots.id = root"
        with self._database.read() as connection:
            rows = connection.execute(query)
            return [i for i, root, relative in rows if f"{root.rstrip('/')}/{relative}/".startswith(below)]

    # -- whole states

    def state(self, with_views: bool = True) -> State:
        """Generation, segments and live views, all of one moment."""
        with self._database.read() as connection:
            segments = connection.execute("SELECT id, count, codec FROM segments").fetchall()
            return State(_generation(connection), segments, _live_views(connection) if with_views else None)

    def segments(self) -> list[tuple[int, int, str]]:
        """Number, count and codec of every segment."""
        return self.state(with_views=False).segments

    def generation(self) -> int:
        """A number that every commit changes."""
        with self._database.read() as connection:
            return _generation(connection)

    def last_segment(self) -> int:
        """The largest segment number ever committed; numbers are not used twice."""
        with self._database.read() as connection:
            found = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'segments'").fetchone()
            return int(found[0]) if found else 0

    def counts(self) -> tuple[int, int]:
        """Images, and views that belong to one."""
        query = f"SELECT (SELECT count(*) FROM images), (SELECT count(*) FROM views WHERE {LIVE})"
        with self._database.read() as connection:
            images, views = connection.execute(query).fetchone()
        return images, views

    # -- rewriting

    def checksums(self, views: Sequence[int]) -> dict[int, int]:
        """View ids -> CRC-32 of their bytes."""
        with self._database.read() as connection:
            return dict(select_in(connection, "SELECT id, checksum FROM views WHERE id IN", views))

    def content_hashes(self, contents: Sequence[int]) -> dict[int, bytes]:
        """Content ids -> their hashes."""
        with self._database.read() as connection:
            return dict(select_in(connection, "SELECT id, hash FROM contents WHERE id IN", contents))

    def segment_views(self, segment: int) -> SegmentViews:
        """All views of a segment, by row; those of images that are gone too."""
        query = f"SELECT id, views.row, checksum, {LIVE} FROM views WHERE segment = ? ORDER BY views.row"
        with self._database.read() as connection:
            rows = np.array(connection.execute(query, (segment,)).fetchall(), np.int64).reshape(-1, 4)
        return SegmentViews(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3].astype(bool))

    def rewrite(self, segment: tuple[int, int, str] | None, places: Sequence[Place], emptied: Sequence[int]) -> None:
        """Views move to a new segment, and emptied segments leave with the views that nobody has; one transaction.

        Those views' contents lose all their views, in other segments too: none comes back with a part of them.
        """
        with self._write() as connection:
            move_views(connection, segment, places, emptied)

    def move_root(self, old: str, new: str) -> None:
        """The same folder is somewhere else now. Raises StoreError when `old` is not known or `new` is."""
        roots = self.roots()
        if old not in roots:
            raise StoreError(f"{old} is no folder of this index - see flairsearch status for its folders")
        if new in roots:
            raise StoreError(f"{new} is a folder of this index already - forget one of the two")
        with self._write() as connection:
            connection.execute("UPDATE roots SET path = ? WHERE path = ?", (new, old))

    # -- commits

    def commit(self, change: Changeset) -> None:
        """Apply a whole changeset in one transaction; its segment files must be durable already."""
        roots = self.roots()
        with self._write() as connection:
            apply(connection, change, roots)


_FRAME_OF_VIEW = "views.width, views.height, views.left, views.top, views.right, views.bottom"


def _live_views(connection: sqlite3.Connection) -> ViewColumns:
    """One number after the other into one array: a million views as rows of Python's would take 300 MB."""
    rows = connection.execute("SELECT id, content, segment, views.row FROM views ORDER BY id")
    numbers = np.fromiter(chain.from_iterable(rows), np.int64).reshape(-1, 4)
    dead = np.fromiter(chain.from_iterable(connection.execute(f"SELECT id FROM views WHERE NOT {LIVE}")), np.int64)
    return ViewColumns(*np.ascontiguousarray(numbers[~np.isin(numbers[:, 0], dead)].T))


def _generation(connection: sqlite3.Connection) -> int:
    found = connection.execute("SELECT value FROM state WHERE key = 'generation'").fetchone()
    return int(found[0]) if found else 0


def _root_ids(connection: sqlite3.Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT path, id FROM roots"))
