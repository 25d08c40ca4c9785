"""Records of what an indexing run did, and of what an index holds."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Skipped:
    """A file or folder that was skipped, and the reason in one line."""

    path: str
    reason: str


@dataclass(frozen=True)
class Progress:
    """How far an indexing run has come; counts are of files that must be read."""

    done: int
    total: int
    skipped: int


@dataclass(frozen=True)
class IndexRun:
    """The record of an indexing run that the index keeps; counts are of files."""

    finished: float  # Seconds since 1970, UTC.
    seconds: float  # How long the run took.
    added: int
    updated: int
    moved: int
    removed: int
    unchanged: int
    skipped: int
    videos: int  # Videos that were found and ignored.


@dataclass(frozen=True)
class Status:
    """What an index holds."""

    folder: str
    model: str
    weights_hash: str
    views_policy: str
    codec: str
    roots: tuple[str, ...]
    images: int
    views: int
    bytes: int  # The size of the index on disk.
    skipped: tuple[Skipped, ...]
    photos: dict[str, int] = field(default_factory=dict)  # The number of images of each root.
    sizes: dict[str, int] = field(default_factory=dict)  # The bytes of each of store/statistics.PARTS.
    last_run: IndexRun | None = None  # The last indexing run; None if none was recorded.


@dataclass(frozen=True)
class IndexReport:
    """The report of one indexing run for its caller; counts are of files."""

    added: int = 0
    updated: int = 0
    moved: int = 0
    removed: int = 0
    unchanged: int = 0
    skipped: tuple[Skipped, ...] = ()
    warnings: tuple[str, ...] = ()
    videos: int = 0  # Videos that were found and ignored.

    @property
    def changed(self) -> int:
        """The number of files whose entry in the index is new, changed or removed."""
        return self.added + self.updated + self.moved + self.removed

    @property
    def indexed(self) -> int:
        """The number of files that the run did not skip, including removed ones."""
        return self.changed + self.unchanged
