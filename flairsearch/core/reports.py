"""What an indexing run did, and what an index holds."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Skipped:
    """A file or folder that was left out, and why, in one line."""

    path: str
    reason: str


@dataclass(frozen=True)
class Progress:
    """How far an indexing run has come, in files that had to be read."""

    done: int
    total: int
    skipped: int


@dataclass(frozen=True)
class IndexRun:
    """What the last indexing run did; counts are of files."""

    finished: float  # Seconds since 1970, UTC.
    seconds: float  # How long the run took.
    added: int
    updated: int
    moved: int
    removed: int
    unchanged: int
    skipped: int
    videos: int  # Videos that were left out.


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
    bytes: int  # On disk.
    skipped: tuple[Skipped, ...]
    photos: dict[str, int] = field(default_factory=dict)  # Images of each root.
    sizes: dict[str, int] = field(default_factory=dict)  # Bytes of each of store/statistics.PARTS.
    last_run: IndexRun | None = None  # None: no run was recorded.


@dataclass(frozen=True)
class IndexReport:
    """What one indexing run did; counts are of files."""

    added: int = 0
    updated: int = 0
    moved: int = 0
    removed: int = 0
    unchanged: int = 0
    skipped: tuple[Skipped, ...] = ()
    warnings: tuple[str, ...] = ()
    videos: int = 0  # Videos that were left out.

    @property
    def changed(self) -> int:
        """Files whose entry in the index is new, different or gone."""
        return self.added + self.updated + self.moved + self.removed

    @property
    def indexed(self) -> int:
        """Files that were found and could be used, those that are gone included."""
        return self.changed + self.unchanged
