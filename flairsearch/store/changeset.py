"""Changeset: what one commit changes in the catalogue. Call `apply` and `move_views` within a transaction."""

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

    hash: bytes  # The hash of the view's content.
    row: int  # The row in the segment.
    checksum: int  # The CRC-32 of the view's bytes.
    frame: Frame
    taken: int | None = None  # The photo's date as core/dates.clock_seconds.


@dataclass(frozen=True)
class Place:
    """The new place of a view in a segment."""

    view: int  # The id of the view.
    row: int  # The row in the segment.
    checksum: int  # The CRC-32 of the view's new bytes.


@dataclass
class Changeset:
    """Everything that one commit changes."""

    segment: tuple[int, int, str] | None = None  # Number, count of views and codec of the new segment.
    views: list[NewView] = field(default_factory=list)
    added: list[tuple[ImageFile, bytes]] = field(default_factory=list)  # File and content hash of each new image.
    updated: list[tuple[int, ImageFile, bytes]] = field(default_factory=list)
    """Id, new file and content hash of each changed image."""
    removed: list[int] = field(default_factory=list)  # The ids of removed images.

    def __bool__(self) -> bool:
        return bool(self.segment or self.views or self.added or self.updated or self.removed)


def apply(connection: sqlite3.Connection, change: Changeset, roots: Mapping[str, int]) -> None:
    """Apply a changeset. roots: the ids of the roots by absolute path."""
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
    """Move views to a new segment, and remove emptied segments; see store/catalog.Catalog.rewrite."""
    if segment:
        connection.execute("INSERT INTO segments (id, count, codec) VALUES (?, ?, ?)", segment)
        move = 'UPDATE views SET segment = ?, "row" = ?, checksum = ? WHERE id = ?'
        connection.executemany(move, [(segment[0], p.row, p.checksum, p.view) for p in places])
    for number in emptied:
        delete = "DELETE FROM views WHERE content IN (SELECT content FROM views WHERE segment = ?)"
        connection.execute(delete, (number,))
        connection.execute("DELETE FROM segments WHERE id = ?", (number,))


def _content_ids(connection: sqlite3.Connection, hashes: set[bytes], taken: dict[bytes, int]) -> dict[bytes, int]:
    """Return the ids of contents, by hash; add new contents, and store the dates of photos that were just decoded."""
    query = "SELECT hash, id FROM contents WHERE hash IN"
    ids: dict[bytes, int] = dict(select_in(connection, query, sorted(hashes)))
    new = sorted(hashes - ids.keys())
    connection.executemany("INSERT INTO contents (hash, taken) VALUES (?, ?)", [(h, taken.get(h)) for h in new])
    ids |= dict(select_in(connection, query, new))
    # A known content whose views are encoded again may have no date yet: older versions did not read it.
    dated = [(taken[h], ids[h]) for h in taken.keys() - set(new)]
    connection.executemany("UPDATE contents SET taken = ? WHERE id = ?", dated)
    return ids


def _view_row(view: NewView, contents: dict[bytes, int], segment: int) -> tuple[float, ...]:
    return contents[view.hash], segment, view.row, view.checksum, *astuple(view.frame)


def _image_row(file: ImageFile, content: int, roots: Mapping[str, int]) -> tuple[int | str, ...]:
    return roots[file.root], file.path, file.size, file.mtime_ns, content
