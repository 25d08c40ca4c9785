"""Indexes of random vectors: a view is as the number says that it stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from flairsearch.core.limits import STORE_LIMITS, StoreLimits
from flairsearch.core.types import EncodedViews, Frame, ImageFile
from flairsearch.shortlist.shortlist import Shortlist, make_derived_files
from flairsearch.store.catalog import Catalog
from flairsearch.store.snapshot import Snapshot
from flairsearch.store.writer import Writer
from tests.support.fake import DIM, PATCHES, fake_settings

SETTINGS = fake_settings()
FRAME = Frame(10, 10, 0.0, 0.0, 10.0, 10.0)


def digest(number: int) -> bytes:
    """The digest of a file that a number stands for."""
    return number.to_bytes(16, "big")


def encoded(numbers: Iterable[int]) -> EncodedViews:
    """Random vectors, those that each number stands for."""
    shapes = ((DIM,), (PATCHES, DIM), (PATCHES,), (PATCHES,))
    rngs = [np.random.default_rng(number) for number in numbers]
    return EncodedViews(*(np.stack([rng.normal(size=shape) for rng in rngs]).astype(np.float16) for shape in shapes))


def add(writer: Writer, numbers: Sequence[int], root: str = "/photos") -> None:
    """One view and one image of each number, not committed."""
    writer.catalog.add_root(root)
    writer.add_views([digest(n) for n in numbers], [FRAME] * len(numbers), encoded(numbers))
    for number in numbers:
        writer.add_image(ImageFile(root, f"{number}.jpg", 1, 1), digest(number))


def files(folder: Path) -> list[str]:
    """Names of the files of segments."""
    return sorted(path.name for path in (folder / "segments").iterdir())


def filled(index: Path, *batches: Sequence[int], limits: StoreLimits = STORE_LIMITS) -> None:
    """Add numbers to an index, with one commit for each batch."""
    writer = Writer(index, SETTINGS, limits)
    for numbers in batches:
        add(writer, numbers)
        commit(writer)
    writer.close()


def commit(writer: Writer) -> None:
    """Commit as an indexing run does: many small segments are merged."""
    if writer.commit():
        writer.compactor.merge(writer.target)


def compact(writer: Writer) -> list[tuple[int, int]]:
    """Compact as `flairsearch compact` does; return the steps (views done, views in all)."""
    return list(writer.compactor.compact(writer.target, dead_too=True))


def remove(index: Path, images: list[int]) -> None:
    """Remove images by their ids."""
    writer = Writer(index, SETTINGS)
    writer.remove_images(images)
    writer.commit()
    writer.close()


@contextmanager
def reading(index: Path) -> Iterator[Snapshot]:
    """A reader of what is committed now."""
    catalog = Catalog(index)
    try:
        yield Snapshot(index, SETTINGS, catalog)
    finally:
        catalog.close()


def open_shortlist(snapshot: Snapshot) -> Shortlist:
    """Open a shortlist after its derived files are written."""
    make_derived_files(snapshot)
    return Shortlist(snapshot)


def candidate_count(shortlist: Shortlist) -> int:
    """Return how many views a shortlist can find."""
    return len(shortlist.search(np.ones(DIM, np.float32), 1 << 20).views)


def saved(index: Path) -> Callable[[], None]:
    """What puts catalogue and segments back as they are now."""
    kept = {path: path.read_bytes() for path in [*index.glob("*.sqlite*"), *(index / "segments").iterdir()]}

    def put_back() -> None:
        for path in [*index.glob("*.sqlite*"), *(index / "segments").iterdir()]:
            path.unlink()
        for path, data in kept.items():
            path.write_bytes(data)

    return put_back
