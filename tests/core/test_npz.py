"""Arrays of a layout are restored; whatever does not fit the layout is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flairsearch.core.npz import Layout, load_arrays, save_arrays

LAYOUT: Layout = {"a": (np.float32, "N D"), "b": (np.int64, "N"), "c": (np.uint16, "3 D")}
GOOD = {"a": np.ones((4, 2), np.float32), "b": np.arange(4), "c": np.zeros((3, 2), np.uint16)}


def test_arrays_are_restored(tmp_path: Path) -> None:
    save_arrays(tmp_path / "x.npz", GOOD | {"more": np.ones(1)})
    found = load_arrays(tmp_path / "x.npz", LAYOUT)
    assert list(found) == list(LAYOUT)
    for name, array in GOOD.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a", GOOD["a"].astype(np.float64)),
        ("a", GOOD["a"].astype(">f4")),
        ("a", GOOD["a"].T.copy()),
        ("a", GOOD["a"][:, :1]),
        ("a", GOOD["a"][None]),
        ("a", np.full((4, 2), np.nan, np.float32)),
        ("a", np.full((4, 2), np.inf, np.float32)),
        ("b", np.arange(5)),
        ("b", np.int64(4)),
        ("c", np.zeros((4, 2), np.uint16)),
        ("c", np.zeros((3, 0), np.uint16)),
    ],
)
def test_an_array_that_does_not_fit_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    save_arrays(tmp_path / "x.npz", GOOD | {name: value})
    with pytest.raises(ValueError, match="its arrays do not fit"):
        load_arrays(tmp_path / "x.npz", LAYOUT)


def test_a_missing_file_or_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_arrays(tmp_path / "x.npz", LAYOUT)
    save_arrays(tmp_path / "x.npz", {"a": GOOD["a"]})
    with pytest.raises(ValueError, match=r"^[^\n]*\bb\b[^\n]*$"):
        load_arrays(tmp_path / "x.npz", LAYOUT)
