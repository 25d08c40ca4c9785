"""Settings of an index, saved with it."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from flairsearch.core.atomic_file import atomic_write
from flairsearch.core.errors import StoreError, UsageError

FORMAT_VERSION = (
    3  # 1: the catalogue did not carry the number; 2: no dates (store/migrations.py brings them up to date)
)
DEFAULT_CODEC = "q1"  # the smallest that keeps the rule of evaluate/codec_comparison.py: flairsearch eval --codecs
EXHAUSTIVE_VIEWS = 2000  # an index of no more is ranked whole, and has no fitted vectors

ONE_VIEW = ("squash", "center")  # policies of one view a photo; besides them tiles:N
TILES = range(2, 65)  # N; two digits at most
Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class IndexSettings:
    """index.json: what every part of an index must agree on."""

    model: str
    weights_hash: str
    image_size: int  # pixels
    patches: int
    dim: int
    views: str = "squash"  # or another policy: check_views
    codec: str = "fp16"
    format: int = FORMAT_VERSION

    def save(self, folder: Path) -> None:
        """Replaces the file in the folder of an index."""
        with atomic_write(folder / "index.json") as stream:
            stream.write((json.dumps(asdict(self), indent=2) + "\n").encode())

    @staticmethod
    def load(folder: Path) -> IndexSettings:
        """Raises StoreError when there is no index in the folder, or one of another format or unknown view policy."""
        file = folder / "index.json"
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            version = values["format"]
        except FileNotFoundError:
            raise StoreError(f"no index at {folder} - make one: flairsearch index FOLDER") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{file} cannot be read ({error}) - run flairsearch index --rebuild FOLDER") from None
        if version not in range(1, FORMAT_VERSION + 1):
            raise StoreError(
                f"{folder} has index format {version}, this flairsearch reads {FORMAT_VERSION} - update flairsearch"
            )
        try:
            settings = IndexSettings(**values)
        except TypeError as error:
            raise StoreError(f"{file} is damaged ({error}) - run flairsearch index --rebuild FOLDER") from None
        try:
            check_views(str(settings.views))
        except UsageError:
            raise StoreError(f"{file} has views {settings.views!r}, unknown here - update flairsearch") from None
        return settings


def check_views(views: str, tiles: bool = True) -> str:
    """Raises UsageError when there is no such view policy or, without `tiles`, when it makes several of a photo."""
    if views in ONE_VIEW:
        return views
    if not tile_count(views):
        several = f", or tiles:N with N from {TILES[0]} to {TILES[-1]}" if tiles else ""
        raise UsageError(f"no view policy named {views!r} - use {' or '.join(ONE_VIEW)}{several}")
    if not tiles:
        raise UsageError(f"{views} makes several views of a photo, here is one needed - use {' or '.join(ONE_VIEW)}")
    return views


def tile_count(views: str) -> int:
    """N of the view policy tiles:N, 0 of any other text; N is written in one way only, as policies are compared."""
    found = re.fullmatch("tiles:([1-9][0-9]?)", views)
    return int(found[1]) if found and int(found[1]) in TILES else 0


def check_device(device: str) -> str:
    """Raises UsageError when there is no such device name; whether the machine has it is asked later."""
    if device.split(":")[0] not in get_args(Device):
        raise UsageError(f"no device {device!r} - use one of {', '.join(get_args(Device))}")
    return device


def check_token(token: str) -> str:
    """Raises UsageError when no header can carry the token of a server."""
    if not (token.isascii() and token.isprintable() and token.strip() == token and token):
        raise UsageError("the token has letters that headers cannot carry - use plain letters and digits")
    return token


def may_have_gpu() -> bool:
    """Whether it is worth asking torch for a GPU, which takes seconds: where none can be, none is."""
    if sys.platform == "linux":
        return any(os.path.exists(f"/dev/{device}") for device in ("nvidiactl", "nvidia0", "dxg", "kfd", "nvhost-gpu"))
    return True
