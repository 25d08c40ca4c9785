"""Filter: which photos are searched, by folder, date, size and extension."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from flairsearch.core.dates import parse_date
from flairsearch.core.errors import UsageError
from flairsearch.core.option import as_tuple, option

_SIDES = re.compile(r"([0-9]{1,9})[x×]([0-9]{1,9})")  # This matches width and height in pixels: 1920x1080.
# This matches a size of a file: 500kB, 2 MB or 1.5g.
_BYTES = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?(k|m|g|)b?")
MAX_EXTENSIONS = 100  # SQLite limits the number of conditions in a statement, and each extension is one.
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}  # The bytes of each unit.


@dataclass(frozen=True)
class Filter:
    """Conditions a photo must meet to be searched: `Filter(folder="photos/2024", since="2024-05", extension="jpg")`.

    A field that is not set excludes no photo; `bool(filter)` is False if no field is set.
    since, until: `2024`, `2024-05`, `2024-05-17` or `2024-05-17T14:00`. `since` counts from the beginning of that year,
    month, day or minute, `until` to its end.
    larger_than: `2MB` or `1920x1080`.
    extension: `jpg`, or several: `jpg,png`.
    Raises UsageError when a value makes no sense; its text names the accepted forms.
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
        object.__setattr__(self, "folder", None if self.folder is None else _absolute_folder(os.fspath(self.folder)))
        object.__setattr__(self, "extension", parse_extensions(as_tuple(self.extension)))
        start, end = self.taken_since, self.taken_before  # Reading them also checks their format.
        if start and end and start >= end:
            raise UsageError(f"{self.since} is later than the end, {self.until} - no photo is between them", "since")
        if self.larger_than is not None:
            parse_size(self.larger_than)

    def __bool__(self) -> bool:
        return self != Filter()

    @property
    def path(self) -> str | None:
        """The absolute path of the folder; None if there is none."""
        return None if self.folder is None else os.fspath(self.folder)

    @cached_property
    def taken_since(self) -> datetime | None:
        """The start of the accepted period, in local time; photos of this moment are accepted."""
        return None if self.since is None else parse_date(self.since, "since")[0]

    @cached_property
    def taken_before(self) -> datetime | None:
        """The end of the accepted period, in local time; photos of this moment are excluded."""
        return None if self.until is None else parse_date(self.until, "until")[1]

    @property
    def larger_than_bytes(self) -> int | None:
        """The number of bytes that a file must exceed; None if there is no such condition."""
        size = None if self.larger_than is None else parse_size(self.larger_than)
        return size if isinstance(size, int) else None

    @property
    def min_sides(self) -> tuple[int, int] | None:
        """The smallest width and height of the upright photo in pixels; None if there is no such condition."""
        size = None if self.larger_than is None else parse_size(self.larger_than)
        return size if isinstance(size, tuple) else None

    @property
    def extensions(self) -> tuple[str, ...]:
        """The accepted extensions of files, in lower case and without the dot."""
        return as_tuple(self.extension)


def parse_size(text: str) -> int | tuple[int, int]:
    """Return a number of bytes, or width and height in pixels.

    Raises UsageError when the text is not a size.
    """
    plain = text.strip().lower()
    if match := _SIDES.fullmatch(plain):
        return int(match[1]), int(match[2])
    if match := _BYTES.fullmatch(plain):
        from decimal import Decimal  # Most queries do without it, and its import takes a while.

        return int(Decimal(match[1]) * _UNITS[match[2]])
    raise UsageError(f"{text!r} is no size - use 500kB, 2MB, 1.5GB, or pixels: 1920x1080", "larger_than")


def parse_extensions(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the extensions in texts of one or more, separated by commas, with or without the dot.

    Raises UsageError when an extension has other characters than letters and digits, or there are too many.
    """
    extensions = []
    for text in texts:
        for part in text.split(","):
            extension = part.strip().removeprefix(".").lower()
            if not (extension.isascii() and extension.isalnum()):
                raise UsageError(f"{text!r} is no ending of a file's name - use jpg, or several: jpg,png", "extension")
            extensions.append(extension)
    if len(extensions) > MAX_EXTENSIONS:
        raise UsageError(f"{len(extensions):,} endings - {MAX_EXTENSIONS} are the most", "extension")
    return tuple(dict.fromkeys(extensions))


def _absolute_folder(text: str) -> str:
    """Return a folder as an absolute path; symbolic links are kept, as in the roots of an index.

    Raises UsageError when the text is empty or not UTF-8.
    """
    folder = os.path.abspath(os.path.expanduser(text))
    if not text or not is_text(folder):
        raise UsageError(f"{text!a} is no folder of photos - see flairsearch status for those indexed", "folder")
    return folder


def is_text(path: str) -> bool:
    """Return whether a path is valid UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


NO_FILTER = Filter()  # This filter excludes no photo.
