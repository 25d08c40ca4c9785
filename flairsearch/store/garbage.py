"""Remove files of an index that its catalogue does not name: uncommitted and replaced files."""

from __future__ import annotations

from pathlib import Path

from flairsearch.store.catalog import Catalog
from flairsearch.store.derived_files import drop_leftovers


def remove_garbage(index: Path, catalog: Catalog, label: str) -> None:
    """Remove all garbage; only the writer of the index may call this. Raises OSError.

    label: the codec of new segments, as the catalogue names it; its basis is kept even if it is not yet used.
    """
    segments = catalog.segments()
    live = {number for number, _, _ in segments}
    for file in (index / "segments").iterdir():
        stem = file.name.split(".")[0]
        if file.suffix == ".part" or not stem.isdigit() or int(stem) not in live:
            file.unlink()
    for pattern in ("index.json.*.part", "last-run.json.*.part", "fitted/*.part"):
        for file in index.glob(pattern):
            file.unlink(missing_ok=True)
    drop_leftovers(index / "prefilter", catalog.generation())
    bases = {name.partition(":")[2] for name in (label, *(name for _, _, name in segments))}
    for file in (index / "codecs").glob("*"):
        if file.suffix != ".npz" or file.stem not in bases:
            file.unlink()
