"""What an index and a model agree on: the settings of a new index, and whether a model is the one it was made with."""

from __future__ import annotations

import json
from pathlib import Path

from flairsearch import weights
from flairsearch.codec import check_codec
from flairsearch.errors import StoreError
from flairsearch.settings import DEFAULT_CODEC, IndexSettings, check_views


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
