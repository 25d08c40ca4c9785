"""catalog.sqlite: roots, images, contents, views, segments (SQLAlchemy Core). What it lists is what exists."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from flairsearch.census import Census
from flairsearch.database import open_database
from flairsearch.errors import StoreError, UsageError
from flairsearch.records import Frame, ImageFile, Known
from flairsearch.schema import LIVE as _LIVE
from flairsearch.schema import contents as _contents
from flairsearch.schema import images as _images
from flairsearch.schema import roots as _roots
from flairsearch.schema import segments as _segments
from flairsearch.schema import state as _state
from flairsearch.schema import views as _views
from flairsearch.scope import Scope
from flairsearch.views import ViewColumns
from flairsearch.within import date_of, image_conditions

_T = TypeVar("_T")


@dataclass(frozen=True)
class NewView:
    """A view written to the segment of this commit."""

    hash: bytes  # of its content
    row: int
    checksum: int
    frame: Frame
    taken: int | None = None  # the photo's date, scope.clock_seconds


@dataclass(frozen=True)
class Place:
    """Where a view is written anew."""

    view: int
    row: int
    checksum: int


@dataclass(frozen=True)
class SegmentViews:
    """The views of one segment."""

    id: NDArray[np.int64]
    row: NDArray[np.int64]
    checksum: NDArray[np.int64]
    live: NDArray[np.bool_]  # some image still has its content


@dataclass
class Changeset:
    """Everything one commit changes."""

    segment: tuple[int, int, str] | None = None  # number, count, codec
    views: list[NewView] = field(default_factory=list)
    added: list[tuple[ImageFile, bytes]] = field(default_factory=list)
    updated: list[tuple[int, ImageFile, bytes]] = field(default_factory=list)  # image id, file as it is now
    removed: list[int] = field(default_factory=list)  # image ids

    def __bool__(self) -> bool:
        return bool(self.segment or self.views or self.added or self.updated or self.removed)


@dataclass(frozen=True)
class State:
    """One committed state of the index."""

    generation: int
    segments: list[tuple[int, int, str]]  # number, count, codec
    views: ViewColumns | None  # where they were asked for


class Catalog:
    """One connection pool on catalog.sqlite; every method is one transaction."""

    def __init__(self, folder: Path, create: bool = False) -> None:
        """Raises StoreError when the catalogue is missing, is not one, or is of a newer format."""
        self._engine = open_database(folder, create)
        self.census = Census(folder, self._engine)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        # By a random amount: an older catalogue put back must not come to a number again that others know.
        more = "1 + (random() & 0x3fffffff)"
        bump = f"INSERT INTO state VALUES ('generation', {more}) ON CONFLICT (key) DO UPDATE SET value = value + {more}"
        with self._engine.begin() as connection:
            yield connection
            connection.execute(sa.text(bump))

    # -- roots

    def roots(self) -> dict[str, int]:
        """Absolute path -> id."""
        with self._engine.connect() as connection:
            return _root_ids(connection)

    def add_root(self, path: str) -> int:
        with self._engine.begin() as connection:
            found = connection.scalar(sa.select(_roots.c.id).where(_roots.c.path == path))
            if found is not None:
                return int(found)
            return int(connection.scalars(_roots.insert().values(path=path).returning(_roots.c.id)).one())

    def remove_root(self, path: str) -> None:
        """Drop a root that has no images left."""
        with self._write() as connection:
            connection.execute(_roots.delete().where(_roots.c.path == path))

    # -- images

    def known(self, root: int) -> dict[str, Known]:
        """Path relative to the root -> what is remembered of the file."""
        columns = (_images.c.path, _images.c.id, _images.c.size, _images.c.mtime_ns)
        with self._engine.connect() as connection:
            rows: Any = connection.execute(sa.select(*columns).where(_images.c.root == root)).cursor
            return {path: Known(number, size, mtime) for path, number, size, mtime in rows}

    def hashes(self) -> set[bytes]:
        """Content hashes that have views."""
        with self._engine.connect() as connection:
            query = sa.select(_contents.c.hash).where(_contents.c.id.in_(sa.select(_views.c.content)))
            rows: Any = connection.execute(query).cursor
            return {value for (value,) in rows}

    def image_hashes(self, images: Sequence[int]) -> dict[int, bytes]:
        """Image ids -> their content hashes."""
        result: dict[int, bytes] = {}
        query = sa.select(_images.c.id, _contents.c.hash).join(_contents, _contents.c.id == _images.c.content)
        with self._engine.connect() as connection:
            for some in _pieces(images):
                result |= {i: bytes(h) for i, h in connection.execute(query.where(_images.c.id.in_(some)))}
        return result

    def views_in(self, scope: Scope) -> NDArray[np.int64]:
        """Views of contents that some image in scope has, i64[n], ascending.

        Raises UsageError when the scope's folder holds no indexed photo at all.
        """
        with self._engine.connect() as connection:
            query = sa.select(_views.c.id).join(_images, _images.c.content == _views.c.content)
            query = query.where(*image_conditions(scope, _root_ids(connection)))
            if scope.sides is not None:
                query = query.where(_views.c.width >= scope.sides[0], _views.c.height >= scope.sides[1])
            rows: Any = connection.execute(query).cursor
            found = np.unique(np.fromiter(chain.from_iterable(rows), np.int64))  # a content may have several images
            if not len(found) and scope.under is not None:
                below = image_conditions(Scope(under=scope.under), _root_ids(connection))
                if connection.scalar(sa.select(_images.c.id).where(*below).limit(1)) is None:
                    raise UsageError(
                        f"{scope.under} holds no indexed photo - see flairsearch status for the folders of the index"
                    )
        return found

    def images_of(self, contents: Sequence[int], scope: Scope | None = None) -> dict[int, list[tuple[int, str]]]:
        """Content ids -> [(image id, absolute path)], by image id; only files in scope.

        Whether the picture itself is, `views_in` knows: its sides are those of all images of a content.
        """
        result: dict[int, list[tuple[int, str]]] = {}
        query = sa.select(_images.c.content, _images.c.id, _roots.c.path, _images.c.path)
        query = query.join(_roots, _roots.c.id == _images.c.root).order_by(_images.c.id)
        with self._engine.connect() as connection:
            if scope:
                query = query.where(*image_conditions(scope, _root_ids(connection)))
            for some in _pieces(contents):
                for content, image, root, path in connection.execute(query.where(_images.c.content.in_(some))):
                    result.setdefault(content, []).append((image, os.path.join(root, path)))
        return result

    def frames(self, views: Sequence[int]) -> dict[int, Frame]:
        """View ids -> frames."""
        v = _views.c
        query = sa.select(v.id, v.width, v.height, v.left, v.top, v.right, v.bottom)
        result: dict[int, Frame] = {}
        with self._engine.connect() as connection:
            for some in _pieces(views):
                result |= {row[0]: Frame(*row[1:]) for row in connection.execute(query.where(v.id.in_(some)))}
        return result

    def views_at(self, path: str) -> list[int]:
        """Views of the image at an absolute path; empty when it is not in the index."""
        with self._engine.connect() as connection:
            for root, number in self.roots().items():
                if path.startswith(root.rstrip("/") + "/"):
                    here = sa.and_(_images.c.root == number, _images.c.path == os.path.relpath(path, root))
                    query = sa.select(_views.c.id).join(_images, _images.c.content == _views.c.content).where(here)
                    found = list(connection.scalars(query.order_by(_views.c.id)))
                    if found:
                        return found
        return []

    def path_of(self, image: int) -> str | None:
        """The absolute path of an image; None where there is no such id."""
        found = sa.select(_roots.c.path, _images.c.path).join_from(_images, _roots).where(_images.c.id == image)
        with self._engine.connect() as connection:
            row = connection.execute(found).first()
        return None if row is None else f"{row[0].rstrip('/')}/{row[1]}"

    def dates_of(self, images: Sequence[int]) -> dict[int, datetime | None]:
        """Image ids -> when they were taken, as scopes count it."""
        query = sa.select(_images.c.id, _contents.c.taken, _images.c.mtime_ns).join_from(_images, _contents)
        with self._engine.connect() as connection:
            rows = chain(*(connection.execute(query.where(_images.c.id.in_(some))) for some in _pieces(images)))
            return {image: date_of(taken, saved) for image, taken, saved in rows}

    def images_below(self, path: str) -> list[int]:
        """Images whose absolute path is `path` or lies below it."""
        below = path.rstrip("/") + "/"
        query = sa.select(_images.c.id, _roots.c.path, _images.c.path).join(_roots, _roots.c.id == _images.c.root)
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
        return [i for i, root, relative in rows if f"{root.rstrip('/')}/{relative}/".startswith(below)]

    # -- whole states

    def state(self, with_views: bool = True) -> State:
        """Generation, segments and live views, all of one moment."""
        with self._engine.connect() as connection:
            segments = connection.execute(sa.select(_segments.c.id, _segments.c.count, _segments.c.codec)).all()
            generation = connection.scalar(sa.select(_state.c.value).where(_state.c.key == "generation")) or 0
            views = _live_views(connection) if with_views else None
        return State(int(generation), [(i, n, codec) for i, n, codec in segments], views)

    def segments(self) -> list[tuple[int, int, str]]:
        """Number, count and codec of every segment."""
        return self.state(with_views=False).segments

    def generation(self) -> int:
        with self._engine.connect() as connection:
            return int(connection.scalar(sa.select(_state.c.value).where(_state.c.key == "generation")) or 0)

    def last_segment(self) -> int:
        """The largest segment number ever committed; numbers are not used twice."""
        with self._engine.connect() as connection:
            found = connection.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = 'segments'").scalar()
            return int(found or 0)

    def counts(self) -> tuple[int, int]:
        """Images, and views that belong to one."""
        with self._engine.connect() as connection:
            images = connection.scalar(sa.select(sa.func.count()).select_from(_images)) or 0
            views = connection.scalar(sa.select(sa.func.count()).select_from(_views).where(_LIVE)) or 0
        return int(images), int(views)

    # -- rewriting

    def checksums(self, views: Sequence[int]) -> dict[int, int]:
        """View ids -> CRC-32 of their bytes."""
        result: dict[int, int] = {}
        query = sa.select(_views.c.id, _views.c.checksum)
        with self._engine.connect() as connection:
            for some in _pieces(views):
                result |= {view: checksum for view, checksum in connection.execute(query.where(_views.c.id.in_(some)))}  # noqa: C416
        return result

    def content_hashes(self, contents: Sequence[int]) -> dict[int, bytes]:
        result: dict[int, bytes] = {}
        with self._engine.connect() as connection:
            for some in _pieces(contents):
                query = sa.select(_contents.c.id, _contents.c.hash).where(_contents.c.id.in_(some))
                result |= {i: bytes(h) for i, h in connection.execute(query)}
        return result

    def segment_views(self, segment: int) -> SegmentViews:
        """All views of a segment, by row; those of images that are gone too."""
        v = _views.c
        query = sa.select(v.id, v.row, v.checksum, _LIVE.label("live")).where(v.segment == segment).order_by(v.row)
        with self._engine.connect() as connection:
            rows = np.array(connection.execute(query).all(), np.int64).reshape(-1, 4)
        return SegmentViews(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3].astype(bool))

    def rewrite(self, segment: tuple[int, int, str] | None, places: Sequence[Place], emptied: Sequence[int]) -> None:
        """Views move to a new segment, and emptied segments leave with the views that nobody has; one transaction.

        Those views' contents lose all their views, in other segments too: none comes back with a part of them.
        """
        with self._write() as connection:
            if segment:
                number, count, codec = segment
                connection.execute(_segments.insert().values(id=number, count=count, codec=codec))
                move = (
                    _views.update()
                    .where(_views.c.id == sa.bindparam("view"))
                    .values(segment=number, row=sa.bindparam("place"), checksum=sa.bindparam("sum"))
                )
                rows = [{"view": p.view, "place": p.row, "sum": p.checksum} for p in places]
                connection.execute(move, rows)
            for number in emptied:
                gone = sa.select(_views.c.content).where(_views.c.segment == number)
                connection.execute(_views.delete().where(_views.c.content.in_(gone)))
                connection.execute(_segments.delete().where(_segments.c.id == number))

    def move_root(self, old: str, new: str) -> None:
        """The same folder is somewhere else now. Raises StoreError when `old` is not known or `new` is."""
        roots = self.roots()
        if old not in roots:
            raise StoreError(f"{old} is no folder of this index - see flairsearch status for its folders")
        if new in roots:
            raise StoreError(f"{new} is a folder of this index already - forget one of the two")
        with self._write() as connection:
            connection.execute(_roots.update().where(_roots.c.id == roots[old]).values(path=new))

    # -- commits

    def commit(self, change: Changeset) -> None:
        """Apply a whole changeset in one transaction; its segment files must be durable already."""
        roots = self.roots()
        with self._write() as connection:
            if change.segment:
                number, count, codec = change.segment
                connection.execute(_segments.insert().values(id=number, count=count, codec=codec))
            hashes = {h for _, h in change.added} | {h for _, _, h in change.updated} | {v.hash for v in change.views}
            contents = _content_ids(connection, hashes, {v.hash: v.taken for v in change.views if v.taken is not None})
            if change.views:
                assert change.segment
                connection.execute(
                    _views.insert(), [_view_row(view, contents, change.segment[0]) for view in change.views]
                )
            if change.removed:
                for some in _pieces(change.removed):
                    connection.execute(_images.delete().where(_images.c.id.in_(some)))
            for image, file, digest in change.updated:
                values = _image_row(file, contents[digest], roots)
                connection.execute(_images.update().where(_images.c.id == image).values(**values))
            if change.added:
                rows = [_image_row(file, contents[digest], roots) for file, digest in change.added]
                connection.execute(_images.insert(), rows)


def _live_views(connection: sa.Connection) -> ViewColumns:
    """One number after the other into one array: a million views as rows of Python's would take 300 MB."""
    v = _views.c
    rows: Any = connection.execute(sa.select(v.id, v.content, v.segment, v.row).order_by(v.id)).cursor
    numbers = np.fromiter(chain.from_iterable(rows), np.int64).reshape(-1, 4)
    dead = np.fromiter(connection.scalars(sa.select(v.id).where(~_LIVE)), np.int64)
    return ViewColumns(*np.ascontiguousarray(numbers[~np.isin(numbers[:, 0], dead)].T))


def _root_ids(connection: sa.Connection) -> dict[str, int]:
    return {path: number for number, path in connection.execute(sa.select(_roots.c.id, _roots.c.path))}


def _content_ids(connection: sa.Connection, hashes: set[bytes], taken: dict[bytes, int]) -> dict[bytes, int]:
    """Ids of contents, new ones made; and the dates of those that were decoded just now."""
    query = sa.select(_contents.c.hash, _contents.c.id)
    found: dict[bytes, int] = {}
    for some in _pieces(sorted(hashes)):
        found |= {bytes(h): i for h, i in connection.execute(query.where(_contents.c.hash.in_(some)))}
    fresh = sorted(hashes - found.keys())
    if fresh:
        connection.execute(_contents.insert(), [{"hash": h, "taken": taken.get(h)} for h in fresh])
        for some in _pieces(fresh):
            found |= {bytes(h): i for h, i in connection.execute(query.where(_contents.c.hash.in_(some)))}
    back = [{"number": found[h], "date": taken[h]} for h in taken.keys() - set(fresh)]
    if back:  # contents whose views had gone: an older flairsearch did not look for a date
        date = _contents.update().where(_contents.c.id == sa.bindparam("number")).values(taken=sa.bindparam("date"))
        connection.execute(date, back)
    return found


def _view_row(view: NewView, contents: dict[bytes, int], segment: int) -> dict[str, object]:
    place = {"content": contents[view.hash], "segment": segment, "row": view.row, "checksum": view.checksum}
    return {**place, **asdict(view.frame)}


def _image_row(file: ImageFile, content: int, roots: dict[str, int]) -> dict[str, object]:
    stat = {"size": file.size, "mtime_ns": file.mtime_ns}
    return {"root": roots[file.root], "path": file.path, "content": content} | stat


def _pieces(values: Sequence[_T], size: int = 500) -> Iterator[Sequence[_T]]:
    """SQLite takes a bounded number of parameters in one statement."""
    for start in range(0, len(values), size):
        yield values[start : start + size]
