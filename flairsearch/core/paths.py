"""Where indexes and imported models live."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import platformdirs

from flairsearch.core.errors import UsageError

DEFAULT_INDEX = "default"


def index_folder(index: str | Path | None = None) -> Path:
    """--index as a path; else $FLAIRSEARCH_HOME/NAME; else ./indexes/NAME; else the user's data folder.

    Raises UsageError when no index can be there.
    """
    place = os.fspath(index or DEFAULT_INDEX)
    try:
        folder = _index_folder(place, isinstance(index, Path))
        place = str(folder)
        with suppress(FileNotFoundError, NotADirectoryError):
            os.stat(folder / "index.json")
    except (OSError, ValueError) as error:  # a name too long, a folder that may not be looked into, or is gone
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{place!a} is no place for an index ({reason}) - give another: --index FOLDER") from None
    return folder


def _index_folder(text: str, is_path: bool) -> Path:
    if is_path or os.sep in text or text.startswith("."):
        return _absolute(text)
    home = os.environ.get("FLAIRSEARCH_HOME")
    if home:
        return _absolute(home) / text
    if Path("indexes").is_dir():
        return _absolute("indexes") / text
    return Path(platformdirs.user_data_path("flairsearch")) / "indexes" / text


def _absolute(text: str) -> Path:
    return Path(os.path.expanduser(text)).absolute()


def cache_folder() -> Path:
    """Where imported models live: $FLAIRSEARCH_CACHE, else the platform's user cache folder."""
    return Path(os.environ.get("FLAIRSEARCH_CACHE") or platformdirs.user_cache_path("flairsearch")) / "models"
