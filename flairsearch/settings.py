"""Settings of an index (saved with it) and where indexes live."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import platformdirs

from flairsearch.errors import StoreError, UsageError

FORMAT_VERSION = 3  # 1: the catalogue did not carry the number; 2: no dates (database.py brings them up to date)
DEFAULT_INDEX = "default"
DEFAULT_CODEC = "q1"  # the smallest that keeps the rule of evaluate.py: flairsearch eval --codecs
EXHAUSTIVE_VIEWS = 2000  # an index of no more is ranked whole, and has no fitted vectors

ViewPolicy = Literal["squash", "center"]
Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class IndexSettings:
    """index.json: what every part of an index must agree on."""

    model: str
    weights_hash: str
    image_size: int  # pixels
    patches: int
    dim: int
    views: ViewPolicy = "squash"
    codec: str = "fp16"
    format: int = FORMAT_VERSION

    def save(self, folder: Path) -> None:
        part = folder / f"index.json.{secrets.token_hex(8)}.part"  # two may bring an older index up to date at once
        with part.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(self), indent=2) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(folder / "index.json")

    @staticmethod
    def load(folder: Path) -> IndexSettings:
        """Raises StoreError when there is no index in the folder, or one of another format."""
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
            return IndexSettings(**values)
        except TypeError as error:
            raise StoreError(f"{file} is damaged ({error}) - run flairsearch index --rebuild FOLDER") from None


def check_views(views: str) -> ViewPolicy:
    """Raises UsageError when there is no such view policy."""
    if views not in get_args(ViewPolicy):
        raise UsageError(f"no view policy named {views!r} - use one of {', '.join(get_args(ViewPolicy))}")
    return views  # type: ignore[return-value]


def check_device(device: str) -> str:
    """Raises UsageError when there is no such device name; whether the machine has it is asked later."""
    if device.split(":")[0] not in get_args(Device):
        raise UsageError(f"no device {device!r} - use one of {', '.join(get_args(Device))}")
    return device


def index_folder(index: str | Path | None = None) -> Path:
    """--index as a path; else $FLAIRSEARCH_HOME/NAME; else ./indexes/NAME; else the user's data folder."""
    text = os.fspath(index or DEFAULT_INDEX)
    if isinstance(index, Path) or os.sep in text or text.startswith("."):
        return Path(os.path.expanduser(text)).absolute()
    home = os.environ.get("FLAIRSEARCH_HOME")
    if home:
        return Path(os.path.expanduser(home)).absolute() / text
    if Path("indexes").is_dir():
        return Path("indexes").absolute() / text
    return Path(platformdirs.user_data_path("flairsearch")) / "indexes" / text
