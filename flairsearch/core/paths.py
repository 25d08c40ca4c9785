"""Find the folders of indexes and imported models."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import platformdirs

from flairsearch.core.errors import UsageError

DEFAULT_INDEX = "default"


def index_folder(index: str | Path | None = None) -> Path:
    """Return the folder of an index, given a path or a name.

    A name is looked up in $FLAIRSEARCH_HOME if that is set, else in ./indexes if it exists, else in the user's data
    folder.
    Raises UsageError when no index can be at that path.
    """
    place = os.fspath(index or DEFAULT_INDEX)
    try:
        folder = _resolve(place, isinstance(index, Path))
        place = str(folder)
        with suppress(FileNotFoundError, NotADirectoryError):
            os.stat(folder / "index.json")
    except (OSError, ValueError) as error:  # The name is too long, or the folder is not accessible, for example.
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{place!a} is no place for an index ({reason}) - give another: --index FOLDER") from None
    return folder


def _resolve(index: str, is_path: bool) -> Path:
    """Return the absolute path of an index; a string with a separator or a leading dot is a path, too."""
    if is_path or os.sep in index or index.startswith("."):
        return _absolute(index)
    home = os.environ.get("FLAIRSEARCH_HOME")
    if home:
        return _absolute(home) / index
    if Path("indexes").is_dir():
        return _absolute("indexes") / index
    return Path(platformdirs.user_data_path("flairsearch")) / "indexes" / index


def _absolute(text: str) -> Path:
    return Path(os.path.expanduser(text)).absolute()


def cache_folder() -> Path:
    """Return the folder of imported models, in $FLAIRSEARCH_CACHE or else the platform's user cache folder."""
    return Path(os.environ.get("FLAIRSEARCH_CACHE") or platformdirs.user_cache_path("flairsearch")) / "models"
