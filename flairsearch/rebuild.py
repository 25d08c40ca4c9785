"""An index made anew beside the old one, for another model or other views."""

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
    """What an index is made with; None: as the old index has it, else the default."""

    model: str | Path | None = None
    views: str | None = None
    codec: str | None = None

    def or_those_of(self, old: IndexSettings) -> IndexOptions:
        """These options, completed by those of the old index."""
        return IndexOptions(
            self.model or checkpoints.successor(old.model), self.views or old.views, self.codec or old.codec
        )


AS_BEFORE = IndexOptions()


def rebuild(
    index: str | Path | None,
    folders: Sequence[str | Path],
    options: IndexOptions = AS_BEFORE,
    device: str = "auto",
    ignore: Sequence[str] = (),
) -> Iterator[Progress | IndexReport]:
    """Make an index anew beside the old one and swap them at the end; a run that is cut off goes on next time.

    The folders are those given and those the old index knows; where its catalogue cannot be read, those given.
    """
    folder = index_folder(index)
    roots, warnings = [os.fspath(f) for f in folders], []
    if (folder / "index.json").exists():
        old = open_settings(folder)
        options = options.or_those_of(old)
        try:
            roots += [root for root in _known(folder) if root not in roots]
        except StoreError as error:
            if not roots:
                raise
            warnings.append(f"other folders of the old index are not known any more: {error}")
    if not roots:
        raise UsageError("nothing to rebuild from - give the folder of photos")
    for root in roots:
        if not os.path.isdir(root):
            raise UsageError(f"{root} is not there - bring it back, or run flairsearch forget {root} first")
    fresh = folder.with_name(f"{folder.name}.rebuilding")
    try:
        engine = _open(fresh, options, device)
    except StoreError:  # A run with other settings left it.
        shutil.rmtree(fresh)
        engine = _open(fresh, options, device)
    with engine:
        for step in engine.adding(roots, ignore):
            if isinstance(step, IndexReport):
                report = replace(step, warnings=(*step.warnings, *warnings))
            else:
                yield step
    replace_index(folder, fresh)
    yield report


def _open(folder: Path, options: IndexOptions, device: str) -> Engine:
    return Engine.open(folder, options.model, device=device, views=options.views, codec=options.codec)


def _known(folder: Path) -> list[str]:
    with closing(Catalog(folder)) as catalog:
        return list(catalog.roots())
