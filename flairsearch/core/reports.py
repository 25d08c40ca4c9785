"""What an indexing run says of itself, and what an index holds."""

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
    """What the last indexing run did, in files."""

    finished: float  # seconds since 1970, UTC
    seconds: float  # it took
    added: int
    updated: int
    moved: int
    removed: int
    unchanged: int
    skipped: int
    videos: int  # passed over


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
    bytes: int  # on disk
    skipped: tuple[Skipped, ...]
    photos: dict[str, int] = field(default_factory=dict)  # images of each root
    sizes: dict[str, int] = field(default_factory=dict)  # what the bytes are for: store/statistics.PARTS
    last_run: IndexRun | None = None  # None: nobody wrote it down


@dataclass(frozen=True)
class IndexReport:
    """What one indexing run did, in files."""

    added: int = 0
    updated: int = 0
    moved: int = 0
    removed: int = 0
    unchanged: int = 0
    skipped: tuple[Skipped, ...] = ()
    warnings: tuple[str, ...] = ()
    videos: int = 0  # passed over

    @property
    def changed(self) -> int:
        """Files whose entry in the index is new, different or gone."""
        return self.added + self.updated + self.moved + self.removed

    @property
    def indexed(self) -> int:
        """Files that were found and could be used, those that are gone included."""
        return self.changed + self.unchanged
