"""Which photos a query is about: their folder, date, size and kind; and how people write sizes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from flairsearch.core.dates import parse_date
from flairsearch.core.errors import UsageError

_SIDES = re.compile(r"([0-9]{1,9})[x×]([0-9]{1,9})")
_BYTES = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?(k|m|g|)b?")
MOST_ENDINGS = 100  # of files' names; SQLite takes a bounded number of conditions
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


@dataclass(frozen=True)
class Filter:
    """What a photo must be to be looked at; what is None, or empty, keeps none out. False where all is."""

    under: str | None = None  # folder, absolute
    since: datetime | None = None  # the first moment, local time
    before: datetime | None = None  # the first moment that is too late
    larger_than: int | None = None  # bytes of the file: more than so many
    sides: tuple[int, int] | None = None  # pixels: width and height, upright, of at least so many
    extensions: tuple[str, ...] = ()  # lower case, without the dot

    def __bool__(self) -> bool:
        return self != Filter()

    @staticmethod
    def of(
        under: str | os.PathLike[str] | None = None,
        since: str | None = None,
        until: str | None = None,
        larger_than: str | None = None,
        ext: str | Iterable[str] = (),
    ) -> Filter:
        """A scope as people write it.

        since, until: `2024`, `2024-05`, `2024-05-17`, `2024-05-17T14:00`; from the beginning of that year, month, day
        or minute, and through its end. larger_than: `2MB` or `1920x1080`. ext: `jpg`, or several, `jpg,png`.
        Raises UsageError that names what is accepted.
        """
        first = None if since is None else parse_date(since, "since")[0]
        last = None if until is None else parse_date(until, "until")[1]
        if first and last and first >= last:
            raise UsageError(f"--since {since} is later than --until {until} - no photo is from between them")
        size = None if larger_than is None else parse_size(larger_than)
        return Filter(
            None if under is None else _folder(os.fspath(under)),
            first,
            last,
            size if isinstance(size, int) else None,
            size if isinstance(size, tuple) else None,
            parse_extensions([ext] if isinstance(ext, str) else ext),
        )


def parse_size(text: str) -> int | tuple[int, int]:
    """Bytes, or the two sides in pixels. Raises UsageError."""
    plain = text.strip().lower()
    if found := _SIDES.fullmatch(plain):
        return int(found[1]), int(found[2])
    if found := _BYTES.fullmatch(plain):
        from decimal import Decimal  # most queries do without, and it takes a while to load

        return int(Decimal(found[1]) * _UNITS[found[2]])
    raise UsageError(f"--larger-than {text!r} is no size - use 500kB, 2MB, 1.5GB, or pixels: 1920x1080")


def parse_extensions(several: Iterable[str]) -> tuple[str, ...]:
    """Endings of names, separated by commas, with or without the dot. Raises UsageError."""
    found = []
    for text in several:
        for part in text.split(","):
            ending = part.strip().removeprefix(".").lower()
            if not (ending.isascii() and ending.isalnum()):
                raise UsageError(f"--ext {text!r} is no ending of a file's name - use jpg, or several: jpg,png")
            found.append(ending)
    if len(found) > MOST_ENDINGS:
        raise UsageError(f"--ext names {len(found):,} endings - {MOST_ENDINGS} are the most")
    return tuple(dict.fromkeys(found))


def _folder(text: str) -> str:
    """Absolute, as roots are kept: links stay as they are. Raises UsageError."""
    folder = os.path.abspath(os.path.expanduser(text))
    if not text or not is_text(folder):
        raise UsageError(f"--under {text!a} is no folder of photos - see flairsearch status for those indexed")
    return folder


def is_text(path: str) -> bool:
    """Not one with a name that is no UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
