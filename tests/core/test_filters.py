"""Dates, sizes and endings as people write them, as a filter."""

from __future__ import annotations

import itertools
import math
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flairsearch.core.errors import UsageError
from flairsearch.core.filters import Filter, parse_extensions, parse_size


def test_until_is_inclusive_and_not_before_since() -> None:
    month = Filter(since="2024-05", until="2024-05")
    assert (month.taken_since, month.taken_before) == (datetime(2024, 5, 1), datetime(2024, 6, 1))
    assert (month.path, month.larger_than_bytes, month.min_sides, month.extensions) == (None, None, None, ())
    assert Filter(since="2024-05-31T23:59", until="2024-05").taken_before == datetime(2024, 6, 1)
    with pytest.raises(UsageError, match=r"^since: 2024-06 is later than the end, 2024-05 - "):
        Filter(since="2024-06", until="2024-05")


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
            found = Filter(larger_than=text)
            assert (found.larger_than_bytes if found.min_sides is None else found.min_sides) == size
            assert (found.larger_than_bytes is None) == isinstance(size, tuple)


def test_what_is_no_size_is_one_line_that_says_what_is_one(subtests: pytest.Subtests) -> None:
    for text in ("", "MB", "-2MB", "2TB", "2MiB", "big", "1920x", "x1080", "1x2x3", "1,5MB", "9" * 19, "1e6"):
        with subtests.test(text):
            with pytest.raises(
                UsageError, match=r"^larger_than: .*is no size - use 500kB, 2MB, 1.5GB, or pixels: 1920x1080"
            ) as error:
                Filter(larger_than=text)
            assert "\n" not in str(error.value)


def test_values_of_other_types_are_one_line_that_names_the_parameter(subtests: pytest.Subtests) -> None:
    values: list[Any] = [b"x", 5, True, math.nan, object(), ["a", None], np.arange(200).reshape(20, 10)]
    for name, value in itertools.product(("folder", "since", "until", "larger_than", "extension"), values):
        with subtests.test(name, value=repr(value)):
            with pytest.raises(UsageError, match=f"^{name}: ") as error:
                Filter(**{name: value})
            assert "\n" not in str(error.value)
            assert len(str(error.value)) < 250


def test_kinds() -> None:
    assert parse_extensions(["jpg,PNG", ".jpeg", " .TIF , jpg"]) == ("jpg", "png", "jpeg", "tif")
    assert Filter(extension="jpg,png") == Filter(extension=["jpg", "png"])
    assert Filter(extension="jpg,.PNG").extensions == ("jpg", "png")
    assert parse_extensions([]) == ()
    for bad in ("", ",", "jpg,", "j%g", "j_g", "*.jpg", "..jpg", "jp g", "jpé"):
        with pytest.raises(UsageError, match=r"^extension: .* is no ending of a file's name - use jpg"):
            Filter(extension=[bad])


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Filter(folder="a/../b/").path == str(tmp_path / "b")  # The folder need not be there.
    assert Filter(folder=".").path == str(tmp_path)
    assert Filter(folder=Path("~/x")).path == str(tmp_path / "home" / "x")
    assert Filter(folder="link").path == str(tmp_path / "link")
    for bad in ("", os.fsdecode(b"caf\xe9")):
        with pytest.raises(UsageError, match=r"^folder: .*is no folder of photos") as error:
            Filter(folder=bad)
        str(error.value).encode()


def test_a_filter_that_lets_all_through_is_false() -> None:
    assert not Filter()
    assert not Filter(extension=())
    for restricting in (
        Filter(folder="/"),
        Filter(since="1" * 4),
        Filter(until="2024"),
        Filter(larger_than="0"),
        Filter(extension="a"),
    ):
        assert restricting


def test_more_endings_than_a_filter_may_have() -> None:
    assert len(Filter(extension=",".join(f"e{i}" for i in range(100))).extensions) == 100
    with pytest.raises(UsageError, match=r"^extension: 101 endings - 100 are the most"):
        Filter(extension=[f"e{i}" for i in range(101)])
