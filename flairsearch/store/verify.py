"""Every stored byte compared with the checksums that were written with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.arrays import chunks
from flairsearch.core.errors import StoreError
from flairsearch.core.limits import STORE_LIMITS, StoreLimits
from flairsearch.store.catalog import Catalog
from flairsearch.store.snapshot import Snapshot


def verify(
    reader: Snapshot, catalog: Catalog, limits: StoreLimits = STORE_LIMITS
) -> Iterator[tuple[int, int, list[Damage]]]:
    """Compare every byte with the checksums: yields (views done, views in all, what is damaged among them)."""
    total = len(reader) + len(reader.unreadable_views.id)
    done = len(reader.unreadable_views.id)
    yield done, total, _name(catalog, reader.unreadable_views.id, reader.unreadable_views.content)
    for views in chunks(reader.views.id, limits.read_views):
        sums = catalog.checksums(views.tolist())
        if catalog.generation() != reader.generation:
            raise StoreError("another process has written the index meanwhile - run flairsearch verify again")
        bad = views[reader.damaged(views, np.array([sums[view] for view in views.tolist()], np.int64))]
        done += len(views)
        yield done, total, _name(catalog, bad, reader.contents(bad))


def _name(catalog: Catalog, views: NDArray[np.int64], contents: NDArray[np.int64]) -> list[Damage]:
    """Damaged views with the photos that need them."""
    paths = catalog.images_of(np.unique(contents).tolist())
    found: Sequence[tuple[int, int]] = list(zip(views.tolist(), contents.tolist(), strict=True))
    return [Damage(view, content, tuple(path for _, path in paths.get(content, []))) for view, content in found]


@dataclass(frozen=True)
class Damage:
    """A view whose bytes are not those that were written."""

    view: int  # id
    content: int  # id
    paths: tuple[str, ...]  # of the photos that need it, absolute
