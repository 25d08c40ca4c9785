"""Dates of photos: how people write them, and as the numbers that the catalogue keeps.

A date is what a clock on the wall shows, as cameras write it: no zone. As a number: `clock_seconds`.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from flairsearch.core.errors import UsageError

_DATES = {
    "%Y": timedelta(days=366),
    "%Y-%m": timedelta(days=31),
    "%Y-%m-%d": timedelta(days=1),
    "%Y-%m-%dT%H:%M": timedelta(minutes=1),
    "%Y-%m-%dT%H:%M:%S": timedelta(seconds=1),
}


def clock_seconds(moment: datetime) -> int:
    """Seconds from 1970 to a moment without a zone, as if no clock ever was put forward or back."""
    return (moment.replace(tzinfo=None) - datetime(1970, 1, 1)) // timedelta(seconds=1)


def from_clock(seconds: int) -> datetime:
    """The moment of such a number. Raises OverflowError."""
    return datetime(1970, 1, 1) + timedelta(seconds=seconds)


def parse_date(text: str, parameter: str) -> tuple[datetime, datetime]:
    """A year, month, day, minute or second -> its first moment, and the first one after it. Raises UsageError."""
    for form, length in _DATES.items():
        try:
            first = datetime.strptime(text.strip().replace(" ", "T"), form)
            after = first + length
        except (ValueError, OverflowError):
            continue
        if form == "%Y":
            after = after.replace(month=1, day=1)
        elif form == "%Y-%m":
            after = after.replace(day=1)
        return first, after
    raise UsageError(f"{text!r} is no date - use 2024, 2024-05, 2024-05-17 or 2024-05-17T14:00", parameter)
