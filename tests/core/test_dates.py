"""Parsing dates, and their numbers of seconds."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import product

import numpy as np
import pytest

from flairsearch.core.dates import clock_seconds, parse_date
from flairsearch.core.errors import UsageError
from flairsearch.core.filters import Filter

DATES = {
    "2024": ("2024-01-01", "2025-01-01"),
    "2023": ("2023-01-01", "2024-01-01"),
    "2024-02": ("2024-02-01", "2024-03-01"),
    "2024-12": ("2024-12-01", "2025-01-01"),
    "2024-5": ("2024-05-01", "2024-06-01"),
    "2024-02-29": ("2024-02-29", "2024-03-01"),
    "2024-12-31": ("2024-12-31", "2025-01-01"),
    "2024-05-17T14:00": ("2024-05-17T14:00", "2024-05-17T14:01"),
    "2024-05-17 23:59": ("2024-05-17T23:59", "2024-05-18"),
    " 2024-05-17T14:00:09 ": ("2024-05-17T14:00:09", "2024-05-17T14:00:10"),
    "0001": ("0001-01-01", "0002-01-01"),
    "9998-12-31": ("9998-12-31", "9999-01-01"),
}


def test_dates(subtests: pytest.Subtests) -> None:
    for text, moments in DATES.items():
        with subtests.test(text):
            assert parse_date(text, "since") == tuple(map(datetime.fromisoformat, moments))


BAD_DATES = [
    *("", "24", "2024-", "2024-13", "2024-02-30", "2024-05-17T", "2024-05-17T14", "2024-05-17T25:00", "17.5.2024"),
    *("yesterday", "0000", "9999", "9999-12-31", "2024-05-17T14:00Z", "2024/05/17", "-2024", "20240517", "2024\0"),
]


def test_an_invalid_date_raises_one_line_with_valid_examples(subtests: pytest.Subtests) -> None:
    for text, option in product(BAD_DATES, ("since", "until")):
        with subtests.test(ascii(text), option=option):
            wanted = f"^{option}: .* is no date - use 2024, 2024-05, 2024-05-17 or"
            with pytest.raises(UsageError, match=wanted) as error:
                Filter(since=text) if option == "since" else Filter(until=text)
            assert "\n" not in str(error.value)


def test_clock_seconds_ignore_daylight_saving() -> None:
    assert clock_seconds(datetime(1970, 1, 1)) == 0
    assert clock_seconds(datetime(1969, 12, 31, 23, 59, 59)) == -1
    moments = [datetime(1826, 1, 1) + timedelta(hours=n) for n in range(0, 24 * 365 * 300, 9999)]
    assert np.ptp(np.diff([clock_seconds(moment) for moment in moments])) == 0
