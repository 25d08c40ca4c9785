"""Verification of every stored byte against the checksums in the catalogue."""

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
    snapshot: Snapshot, catalog: Catalog, limits: StoreLimits = STORE_LIMITS
) -> Iterator[tuple[int, int, list[Damage]]]:
    """Compare every byte with the checksums; yield (views done, views in all, newly found damage).

    Raises StoreError when another process writes the index meanwhile.
    """
    total = len(snapshot) + len(snapshot.unreadable_views.id)
    done = len(snapshot.unreadable_views.id)
    yield done, total, _describe(catalog, snapshot.unreadable_views.id, snapshot.unreadable_views.content)
    for views in chunks(snapshot.views.id, limits.read_views):
        sums = catalog.checksums(views.tolist())
        if catalog.generation() != snapshot.generation:
            raise StoreError("another process has written the index meanwhile - run flairsearch verify again")
        damaged = views[snapshot.damaged(views, np.array([sums[view] for view in views.tolist()], np.int64))]
        done += len(views)
        yield done, total, _describe(catalog, damaged, snapshot.contents(damaged))


def _describe(catalog: Catalog, views: NDArray[np.int64], contents: NDArray[np.int64]) -> list[Damage]:
    """Return the damage of views i64[K] with contents i64[K], with the paths of the photos that show them."""
    paths = catalog.images_of(np.unique(contents).tolist())
    pairs: Sequence[tuple[int, int]] = list(zip(views.tolist(), contents.tolist(), strict=True))
    return [Damage(view, content, tuple(path for _, path in paths.get(content, []))) for view, content in pairs]


@dataclass(frozen=True)
class Damage:
    """A view whose bytes do not match their checksum."""

    view: int  # The id of the view.
    content: int  # The id of the view's content.
    paths: tuple[str, ...]  # Absolute paths of the photos with this content.
