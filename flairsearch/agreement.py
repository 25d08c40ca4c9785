"""An index is made, opened, replaced; what it and a model agree on: its settings, and the weights it was made with."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from flairsearch import weights
from flairsearch.catalog import Catalog
from flairsearch.codec import check_codec
from flairsearch.errors import StoreError
from flairsearch.settings import DEFAULT_CODEC, FORMAT_VERSION, IndexSettings, check_views


def check_weights(folder: Path, settings: IndexSettings, file: weights.WeightsFile) -> None:
    """Raises StoreError when the index was made with other weights."""
    _, found = weights.describe(file.path)
    if found != settings.weights_hash:
        raise StoreError(
            f"{folder} was made with {settings.model} (weights {settings.weights_hash[:12]}), this is {file.name} "
            f"(weights {found[:12]}) - use that model, or run flairsearch index --rebuild --model {file.name}"
        )


def new_settings(file: weights.WeightsFile, views: str | None, codec: str | None) -> IndexSettings:
    """Of an index that is to be made with these weights."""
    config_json, weights_hash = weights.describe(file.path)
    config = json.loads(config_json)
    size, grid = config["image_size"], config["image_size"] // config["patch_size"]
    return IndexSettings(
        file.name,
        weights_hash,
        size,
        grid * grid,
        config["embed_dim"],
        check_views(views or "squash"),
        check_codec(codec or DEFAULT_CODEC),
    )


def create_index(folder: Path, settings: IndexSettings) -> None:
    """An empty index; the settings are written last, so that a folder without them is no index."""
    (folder / "segments").mkdir(parents=True, exist_ok=True)
    Catalog(folder, create=True).close()
    settings.save(folder)


def open_settings(folder: Path) -> IndexSettings:
    """The settings of an index, in today's format: those of an older one are written anew.

    The catalogue follows when it is opened. This order, as an older flairsearch reads the settings' number first.
    Raises StoreError when there is no index, or one of a newer format.
    """
    settings = IndexSettings.load(folder)
    if settings.format != FORMAT_VERSION:
        settings = replace(settings, format=FORMAT_VERSION)
        with suppress(OSError):  # read-only: Catalog says it
            settings.save(folder)
    return settings


def replace_index(folder: Path, fresh: Path) -> None:
    """Put a finished index in the place of another one."""
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def undo_replacement(folder: Path) -> None:
    """A kill between the two renames of `replace_index` left no index here: put the old one back."""
    old = folder.with_name(f"{folder.name}.old")
    if not folder.exists() and (old / "index.json").is_file():
        old.rename(folder)
