"""The settings of an index, saved in its index.json, and checks of option values."""

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

# Format 1 had no version number in the catalogue, format 2 had no dates; store/migrations.py migrates both.
FORMAT_VERSION = 3
# The smallest codec that passes the rule of evaluate/codec_comparison.py (flairsearch eval --codecs).
DEFAULT_CODEC = "q1"
MAX_EXHAUSTIVE_VIEWS = 2000  # Up to this size, every query scores all views and no score predictor is fitted.

SINGLE_VIEW_POLICIES = ("squash", "center")  # The other view policy is tiles:N.
TILE_COUNTS = range(2, 65)  # The accepted values of N in tiles:N; `tile_count` reads at most two digits.
Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class IndexSettings:
    """The content of index.json, on which every part of an index must agree."""

    model: str
    weights_hash: str
    image_size: int  # Side of a view in pixels.
    patches: int  # The number of patches of a view.
    dim: int  # The dimension of a token.
    views: str  # The view policy; see `check_views`.
    codec: str  # The codec of new segments; DEFAULT_CODEC is the choice for a new index.
    format: int = FORMAT_VERSION

    def save(self, folder: Path) -> None:
        """Write index.json in the folder of an index."""
        with atomic_write(folder / "index.json") as stream:
            stream.write((json.dumps(asdict(self), indent=2) + "\n").encode())

    @staticmethod
    def load(folder: Path) -> IndexSettings:
        """Read index.json.

        Raises StoreError when the folder has no index, or an index with another format or an unknown view policy.
        """
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
    """Return a view policy.

    Raises UsageError when there is no such policy or, if `tiles` is false, when it makes several views of a photo.
    """
    if views in SINGLE_VIEW_POLICIES:
        return views
    if not tile_count(views):
        tiles_hint = f", or tiles:N with N from {TILE_COUNTS[0]} to {TILE_COUNTS[-1]}" if tiles else ""
        raise UsageError(f"no view policy named {views!r} - use {' or '.join(SINGLE_VIEW_POLICIES)}{tiles_hint}")
    if not tiles:
        raise UsageError(
            f"{views} makes several views of a photo, here is one needed - use {' or '.join(SINGLE_VIEW_POLICIES)}"
        )
    return views


def tile_count(views: str) -> int:
    """Return N of the view policy tiles:N, or 0 for any other text.

    A leading zero is refused, since policies are compared as text.
    """
    match = re.fullmatch("tiles:([1-9][0-9]?)", views)
    return int(match[1]) if match and int(match[1]) in TILE_COUNTS else 0


def check_device(device: str) -> str:
    """Return the name of a device; whether the machine has it is checked later.

    Raises UsageError when there is no such name.
    """
    if device.split(":")[0] not in get_args(Device):
        raise UsageError(f"no device {device!r} - use one of {', '.join(get_args(Device))}")
    return device


def check_token(token: str) -> str:
    """Return the token of a server.

    Raises UsageError when an HTTP header cannot carry it.
    """
    if not (token.isascii() and token.isprintable() and token.strip() == token and token):
        raise UsageError("the token has letters that headers cannot carry - use plain letters and digits")
    return token


def may_have_gpu() -> bool:
    """Return whether the machine may have a GPU; if not, torch need not be imported, which takes seconds."""
    if sys.platform == "linux":
        return any(os.path.exists(f"/dev/{device}") for device in ("nvidiactl", "nvidia0", "dxg", "kfd", "nvhost-gpu"))
    return True
