"""Dates, sizes and kinds as people write them."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flairsearch.errors import UsageError
from flairsearch.scope import Scope, clock_seconds, parse_date, parse_extensions, parse_size, places_in

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


def test_what_is_no_date_is_one_line_that_says_what_is_one(subtests: pytest.Subtests) -> None:
    for text, option in product(BAD_DATES, ("since", "until")):
        with subtests.test(ascii(text), option=option):
            wanted = f"--{option} .* is no date - use 2024, 2024-05, 2024-05-17 or"
            with pytest.raises(UsageError, match=wanted) as error:
                Scope.of(since=text) if option == "since" else Scope.of(until=text)
            assert "\n" not in str(error.value)


def test_until_is_inclusive_and_not_before_since() -> None:
    assert Scope.of(since="2024-05", until="2024-05") == Scope(None, datetime(2024, 5, 1), datetime(2024, 6, 1))
    assert Scope.of(since="2024-05-31T23:59", until="2024-05").before == datetime(2024, 6, 1)
    with pytest.raises(UsageError, match="--since 2024-06 is later than --until 2024-05"):
        Scope.of(since="2024-06", until="2024-05")


SIZES = {
    "2MB": 2_000_000,
    "2 mb": 2_000_000,
    "2M": 2_000_000,
    "500k": 500_000,
    "500kB": 500_000,
    "1.5GB": 1_500_000_000,
    "1g": 10**9,
    "0.1MB": 100_000,
    "17": 17,
    "17b": 17,
    "0": 0,
    "1920x1080": (1920, 1080),
    "1920X1080": (1920, 1080),
    "1×0": (1, 0),
}


def test_sizes(subtests: pytest.Subtests) -> None:
    for text, size in SIZES.items():
        with subtests.test(text):
            assert parse_size(text) == size
            scope = Scope.of(larger_than=text)
            assert (scope.larger_than if scope.sides is None else scope.sides) == size


def test_what_is_no_size_is_one_line_that_says_what_is_one(subtests: pytest.Subtests) -> None:
    for text in ("", "MB", "-2MB", "2TB", "2MiB", "big", "1920x", "x1080", "1x2x3", "1,5MB", "9" * 19, "1e6"):
        with subtests.test(text):
            with pytest.raises(UsageError, match=r"is no size - use 500kB, 2MB, 1.5GB, or pixels: 1920x1080") as error:
                Scope.of(larger_than=text)
            assert "\n" not in str(error.value)


def test_kinds() -> None:
    assert parse_extensions(["jpg,PNG", ".jpeg", " .TIF , jpg"]) == ("jpg", "png", "jpeg", "tif")
    assert Scope.of(ext="jpg,png") == Scope.of(ext=["jpg", "png"]) == Scope(extensions=("jpg", "png"))
    assert parse_extensions([]) == ()
    for bad in ("", ",", "jpg,", "j%g", "j_g", "*.jpg", "..jpg", "jp g", "jpé"):
        with pytest.raises(UsageError, match="is no ending of a file's name - use jpg"):
            Scope.of(ext=[bad])


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Scope.of(under="a/../b/").under == str(tmp_path / "b")  # need not be there
    assert Scope.of(under=".").under == str(tmp_path)
    assert Scope.of(under=Path("~/x")).under == str(tmp_path / "home" / "x")
    assert Scope.of(under="link").under == str(tmp_path / "link")
    for bad in ("", os.fsdecode(b"caf\xe9")):
        with pytest.raises(UsageError, match="is no folder of photos") as error:
            Scope.of(under=bad)
        str(error.value).encode()


def test_what_keeps_nothing_out_is_false() -> None:
    assert not Scope.of()
    assert not Scope()
    for scope in (
        Scope.of(under="/"),
        Scope.of(since="1" * 4),
        Scope.of(until="2024"),
        Scope.of(larger_than="0"),
        Scope.of(ext="a"),
    ):
        assert scope


def test_clocks_count_seconds_and_know_no_summer() -> None:
    assert clock_seconds(datetime(1970, 1, 1)) == 0
    assert clock_seconds(datetime(1969, 12, 31, 23, 59, 59)) == -1
    moments = [datetime(1826, 1, 1) + timedelta(hours=n) for n in range(0, 24 * 365 * 300, 9999)]
    assert np.ptp(np.diff([clock_seconds(moment) for moment in moments])) == 0


VIEWS = st.sets(st.integers(0, 39)).map(lambda views: np.array(sorted(views), np.int64))


@given(ids=VIEWS, some=VIEWS)
@example(ids=np.arange(0), some=np.arange(0))
@example(ids=np.arange(9), some=np.arange(0))
@example(ids=np.arange(0), some=np.arange(9))
@example(ids=np.arange(40), some=np.arange(40))
@example(ids=np.arange(0, 40, 2), some=np.arange(1, 40, 2))
@example(ids=np.arange(0, 40, 3), some=np.arange(0, 40, 2))
def test_places(ids: np.ndarray, some: np.ndarray) -> None:
    assert places_in(ids, some).tolist() == [place for place, view in enumerate(ids) if view in some]
    assert places_in(ids, some).dtype == np.int64


def test_more_endings_than_a_scope_may_have() -> None:
    assert len(Scope.of(ext=",".join(f"e{i}" for i in range(100))).extensions) == 100
    with pytest.raises(UsageError, match="--ext names 101 endings - 100 are the most"):
        Scope.of(ext=[f"e{i}" for i in range(101)])
