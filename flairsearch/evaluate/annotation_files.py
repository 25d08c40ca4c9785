"""Annotation files of any set: JSON read within limits, fields checked, photos found."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeVar

from flairsearch.core.errors import UsageError

MAX_BYTES = 1 << 30  # of an annotation file


_T = TypeVar("_T")


class Broken(ValueError):
    """Content that is not what its format promises."""


def parse_lines(file: Path) -> list[Any]:
    """A JSON value a line."""
    rows: list[Any] = parse(file, lambda text: [json.loads(line) for line in text.split("\n") if line.strip()])
    return rows


def parse(file: Path, read: Callable[[str], Any] = json.loads) -> Any:
    """JSON, and nothing but JSON: nothing in it is executed."""
    try:
        if not os.path.isfile(file):
            raise Broken("is not there")
        if file.stat().st_size > MAX_BYTES:
            raise Broken(f"is larger than {MAX_BYTES >> 20} MiB")
        return read(file.read_text(encoding="utf-8-sig"))
    except Broken:
        raise
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, a NUL in the name
        raise Broken(f"cannot be read as JSON ({error})") from None


def find_photos(places: Sequence[Path], paths: Sequence[str]) -> Path:
    """The first of the folders that holds the first photo. Raises UsageError when any photo is missing there."""
    found = next((place for place in places if os.path.isfile(place / paths[0])), places[0])
    missing = [path for path in paths if not os.path.isfile(found / path)]
    if missing:
        raise UsageError(
            f"{len(missing):,} of {len(paths):,} annotated photos are missing, the first is {found / missing[0]} - "
            "give the folder that their paths start from: --photos DIR"
        )
    return found


def field(row: Any, name: str, kind: type[_T]) -> _T:
    """A value of a row. Raises Broken when it is missing, or of another kind."""
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind):
        raise Broken(f"{name!r} is {'missing' if value is None else f'no {kind.__name__}'}")
    return value


def id_of(row: Any, name: str) -> int | str:
    """A number or a text that names something. Raises Broken when it is neither."""
    return field(row, name, str) if isinstance(row, dict) and isinstance(row.get(name), str) else field(row, name, int)


def check_path(path: str) -> None:
    """Raises Broken when it could lead out of the photos' folder."""
    pure = PurePath(path)
    if pure.is_absolute() or pure.drive or ".." in pure.parts:
        raise Broken(f"{path[:200]!r} leads out of the photos' folder")
    if not pure.name or "\0" in path:
        raise Broken(f"{path[:200]!r} is no path of a photo")
    check_text(path)


def check_text(text: Any) -> str:
    """The text. Raises Broken when it is none, or no valid Unicode."""
    try:
        if not isinstance(text, str):
            raise Broken(f"a caption is no text but {type(text).__name__}")
        text.encode()
    except UnicodeEncodeError:
        raise Broken(f"{text[:200]!a} is no valid Unicode") from None
    return text


def as_list(data: Any) -> list[Any]:
    """The list. Raises Broken when it is none."""
    if not isinstance(data, list):
        raise Broken("is no list")
    return data
