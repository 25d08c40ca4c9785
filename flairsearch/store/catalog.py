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

    id: NDArray[np.int64]  # i64[n]: view ids.
    row: NDArray[np.int64]  # i64[n]: the rows of the views in the segment, ascending.
    checksum: NDArray[np.int64]  # i64[n]: the CRC-32 of each view's bytes.
    live: NDArray[np.bool_]  # bool[n]: whether an image still has the view's content.


@dataclass(frozen=True)
class State:
    """One committed state of the index."""

    generation: int
    segments: list[tuple[int, int, str]]  # Number, count of views and codec of each segment.
    views: ViewColumns | None  # The live views; None if only the segments were read.


class Catalog:
    """Reads and writes catalog.sqlite; threads may share it, and every method is one transaction."""

    def __init__(self, folder: Path, create: bool = False) -> None:
        """Open the catalogue; with `create`, make an empty one if there is none.

        Raises StoreError when the catalogue is missing, damaged, or of a newer format.
        """
        self._database = Database(folder, create)
        self.statistics = IndexStatistics(folder, self._database)

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        # The generation grows by a random amount, so that a restored backup does not reach a number that is known.
        step = "1 + (random() & 0x3fffffff)"
        bump = f"INSERT INTO state VALUES ('generation', {step}) ON CONFLICT (key) DO UPDATE SET value = value + {step}"
        with self._database.write() as connection:
            yield connection
            connection.execute(bump)

    # -- roots

    def roots(self) -> dict[str, int]:
        """Return the ids of the roots, by absolute path."""
        with self._database.read() as connection:
            return _root_ids(connection)

    def add_root(self, path: str) -> int:
        """Add a root if it is new; return its id."""
        with self._database.write() as connection:
            if path not in _root_ids(connection):
                connection.execute("INSERT INTO roots (path) VALUES (?)", (path,))
            return _root_ids(connection)[path]

    def remove_root(self, path: str) -> None:
        """Remove a root that has no images left."""
        with self._write() as connection:
            connection.execute("DELETE FROM roots WHERE path = ?", (path,))

    # -- images

    def known(self, root: int) -> dict[str, IndexedFile]:
        """Return what the index stores of the files of a root, by path relative to the root."""
        query = "SELECT path, id, size, mtime_ns FROM images WHERE root = ?"
        with self._database.read() as connection:
            rows = connection.execute(query, (root,))
            return {path: IndexedFile(image, size, mtime) for path, image, size, mtime in rows}

    def hashes(self) -> set[bytes]:
        """Return the hashes of contents that have views."""
        with self._database.read() as connection:
            rows = connection.execute("SELECT hash FROM contents WHERE id IN (SELECT content FROM views)")
            return {value for (value,) in rows}

    def image_hashes(self, images: Sequence[int]) -> dict[int, bytes]:
        """Return the content hashes of images, by image id."""
        query = "SELECT images.id, hash FROM images JOIN contents ON contents.id = content WHERE images.id IN"
        with self._database.read() as connection:
            return dict(select_in(connection, query, images))

    def views_in(self, query_filter: Filter) -> NDArray[np.int64]:
        """Return ids i64[n] of the views of all images within the filter, ascending.

        Raises UsageError when the filter's folder holds no indexed photo at all.
        """
        query = "SELECT views.id FROM views JOIN images ON images.content = views.content"
        sides, folder = query_filter.min_sides or (), query_filter.path
        with self._database.read() as connection:
            roots = _root_ids(connection)
            condition = image_condition(query_filter, roots)
            large_enough = " AND views.width >= ? AND views.height >= ?" if sides else ""
            rows = connection.execute(f"{query} WHERE {condition.sql}{large_enough}", (*condition.values, *sides))
            views = np.unique(np.fromiter(chain.from_iterable(rows), np.int64))  # A content may have several images.
            if not len(views) and folder is not None:
                below = image_condition(Filter(folder=folder), roots)
                if not connection.execute(f"SELECT 1 FROM images WHERE {below.sql} LIMIT 1", below.values).fetchone():
                    raise UsageError(
                        f"{folder} holds no indexed photo - see flairsearch status for the folders of the index",
                        "folder",
                    )
        return views

    def images_of(self, contents: Sequence[int], query_filter: Filter = NO_FILTER) -> dict[int, list[tuple[int, str]]]:
        """Return [(image id, absolute path)] of the images within the filter, by content id; sorted by image id.

        The smallest sides of the filter are ignored here: all images of a content have equal sides, and `views_in`
        checks them.
        """
        result: dict[int, list[tuple[int, str]]] = {}
        # INDEXED BY makes SQLite look up contents; else it would go through all images of a root for some filters.
        query = """
            SELECT content, images.id, roots.path, images.path
            FROM images INDEXED BY ix_images_content JOIN roots ON roots.id = root
        """
        with self._database.read() as connection:
            condition = image_condition(query_filter, _root_ids(connection) if query_filter else {})
            query = f"{query} WHERE {condition.sql} AND content IN"
            for content, image, root, path in select_in(connection, query, contents, condition.values):
                result.setdefault(content, []).append((image, os.path.join(root, path)))
        for images in result.values():
            images.sort()
        return result

    def frames(self, views: Sequence[int]) -> dict[int, Frame]:
        """Return the frames of views, by view id."""
        query = f"SELECT id, {_FRAME_OF_VIEW} FROM views WHERE id IN"
        with self._database.read() as connection:
            return {view: Frame(*frame) for view, *frame in select_in(connection, query, views)}

    def views_at(self, path: str) -> list[int]:
        """Return the views of the image at an absolute path; empty if it is not in the index."""
        if not is_text(path):  # All paths in the index are valid UTF-8.
            return []
        query = """
            SELECT views.id FROM views JOIN images ON images.content = views.content
            WHERE root = ? AND path = ? ORDER BY views.id
        """
        with self._database.read() as connection:
            for root, number in _root_ids(connection).items():
                if path.startswith(root.rstrip("/") + "/"):
                    rows = connection.execute(query, (number, os.path.relpath(path, root)))
                    if views := [view for (view,) in rows]:
                        return views
        return []

    def path_of(self, image: int) -> str | None:
        """Return the absolute path of an image; None if there is no such id."""
        query = "SELECT roots.path, images.path FROM images JOIN roots ON roots.id = root WHERE images.id = ?"
        with self._database.read() as connection:
            row = connection.execute(query, (image,)).fetchone()
        return None if row is None else f"{row[0].rstrip('/')}/{row[1]}"

    def dates_of(self, images: Sequence[int]) -> dict[int, datetime | None]:
        """Return the dates of images, by image id; filters compare the same dates."""
        query = (
            "SELECT images.id, taken, mtime_ns FROM images JOIN contents ON contents.id = content WHERE images.id IN"
        )
        with self._database.read() as connection:
            return {image: date_of(taken, saved) for image, taken, saved in select_in(connection, query, images)}

    def images_below(self, path: str) -> list[int]:
        """Return the ids of images whose absolute path is `path` or lies below it."""
        below = path.rstrip("/") + "/"
        query = "SELECT images.id, roots.path, images.path FROM images JOIN roots ON roots.id = root"
        with self._database.read() as connection:
            rows = connection.execute(query)
            return [i for i, root, relative in rows if f"{root.rstrip('/')}/{relative}/".startswith(below)]

    # -- whole states

    def state(self, with_views: bool = True) -> State:
        """Return the current state: generation, segments and, with `with_views`, live views."""
        with self._database.read() as connection:
            segments = connection.execute("SELECT id, count, codec FROM segments").fetchall()
            return State(_generation(connection), segments, _live_views(connection) if with_views else None)

    def segments(self) -> list[tuple[int, int, str]]:
        """Return number, count of views and codec of every segment."""
        return self.state(with_views=False).segments

    def generation(self) -> int:
        """Return the generation, a number that every commit changes."""
        with self._database.read() as connection:
            return _generation(connection)

    def last_segment(self) -> int:
        """Return the largest segment number ever committed; numbers are not used twice."""
        with self._database.read() as connection:
            row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'segments'").fetchone()
            return int(row[0]) if row else 0

    def counts(self) -> tuple[int, int]:
        """Return the number of images, and of views that belong to an image."""
        query = f"SELECT (SELECT count(*) FROM images), (SELECT count(*) FROM views WHERE {LIVE})"
        with self._database.read() as connection:
            images, views = connection.execute(query).fetchone()
        return images, views

    # -- rewriting

    def checksums(self, views: Sequence[int]) -> dict[int, int]:
        """Return the CRC-32 of each view's bytes, by view id."""
        with self._database.read() as connection:
            return dict(select_in(connection, "SELECT id, checksum FROM views WHERE id IN", views))

    def content_hashes(self, contents: Sequence[int]) -> dict[int, bytes]:
        """Return the hashes of contents, by content id."""
        with self._database.read() as connection:
            return dict(select_in(connection, "SELECT id, hash FROM contents WHERE id IN", contents))

    def segment_views(self, segment: int) -> SegmentViews:
        """Return all views of a segment, by row, including those of removed images."""
        query = f"SELECT id, views.row, checksum, {LIVE} FROM views WHERE segment = ? ORDER BY views.row"
        with self._database.read() as connection:
            rows = np.array(connection.execute(query, (segment,)).fetchall(), np.int64).reshape(-1, 4)
        return SegmentViews(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3].astype(bool))

    def rewrite(self, segment: tuple[int, int, str] | None, places: Sequence[Place], emptied: Sequence[int]) -> None:
        """Move views to a new segment, and remove emptied segments with the views left in them, in one transaction.

        segment: number, count of views and codec of the new segment. places: where the moved views are now. emptied:
        numbers of segments. A content that loses a view loses all, in other segments too: if its photo comes back, all
        its views are encoded again.
        """
        with self._write() as connection:
            move_views(connection, segment, places, emptied)

    def move_root(self, old: str, new: str) -> None:
        """Record the new path of a root.

        Raises StoreError when `old` is not a root of the index, or `new` is one already.
        """
        roots = self.roots()
        if old not in roots:
            raise StoreError(f"{old} is no folder of this index - see flairsearch status for its folders")
        if new in roots:
            raise StoreError(f"{new} is a folder of this index already - forget one of the two")
        with self._write() as connection:
            connection.execute("UPDATE roots SET path = ? WHERE path = ?", (new, old))

    # -- commits

    def commit(self, change: Changeset) -> None:
        """Apply a changeset in one transaction; its segment files must be durable already."""
        roots = self.roots()
        with self._write() as connection:
            apply(connection, change, roots)


_FRAME_OF_VIEW = "views.width, views.height, views.left, views.top, views.right, views.bottom"


def _live_views(connection: sqlite3.Connection) -> ViewColumns:
    """Return the views of all images; they go directly into an array, as a million Python tuples would take 300 MB."""
    rows = connection.execute("SELECT id, content, segment, views.row FROM views ORDER BY id")
    numbers = np.fromiter(chain.from_iterable(rows), np.int64).reshape(-1, 4)
    dead = np.fromiter(chain.from_iterable(connection.execute(f"SELECT id FROM views WHERE NOT {LIVE}")), np.int64)
    return ViewColumns(*np.ascontiguousarray(numbers[~np.isin(numbers[:, 0], dead)].T))


def _generation(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT value FROM state WHERE key = 'generation'").fetchone()
    return int(row[0]) if row else 0


def _root_ids(connection: sqlite3.Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT path, id FROM roots"))
