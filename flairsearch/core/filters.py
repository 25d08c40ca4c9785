"""Which photos a query is about: their folder, date, size and kind; and how people write sizes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from flairsearch.core.dates import parse_date
from flairsearch.core.errors import UsageError
from flairsearch.core.option import as_tuple, check_texts, option, short_repr

_SIDES = re.compile(r"([0-9]{1,9})[x×]([0-9]{1,9})")
_BYTES = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?(k|m|g|)b?")
MAX_EXTENSIONS = 100  # SQLite takes a bounded number of conditions.
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


@dataclass(frozen=True)
class Filter:
    """Conditions a photo must meet to be searched: `Filter(folder="photos/2024", since="2024-05", extension="jpg")`.

    A field that is not set does not restrict; a filter without any is false.
    since, until: `2024`, `2024-05`, `2024-05-17`, `2024-05-17T14:00`: from the beginning of that year, month, day or
    minute, and through its end. larger_than: `2MB` or `1920x1080`. extension: `jpg`, or several, `jpg,png`.
    Raises UsageError that names what is accepted.
    """

    folder: str | os.PathLike[str] | None = option(
        None, "Search only photos below this folder.", metavar="FOLDER", max_length=4096
    )
    since: str | None = option(
        None, "Search only photos taken on or after DATE: 2024, 2024-05 or 2024-05-17.", metavar="DATE"
    )
    until: str | None = option(None, "Search only photos taken up to and including DATE.", metavar="DATE")
    larger_than: str | None = option(
        None, "Search only photos larger than this: 2MB, or 1920x1080 pixels.", metavar="SIZE"
    )
    extension: str | Sequence[str] = option(
        (),
        "Search only files with these extensions: jpg, or jpg,png. May be repeated.",
        many=True,
        metavar="EXT",
        max_count=50,
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", None if self.folder is None else _folder(self.folder))
        object.__setattr__(self, "extension", parse_extensions(check_texts(self.extension, "extension")))
        first, after = self.taken_since, self.taken_before  # Both are read, so that a date that is none is refused.
        if first and after and first >= after:
            raise UsageError(f"{self.since} is later than the end, {self.until} - no photo is between them", "since")
        if self.larger_than is not None:
            parse_size(self.larger_than)

    def __bool__(self) -> bool:
        return self != Filter()

    @property
    def path(self) -> str | None:
        """The absolute path of the folder."""
        return None if self.folder is None else os.fspath(self.folder)

    @cached_property
    def taken_since(self) -> datetime | None:
        """The first moment that is not too early, local time."""
        return None if self.since is None else parse_date(self.since, "since")[0]

    @cached_property
    def taken_before(self) -> datetime | None:
        """The first moment that is too late, local time."""
        return None if self.until is None else parse_date(self.until, "until")[1]

    @property
    def larger_than_bytes(self) -> int | None:
        """The file has more bytes than this."""
        size = None if self.larger_than is None else parse_size(self.larger_than)
        return size if isinstance(size, int) else None

    @property
    def min_sides(self) -> tuple[int, int] | None:
        """The upright photo has at least this width and height, in pixels."""
        size = None if self.larger_than is None else parse_size(self.larger_than)
        return size if isinstance(size, tuple) else None

    @property
    def extensions(self) -> tuple[str, ...]:
        """Endings of file names in lower case, without the dot."""
        return as_tuple(self.extension)


def parse_size(text: str) -> int | tuple[int, int]:
    """Bytes, or the two sides in pixels. Raises UsageError."""
    plain = text.strip().lower() if isinstance(text, str) else ""
    if found := _SIDES.fullmatch(plain):
        return int(found[1]), int(found[2])
    if found := _BYTES.fullmatch(plain):
        from decimal import Decimal  # Most queries do without it, and its import takes a while.

        return int(Decimal(found[1]) * _UNITS[found[2]])
    raise UsageError(f"{short_repr(text)} is no size - use 500kB, 2MB, 1.5GB, or pixels: 1920x1080", "larger_than")


def parse_extensions(texts: Sequence[str]) -> tuple[str, ...]:
    """Endings of names, separated by commas, with or without the dot. Raises UsageError."""
    found = []
    for text in texts:
        for part in text.split(","):
            ending = part.strip().removeprefix(".").lower()
            if not (ending.isascii() and ending.isalnum()):
                raise UsageError(f"{text!r} is no ending of a file's name - use jpg, or several: jpg,png", "extension")
            found.append(ending)
    if len(found) > MAX_EXTENSIONS:
        raise UsageError(f"{len(found):,} endings - {MAX_EXTENSIONS} are the most", "extension")
    return tuple(dict.fromkeys(found))


def _folder(given: object) -> str:
    """An absolute path that keeps its links, as the roots of an index do. Raises UsageError."""
    text = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(text, str):
        raise UsageError(f"{short_repr(given)} is no folder of photos - give its path", "folder")
    folder = os.path.abspath(os.path.expanduser(text))
    if not text or not is_text(folder):
        raise UsageError(f"{text!a} is no folder of photos - see flairsearch status for those indexed", "folder")
    return folder


def is_text(path: str) -> bool:
    """Whether a path is valid UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


NO_FILTER = Filter()
