"""Put together the status of an index from its catalogue, its files and its settings."""

from __future__ import annotations

from pathlib import Path

from flairsearch.core.reports import Status
from flairsearch.core.settings import IndexSettings
from flairsearch.store.catalog import Catalog


def status_of(folder: Path, settings: IndexSettings, catalog: Catalog) -> Status:
    """Return the status of an index."""
    images, views = catalog.counts()
    statistics = catalog.statistics
    photos, sizes = statistics.photos(), statistics.sizes()
    return Status(
        folder=str(folder),
        model=settings.model,
        weights_hash=settings.weights_hash,
        views_policy=settings.views,
        codec=settings.codec,
        roots=tuple(sorted(photos)),
        images=images,
        views=views,
        bytes=sum(sizes.values()),
        skipped=tuple(statistics.skipped()),
        photos=photos,
        sizes=sizes,
        last_run=statistics.last_run(),
    )
