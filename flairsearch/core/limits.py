"""Sizes of batches, commits and segments. They are arguments, so that tests can use small ones."""

from __future__ import annotations

from dataclasses import dataclass

MAX_INTEGER = 2**63 - 1  # The largest integer that SQLite stores, and so the largest id.


@dataclass(frozen=True)
class StoreLimits:
    """Limits of the store's writer."""

    read_views: int = 256  # Compaction and verification read at most this many views at once.
    max_segment_views: int = 131072  # Compaction never writes a larger segment.
    size_tiers: tuple[int, ...] = (8192, 65536)  # Upper sizes of tiers 0 and 1 in views; commits write tier 0.
    merge_fan_in: int = 8  # This many segments of one tier are merged into one.
    max_dead_fraction: float = 0.2  # Compaction rewrites a segment if a larger fraction of its rows is unused.
    min_basis_views: int = 256  # A basis is fitted once the index has this many views.

    def size_tier(self, views: int) -> int:
        """Return the tier of a segment of `views` views, from 0 for the smallest."""
        return sum(views >= bound for bound in self.size_tiers)


@dataclass(frozen=True)
class IngestLimits:
    """Limits of an indexing run."""

    batch_views: int = 32  # The model encodes at most this many views, of at most as many photos, at once.
    commit_views: int = 2048  # A commit follows after at most this many views; a power cut loses no more.
    commit_seconds: float = 60.0  # A commit follows after at most this many seconds.


STORE_LIMITS = StoreLimits()
INGEST_LIMITS = IngestLimits()


@dataclass(frozen=True)
class WriteLimits:
    """All limits of writing."""

    store: StoreLimits = STORE_LIMITS
    ingest: IngestLimits = INGEST_LIMITS


WRITE_LIMITS = WriteLimits()
