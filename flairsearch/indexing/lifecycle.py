"""Create, open, write and replace an index, and check that it fits the model and the options."""

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
    """Return the settings of a new index with these weights. views, codec: None stands for the default."""
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
    """Create an empty index. The settings are written last, since a folder without them is not an index."""
    (folder / "segments").mkdir(parents=True, exist_ok=True)
    Catalog(folder, create=True).close()
    settings.save(folder)


def open_settings(folder: Path) -> IndexSettings:
    """Return the settings of an index in the current format; settings of an older format are updated on disk.

    Opening the catalogue updates the catalogue. The settings come first, since an older flairsearch checks their format
    first. Raises StoreError when there is no index, or one of a newer format.
    """
    settings = IndexSettings.load(folder)
    if settings.format != FORMAT_VERSION:
        settings = replace(settings, format=FORMAT_VERSION)
        with suppress(OSError):  # If the index is read-only, opening its catalogue reports it.
            settings.save(folder)
    return settings


def replace_index(folder: Path, new_folder: Path) -> None:
    """Put a finished index in the place of another one, which is removed."""
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new_folder.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def undo_replacement(folder: Path) -> None:
    """Put the old index back if the process was killed between the two renames of `replace_index`."""
    old = folder.with_name(f"{folder.name}.old")
    if not folder.exists() and (old / "index.json").is_file():
        old.rename(folder)


def open_index(
    folder: Path, model: str | Path | None, views: str | None, codec: str | None, create: bool
) -> tuple[IndexSettings, str | Path]:
    """Return the settings of an index and its model; with `create`, make an empty index if there is none.

    Raises StoreError when there is no such index, or it was made with other weights, another view policy
    or another codec; WeightsError when the model of a new index, or `model`, cannot be found.
    """
    undo_replacement(folder)
    if create and not (folder / "index.json").exists():
        settings = new_settings(checkpoints.find(model or checkpoints.default_name()), views, codec)
        try:
            create_index(folder, settings)
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
    """Yield the writer of an index; a full or read-only disk raises StoreError with one line."""
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
    """Remove an image, or a folder with all images below it, from the index; return the number of images.

    absolute: the absolute path of the image or the folder. Raises UsageError when the index does not contain it.
    """
    images = writer.catalog.images_below(absolute)
    is_root = absolute in writer.catalog.roots()
    if not images and not is_root:
        raise UsageError(f"{absolute} is not in the index - see 'flairsearch status' for its folders")
    writer.remove_images(images)
    writer.commit()
    if is_root:
        writer.catalog.remove_root(absolute)
    return len(images)


def check_move(old: str | Path, new: str | Path) -> None:
    """Raise UsageError when there is no folder `new`, or a path is not valid UTF-8."""
    if not os.path.isdir(os.path.expanduser(new)):
        raise UsageError(f"{new} is not there - give the folder where the photos are now")
    if not (is_text(os.fspath(old)) and is_text(os.fspath(new))):
        raise UsageError(f"{os.fspath(new)!a} is no UTF-8 - rename the folder")


def prepare_codec(writer: Writer, is_chosen: bool, encoder: Encoder) -> None:
    """Train the writer's codec if necessary. is_chosen: the user has chosen the codec, so the settings are saved."""
    settings = writer.settings
    must_train = is_chosen and needs_basis(settings.codec) and not is_trained(writer) and writer.catalog.counts()[1]
    metric = encoder.token_metric if must_train or needs_training(writer) else None
    if is_chosen:
        settings.save(writer.folder)
    if metric is not None:
        train_codec(writer, metric)
