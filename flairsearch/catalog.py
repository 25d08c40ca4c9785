"""catalog.sqlite: roots, images, contents, views, segments (SQLAlchemy Core). What it lists is what exists."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from flairsearch.errors import StoreError
from flairsearch.records import Frame, ImageFile, Known, Skipped
from flairsearch.schema import LIVE as _LIVE
from flairsearch.schema import contents as _contents
from flairsearch.schema import images as _images
from flairsearch.schema import meta as _meta
from flairsearch.schema import roots as _roots
from flairsearch.schema import segments as _segments
from flairsearch.schema import skipped as _skipped
from flairsearch.schema import state as _state
from flairsearch.schema import views as _views

_T = TypeVar("_T")


@dataclass(frozen=True)
class NewView:
    """A view written to the segment of this commit."""

    hash: bytes  # of its content
    row: int
    checksum: int
    frame: Frame


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
class ViewColumns:
    """The views of all images that exist, in the order of their ids."""

    id: NDArray[np.int64]
    content: NDArray[np.int64]
    segment: NDArray[np.int64]
    row: NDArray[np.int64]

    def only(self, chosen: NDArray[np.bool_]) -> ViewColumns:
        return ViewColumns(self.id[chosen], self.content[chosen], self.segment[chosen], self.row[chosen])


@dataclass(frozen=True)
class State:
    """One committed state of the index."""

    generation: int
    segments: list[tuple[int, int, str]]  # number, count, codec
    views: ViewColumns


class Catalog:
    """One connection pool on catalog.sqlite; every method is one transaction."""

    def __init__(self, folder: Path, create: bool = False) -> None:
        """Raises StoreError when the catalogue is missing or is not one."""
        path = folder / "catalog.sqlite"
        if not create and not path.is_file():
            raise StoreError(f"{path} is missing - run flairsearch index --rebuild FOLDER")
        writable = os.access(folder, os.W_OK) and (create or os.access(path, os.W_OK))
        # An index on read-only media has no room for SQLite's shared memory: nobody can write there, so read it as is;
        # where that memory is there already, somebody with other rights writes now.
        shared = path.with_name(f"{path.name}-shm").exists()
        mode = "rwc" if create else "rw" if writable else "ro" if shared else "ro&immutable=1"
        url = sa.URL.create("sqlite", database=f"file:{_quote(path)}?mode={mode}", query={"uri": "true"})
        self._engine = sa.create_engine(url, connect_args={"timeout": 30})
        sa.event.listen(self._engine, "connect", _configure if writable else _begin_ourselves)
        sa.event.listen(self._engine, "begin", _begin)
        sa.event.listen(self._engine, "handle_error", _one_line(path))
        if create:
            _meta.create_all(self._engine)
        self.generation()

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        bump = "INSERT INTO state VALUES ('generation', 1) ON CONFLICT (key) DO UPDATE SET value = value + 1"
        with self._engine.begin() as connection:
            yield connection
            connection.execute(sa.text(bump))

    # -- roots

    def roots(self) -> dict[str, int]:
        """Absolute path -> id."""
        with self._engine.connect() as connection:
            return {path: number for number, path in connection.execute(sa.select(_roots.c.id, _roots.c.path))}

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
            rows = connection.execute(sa.select(*columns).where(_images.c.root == root))
            return {path: Known(number, size, mtime) for path, number, size, mtime in rows}

    def hashes(self) -> set[bytes]:
        """Content hashes that have views."""
        with self._engine.connect() as connection:
            rows = connection.execute(
                sa.select(_contents.c.hash).where(_contents.c.id.in_(sa.select(_views.c.content)))
            )
            return {bytes(value) for (value,) in rows}

    def image_hashes(self, images: Sequence[int]) -> dict[int, bytes]:
        """Image ids -> their content hashes."""
        result: dict[int, bytes] = {}
        query = sa.select(_images.c.id, _contents.c.hash).join(_contents, _contents.c.id == _images.c.content)
        with self._engine.connect() as connection:
            for some in _pieces(images):
                result |= {i: bytes(h) for i, h in connection.execute(query.where(_images.c.id.in_(some)))}
        return result

    def images_of(self, contents: Sequence[int]) -> dict[int, list[tuple[int, str]]]:
        """Content ids -> [(image id, absolute path)], by image id."""
        result: dict[int, list[tuple[int, str]]] = {}
        query = sa.select(_images.c.content, _images.c.id, _roots.c.path, _images.c.path)
        query = query.join(_roots, _roots.c.id == _images.c.root).order_by(_images.c.id)
        with self._engine.connect() as connection:
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

    def images_below(self, path: str) -> list[int]:
        """Images whose absolute path is `path` or lies below it."""
        below = path.rstrip("/") + "/"
        query = sa.select(_images.c.id, _roots.c.path, _images.c.path).join(_roots, _roots.c.id == _images.c.root)
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
        return [i for i, root, relative in rows if f"{root.rstrip('/')}/{relative}/".startswith(below)]

    # -- whole states

    def state(self) -> State:
        """Generation, segments and live views, all of one moment."""
        v = _views.c
        query = sa.select(v.id, v.content, v.segment, v.row).where(_LIVE).order_by(v.id)
        with self._engine.connect() as connection:
            rows = np.array(connection.execute(query).all(), np.int64).reshape(-1, 4)
            segments = connection.execute(sa.select(_segments.c.id, _segments.c.count, _segments.c.codec)).all()
            generation = connection.scalar(sa.select(_state.c.value).where(_state.c.key == "generation")) or 0
        return State(int(generation), [(i, n, codec) for i, n, codec in segments], ViewColumns(*rows.T.copy()))

    def generation(self) -> int:
        with self._engine.connect() as connection:
            return int(connection.scalar(sa.select(_state.c.value).where(_state.c.key == "generation")) or 0)

    def last_segment(self) -> int:
        """The largest segment number ever committed; numbers are not used twice."""
        with self._engine.connect() as connection:
            found = connection.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = 'segments'").scalar()
            return int(found or 0)

    def segment_numbers(self) -> set[int]:
        with self._engine.connect() as connection:
            return set(connection.scalars(sa.select(_segments.c.id)))

    def skipped(self) -> list[Skipped]:
        with self._engine.connect() as connection:
            return [Skipped(*row) for row in connection.execute(sa.select(_skipped.c.path, _skipped.c.reason))]

    def counts(self) -> tuple[int, int]:
        """Images, and views that belong to one."""
        with self._engine.connect() as connection:
            images = connection.scalar(sa.select(sa.func.count()).select_from(_images)) or 0
            views = connection.scalar(sa.select(sa.func.count()).select_from(_views).where(_LIVE)) or 0
        return int(images), int(views)

    # -- rewriting

    def checksums(self) -> dict[int, int]:
        """View id -> CRC-32 of its bytes."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(_views.c.id, _views.c.checksum))
            return {view: checksum for view, checksum in rows}  # noqa: C416 - rows are no pairs to the type checker

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
        """Views move to a new segment, and emptied segments leave with the views that nobody has; one transaction."""
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
                connection.execute(_views.delete().where(_views.c.segment == number))
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
            contents = _content_ids(connection, hashes)
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

    def replace_skipped(self, skipped: Sequence[Skipped]) -> None:
        """Remember what the last run left out."""
        with self._engine.begin() as connection:
            connection.execute(_skipped.delete())
            if skipped:
                connection.execute(_skipped.insert(), [{"path": s.path, "reason": s.reason} for s in skipped])


def _begin_ourselves(connection: Any, _record: object) -> None:
    """Python's driver would begin a transaction at the first change only: several reads would be several moments."""
    connection.isolation_level = None


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _one_line(path: Path) -> Callable[[sa.ExceptionContext], None]:
    """What SQLite complains of, anywhere, becomes one line."""

    def replace(context: sa.ExceptionContext) -> None:
        error = context.original_exception
        if isinstance(error, sqlite3.OperationalError):
            raise StoreError(f"{path} cannot be read or written ({error}) - check disk and permissions") from None
        if isinstance(error, sqlite3.DatabaseError):
            raise StoreError(f"{path} is damaged ({error}) - run flairsearch index --rebuild FOLDER") from None

    return replace


def _configure(connection: Any, record: object) -> None:
    """WAL: readers see whole states while one writes. FULL: a commit survives a power cut."""
    _begin_ourselves(connection, record)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _content_ids(connection: sa.Connection, hashes: set[bytes]) -> dict[bytes, int]:
    query = sa.select(_contents.c.hash, _contents.c.id)
    found: dict[bytes, int] = {}
    for some in _pieces(sorted(hashes)):
        found |= {bytes(h): i for h, i in connection.execute(query.where(_contents.c.hash.in_(some)))}
    fresh = sorted(hashes - found.keys())
    if fresh:
        connection.execute(_contents.insert(), [{"hash": h} for h in fresh])
        for some in _pieces(fresh):
            found |= {bytes(h): i for h, i in connection.execute(query.where(_contents.c.hash.in_(some)))}
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


def _quote(path: Path) -> str:
    """A path inside an SQLite URI."""
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
