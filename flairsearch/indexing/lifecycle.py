"""An index is made, opened and replaced; its settings say which weights it was made with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from flairsearch.codecs.codec import check_codec, needs_basis
from flairsearch.core.errors import StoreError, UsageError
from flairsearch.core.filters import is_text
from flairsearch.core.limits import STORE_LIMITS, StoreLimits
from flairsearch.core.protocols import Encoder
from flairsearch.core.settings import DEFAULT_CODEC, FORMAT_VERSION, IndexSettings, check_views
from flairsearch.model import checkpoints
from flairsearch.model.lazy_encoder import check_weights
from flairsearch.store.catalog import Catalog
from flairsearch.store.codec_training import is_trained, needs_training, train_codec
from flairsearch.store.writer import Writer


def new_settings(file: checkpoints.WeightsFile, views: str | None, codec: str | None) -> IndexSettings:
    """The settings of a new index with these weights."""
    config_json, weights_hash = checkpoints.describe(file.path)
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
        with suppress(OSError):  # Where the index is read-only, opening the catalogue says so.
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


def open_index(
    folder: Path, model: str | Path | None, views: str | None, codec: str | None, create: bool
) -> tuple[IndexSettings, str | Path]:
    """The settings of an index and its model; an empty one is made when there is none and `create`.

    Raises StoreError when there is no such index, or it was made with other weights or another view policy;
    WeightsError when the model cannot be had (without `model`, not before it is needed).
    """
    undo_replacement(folder)
    if create and not (folder / "index.json").exists():
        fresh = new_settings(checkpoints.find(model or checkpoints.default_name()), views, codec)
        try:
            create_index(folder, fresh)
        except OSError as error:
            raise StoreError(
                f"{folder} cannot be made ({error.strerror or error}) - give another place: --index FOLDER"
            ) from None
    settings = open_settings(folder)
    if model is not None:
        file = checkpoints.find(model)
        check_weights(folder, settings, file)
        model = file.path
    if views is not None and check_views(views) != settings.views:
        raise StoreError(
            f"{folder} was made with --views {settings.views}, asked for {views} - run flairsearch index --rebuild"
        )
    if codec is not None and check_codec(codec) != settings.codec:
        raise StoreError(
            f"{folder} was made with --codec {settings.codec}, asked for {codec} - "
            f"run flairsearch compact --codec {codec}"
        )
    return settings, model or settings.model


@contextmanager
def writing(folder: Path, settings: IndexSettings, limits: StoreLimits = STORE_LIMITS) -> Iterator[Writer]:
    """The writer; a disk that is full or read-only is a StoreError of one line."""
    writer = Writer(folder, settings, limits)
    try:
        yield writer
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be written ({error.strerror or error}) - free space or check permissions, "
            "then run it again: what was committed is kept"
        ) from error
    finally:
        writer.close()


def forget(writer: Writer, absolute: str) -> int:
    """Remove an image, or all images below a folder, and its folder from those of the index. Returns how many images.

    Raises UsageError when the index has neither.
    """
    images = writer.catalog.images_below(absolute)
    known = absolute in writer.catalog.roots()
    if not images and not known:
        raise UsageError(f"{absolute} is not in the index - see 'flairsearch status' for its folders")
    writer.remove_images(images)
    writer.commit()
    if known:
        writer.catalog.remove_root(absolute)
    return len(images)


def check_move(old: str | Path, new: str | Path) -> None:
    """Raises UsageError when there is no folder `new`, or a name that the index cannot keep."""
    if not os.path.isdir(os.path.expanduser(new)):
        raise UsageError(f"{new} is not there - give the folder where the photos are now")
    if not (is_text(os.fspath(old)) and is_text(os.fspath(new))):
        raise UsageError(f"{os.fspath(new)!a} is no UTF-8 - rename the folder")


def prepare_codec(writer: Writer, is_chosen: bool, encoder: Encoder) -> None:
    """Train the writer's codec where it needs that. is_chosen: the index has had another codec until now."""
    settings = writer.settings
    must_train = is_chosen and needs_basis(settings.codec) and not is_trained(writer) and writer.catalog.counts()[1]
    metric = encoder.token_metric if must_train or needs_training(writer) else None
    if is_chosen:
        settings.save(writer.folder)
    if metric is not None:
        train_codec(writer, metric)
