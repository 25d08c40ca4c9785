"""Rebuild an index beside the old one, for another model or other views, and replace the old one at the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from flairsearch.core.errors import StoreError, UsageError
from flairsearch.core.paths import index_folder
from flairsearch.core.reports import IndexReport, Progress
from flairsearch.core.settings import IndexSettings
from flairsearch.engine import Engine
from flairsearch.indexing.lifecycle import open_settings, replace_index
from flairsearch.model import checkpoints
from flairsearch.store.catalog import Catalog


@dataclass(frozen=True)
class IndexOptions:
    """The options of a new index; None stands for the value of the old index or, without one, for the default."""

    model: str | Path | None = None
    views: str | None = None
    codec: str | None = None

    def completed_from(self, old: IndexSettings) -> IndexOptions:
        """Return these options, with missing ones taken from the settings of the old index."""
        return IndexOptions(
            self.model or checkpoints.successor(old.model), self.views or old.views, self.codec or old.codec
        )


AS_BEFORE = IndexOptions()  # These options keep everything as the old index has it.


def rebuild(
    index: str | Path | None,
    folders: Sequence[str | Path],
    options: IndexOptions = AS_BEFORE,
    device: str = "auto",
    ignore: Sequence[str] = (),
) -> Iterator[Progress | IndexReport]:
    """Rebuild an index beside the old one and swap them at the end; an interrupted run is continued by the next one.

    Yields Progress after every file and, after the swap, the report.
    folders: folders of photos to index besides those of the old index; if the old catalogue cannot be read, only these.
    Raises UsageError when there is no folder to index, or one is missing; StoreError when neither the old catalogue can
    be read nor a folder is given.
    """
    folder = index_folder(index)
    roots, warnings = [os.fspath(f) for f in folders], []
    if (folder / "index.json").exists():
        old = open_settings(folder)
        options = options.completed_from(old)
        try:
            roots += [root for root in _indexed_roots(folder) if root not in roots]
        except StoreError as error:
            if not roots:
                raise
            warnings.append(f"other folders of the old index are not known any more: {error}")
    if not roots:
        raise UsageError("nothing to rebuild from - give the folder of photos")
    for root in roots:
        if not os.path.isdir(root):
            raise UsageError(f"{root} is not there - bring it back, or run flairsearch forget {root} first")
    new_folder = folder.with_name(f"{folder.name}.rebuilding")
    try:
        engine = _open_engine(new_folder, options, device)
    except StoreError:  # The folder is left from an interrupted run with other settings.
        shutil.rmtree(new_folder)
        engine = _open_engine(new_folder, options, device)
    with engine:
        for step in engine.adding(roots, ignore):
            if isinstance(step, IndexReport):
                report = replace(step, warnings=(*step.warnings, *warnings))
            else:
                yield step
    replace_index(folder, new_folder)
    yield report


def _open_engine(folder: Path, options: IndexOptions, device: str) -> Engine:
    return Engine.open(folder, options.model, device=device, views=options.views, codec=options.codec)


def _indexed_roots(folder: Path) -> list[str]:
    with closing(Catalog(folder)) as catalog:
        return list(catalog.roots())
