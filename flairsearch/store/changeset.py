"""What one commit changes in the catalogue, and how it is written there; both functions belong in a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field

from flairsearch.core.types import Frame, ImageFile
from flairsearch.store.database import marks, select_in

_FRAME = 'width, height, "left", top, "right", bottom'  # The columns of a Frame.


@dataclass(frozen=True)
class NewView:
    """A view written to the segment of this commit."""

    hash: bytes  # Of the view's content.
    row: int
    checksum: int
    frame: Frame
    taken: int | None = None  # The photo's date: core/dates.clock_seconds.


@dataclass(frozen=True)
class Place:
    """Where a view is written anew."""

    view: int
    row: int
    checksum: int


@dataclass
class Changeset:
    """Everything that one commit changes."""

    segment: tuple[int, int, str] | None = None  # Number, count of views, codec.
    views: list[NewView] = field(default_factory=list)
    added: list[tuple[ImageFile, bytes]] = field(default_factory=list)
    updated: list[tuple[int, ImageFile, bytes]] = field(
        default_factory=list
    )  # Image id, the file as it is now, content hash.
    removed: list[int] = field(default_factory=list)  # Image ids.

    def __bool__(self) -> bool:
        return bool(self.segment or self.views or self.added or self.updated or self.removed)


def apply(connection: sqlite3.Connection, change: Changeset, roots: Mapping[str, int]) -> None:
    """A whole changeset; roots: absolute path -> id."""
    if change.segment:
        connection.execute("INSERT INTO segments (id, count, codec) VALUES (?, ?, ?)", change.segment)
    hashes = {h for _, h in change.added} | {h for _, _, h in change.updated} | {v.hash for v in change.views}
    contents = _content_ids(connection, hashes, {v.hash: v.taken for v in change.views if v.taken is not None})
    if change.views:
        assert change.segment
        rows = [_view_row(view, contents, change.segment[0]) for view in change.views]
        connection.executemany(
            f'INSERT INTO views (content, segment, "row", checksum, {_FRAME}) VALUES ({marks(10)})', rows
        )
    connection.executemany("DELETE FROM images WHERE id = ?", [(image,) for image in change.removed])
    updated = [(*_image_row(file, contents[digest], roots), image) for image, file, digest in change.updated]
    connection.executemany(
        "UPDATE images SET root = ?, path = ?, size = ?, mtime_ns = ?, content = ? WHERE id = ?", updated
    )
    added = [_image_row(file, contents[digest], roots) for file, digest in change.added]
    connection.executemany(f"INSERT INTO images (root, path, size, mtime_ns, content) VALUES ({marks(5)})", added)


def move_views(
    connection: sqlite3.Connection,
    segment: tuple[int, int, str] | None,
    places: Sequence[Place],
    emptied: Sequence[int],
) -> None:
    """Views move to a new segment, and emptied segments leave with the views that nobody has."""
    if segment:
        connection.execute("INSERT INTO segments (id, count, codec) VALUES (?, ?, ?)", segment)
        move = 'UPDATE views SET segment = ?, "row" = ?, checksum = ? WHERE id = ?'
        connection.executemany(move, [(segment[0], p.row, p.checksum, p.view) for p in places])
    for number in emptied:
        gone = "DELETE FROM views WHERE content IN (SELECT content FROM views WHERE segment = ?)"
        connection.execute(gone, (number,))
        connection.execute("DELETE FROM segments WHERE id = ?", (number,))


def _content_ids(connection: sqlite3.Connection, hashes: set[bytes], taken: dict[bytes, int]) -> dict[bytes, int]:
    """Ids of contents, new ones made; and the dates of those that were decoded just now."""
    query = "SELECT hash, id FROM contents WHERE hash IN"
    found: dict[bytes, int] = dict(select_in(connection, query, sorted(hashes)))
    fresh = sorted(hashes - found.keys())
    connection.executemany("INSERT INTO contents (hash, taken) VALUES (?, ?)", [(h, taken.get(h)) for h in fresh])
    found |= dict(select_in(connection, query, fresh))
    # Contents whose views had gone: an older flairsearch did not look for a date.
    back = [(taken[h], found[h]) for h in taken.keys() - set(fresh)]
    connection.executemany("UPDATE contents SET taken = ? WHERE id = ?", back)
    return found


def _view_row(view: NewView, contents: dict[bytes, int], segment: int) -> tuple[float, ...]:
    return contents[view.hash], segment, view.row, view.checksum, *astuple(view.frame)


def _image_row(file: ImageFile, content: int, roots: Mapping[str, int]) -> tuple[int | str, ...]:
    return roots[file.root], file.path, file.size, file.mtime_ns, content
