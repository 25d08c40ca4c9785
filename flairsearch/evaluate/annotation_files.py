"""Read annotation files of any format: bounded JSON, checked fields and checked paths of photos."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeVar

from flairsearch.core.errors import UsageError

MAX_ANNOTATION_BYTES = 1 << 30  # A larger file is refused: parsed JSON takes several times its size in memory.


_T = TypeVar("_T")


class FormatError(ValueError):
    """The content of an annotation file does not follow its format."""


def read_json_lines(file: Path) -> list[Any]:
    """Read a file with one JSON value per line. Raises FormatError as read_json does."""
    rows: list[Any] = read_json(file, lambda text: [json.loads(line) for line in text.split("\n") if line.strip()])
    return rows


def read_json(file: Path, parse: Callable[[str], Any] = json.loads) -> Any:
    """Read a JSON file. Nothing in the file is ever executed.

    parse: turns the text into values. Raises FormatError when the file is missing, too large or not JSON.
    """
    try:
        if not os.path.isfile(file):
            raise FormatError("is not there")
        if file.stat().st_size > MAX_ANNOTATION_BYTES:
            raise FormatError(f"is larger than {MAX_ANNOTATION_BYTES >> 20} MiB")
        return parse(file.read_text(encoding="utf-8-sig"))
    except FormatError:
        raise
    except (OSError, ValueError, RecursionError) as error:  # ValueError stands for bad JSON, bad UTF-8 or a NUL byte.
        raise FormatError(f"cannot be read as JSON ({error})") from None


def find_photo_folder(folders: Sequence[Path], paths: Sequence[str]) -> Path:
    """Return the first folder that holds the first photo. Raises UsageError when any photo is missing there."""
    folder = next((folder for folder in folders if os.path.isfile(folder / paths[0])), folders[0])
    missing = [path for path in paths if not os.path.isfile(folder / path)]
    if missing:
        raise UsageError(
            f"{len(missing):,} of {len(paths):,} annotated photos are missing, the first is {folder / missing[0]} - "
            "give the folder that their paths start from: --photos DIR"
        )
    return folder


def require_field(row: Any, name: str, kind: type[_T]) -> _T:
    """Return a value of a row. Raises FormatError when it is missing or of another type."""
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind):
        raise FormatError(f"{name!r} is {'missing' if value is None else f'not of type {kind.__name__}'}")
    return value


def require_id(row: Any, name: str) -> int | str:
    """Return an identifier of a row, a number or a text. Raises FormatError when it is neither."""
    is_text = isinstance(row, dict) and isinstance(row.get(name), str)
    return require_field(row, name, str) if is_text else require_field(row, name, int)


def require_list(data: Any) -> list[Any]:
    """Return the parsed content as a list. Raises FormatError when it is not one."""
    if not isinstance(data, list):
        raise FormatError("is not a list")
    return data


def check_path(path: str) -> None:
    """Raise FormatError when a photo's path is empty, invalid or could lead out of the photos' folder."""
    pure = PurePath(path)
    if pure.is_absolute() or pure.drive or ".." in pure.parts:
        raise FormatError(f"{path[:200]!r} leads out of the photos' folder")
    if not pure.name or "\0" in path:
        raise FormatError(f"{path[:200]!r} is not a photo's path")
    check_text(path)


def check_text(text: Any) -> str:
    """Return the text. Raises FormatError when it is not a text or not valid Unicode."""
    try:
        if not isinstance(text, str):
            raise FormatError(f"a caption is not a text but {type(text).__name__}")
        text.encode()
    except UnicodeEncodeError:
        raise FormatError(f"{text[:200]!a} is not valid Unicode") from None
    return text
