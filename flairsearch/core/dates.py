"""Parse dates as people write them, and convert them to the numbers that the catalogue stores.

A date is local time without a time zone, as cameras record it. The catalogue stores it as `clock_seconds`.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from flairsearch.core.errors import UsageError
from flairsearch.core.option import short_repr

# The accepted formats, each with an upper bound on the length of the period it names.
_DATE_FORMATS = {
    "%Y": timedelta(days=366),
    "%Y-%m": timedelta(days=31),
    "%Y-%m-%d": timedelta(days=1),
    "%Y-%m-%dT%H:%M": timedelta(minutes=1),
    "%Y-%m-%dT%H:%M:%S": timedelta(seconds=1),
}


def clock_seconds(moment: datetime) -> int:
    """Return the seconds from 1970 to a local time, ignoring time zones and daylight saving."""
    return (moment.replace(tzinfo=None) - datetime(1970, 1, 1)) // timedelta(seconds=1)


def from_clock_seconds(seconds: int) -> datetime:
    """Return the local time of `clock_seconds`.

    Raises OverflowError when it is out of range.
    """
    return datetime(1970, 1, 1) + timedelta(seconds=seconds)


def parse_date(text: str, parameter: str) -> tuple[datetime, datetime]:
    """Parse a year, month, day, minute or second; return its start, and the start of the next one.

    parameter: the name of the parameter that holds the date, for the error.
    Raises UsageError when the text is not a date.
    """
    plain = text.strip().replace(" ", "T") if isinstance(text, str) else ""
    for form, length in _DATE_FORMATS.items():
        try:
            first = datetime.strptime(plain, form)
            after = first + length
        except (ValueError, OverflowError):
            continue
        if form == "%Y":
            after = after.replace(month=1, day=1)
        elif form == "%Y-%m":
            after = after.replace(day=1)
        return first, after
    raise UsageError(f"{short_repr(text)} is no date - use 2024, 2024-05, 2024-05-17 or 2024-05-17T14:00", parameter)
