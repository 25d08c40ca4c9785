"""How much is written at once, and when segments are written anew: arguments, which tests make small."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StoreLimits:
    """Of the store's one writer."""

    piece_views: int = 256  # Compaction and verification read no more views at once.
    segment_views: int = 131072  # Compaction makes no larger segment.
    levels: tuple[int, ...] = (8192, 65536)  # These sizes, in views, divide segments into size classes.
    merge_segments: int = 8  # This many segments of one size class become one segment.
    dead_share: float = 0.2  # Compaction rewrites a segment with a larger share of rows that no image needs.
    basis_views: int = 256  # An index of this many views is large enough to fit a basis to.

    def level(self, views: int) -> int:
        """The size class of a segment: 0 for the small segments of single commits."""
        return sum(views >= bound for bound in self.levels)


@dataclass(frozen=True)
class IngestLimits:
    """Of an indexing run."""

    batch: int = 32  # A step of the model takes no more views, of no more photos.
    commit_views: int = 2048  # A commit follows after this many views at the latest: a power cut loses no more.
    commit_seconds: float = 60.0  # A commit follows after this many seconds at the latest.


STORE_LIMITS = StoreLimits()
INGEST_LIMITS = IngestLimits()


@dataclass(frozen=True)
class WriteLimits:
    """Of everything that writes."""

    store: StoreLimits = STORE_LIMITS
    ingest: IngestLimits = INGEST_LIMITS


WRITE_LIMITS = WriteLimits()
