"""An index made anew beside the old one, for another model or other views."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from flairsearch.catalog import Catalog
from flairsearch.engine import Engine
from flairsearch.errors import StoreError, UsageError
from flairsearch.records import Progress, Report
from flairsearch.settings import index_folder
from flairsearch.store import open_settings, replace_index


def rebuild(
    index: str | Path | None,
    folders: Sequence[str | Path],
    model: str | Path | None = None,
    device: str = "auto",
    views: str | None = None,
    exclude: Sequence[str] = (),
    codec: str | None = None,
) -> Iterator[Progress | Report]:
    """Make an index anew beside the old one and swap them at the end; a run that is cut off goes on next time.

    The folders are those given and those the old index knows.
    """
    folder = index_folder(index)
    roots = [os.fspath(f) for f in folders]
    if (folder / "index.json").exists():
        old = open_settings(folder)
        model, views, codec = model or old.model, views or old.views, codec or old.codec
        catalog = Catalog(folder)
        roots += [root for root in catalog.roots() if root not in roots]
        catalog.close()
    if not roots:
        raise UsageError("nothing to rebuild from - give the folder of photos")
    for root in roots:
        if not os.path.isdir(root):
            raise UsageError(f"{root} is not there - bring it back, or run flairsearch forget {root} first")
    fresh = folder.with_name(f"{folder.name}.rebuilding")
    try:
        engine = Engine.open(fresh, model, device=device, views=views, codec=codec)
    except StoreError:  # left over from a run with other settings
        shutil.rmtree(fresh)
        engine = Engine.open(fresh, model, device=device, views=views, codec=codec)
    with engine:
        yield from engine.adding(roots, exclude)
    replace_index(folder, fresh)
