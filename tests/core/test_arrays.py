"""Positions of values in sorted arrays, and chunks."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from flairsearch.core.arrays import chunks, evenly_spaced, positions_of

VIEWS = st.sets(st.integers(0, 39)).map(lambda views: np.array(sorted(views), np.int64))


@given(ids=VIEWS, wanted=VIEWS)
@example(ids=np.arange(0), wanted=np.arange(0))
@example(ids=np.arange(9), wanted=np.arange(0))
@example(ids=np.arange(0), wanted=np.arange(9))
@example(ids=np.arange(40), wanted=np.arange(40))
@example(ids=np.arange(0, 40, 2), wanted=np.arange(1, 40, 2))
@example(ids=np.arange(0, 40, 3), wanted=np.arange(0, 40, 2))
def test_positions(ids: np.ndarray, wanted: np.ndarray) -> None:
    assert positions_of(ids, wanted).tolist() == [position for position, view in enumerate(ids) if view in wanted]
    assert positions_of(ids, wanted).dtype == np.int64


@given(values=st.lists(st.integers()), size=st.integers(1, 9))
def test_chunks_are_all_values_in_order(values: list[int], size: int) -> None:
    parts = list(chunks(values, size))
    assert [value for part in parts for value in part] == values
    assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)
    assert all(0 < len(part) <= size for part in parts)


def test_evenly_spaced() -> None:
    assert evenly_spaced(0, 1000).tolist() == []
    assert evenly_spaced(3, 1000).tolist() == [0, 1, 2]
    positions = evenly_spaced(10_007, 1000)
    assert len(positions) == 1000 == len(np.unique(positions))
    assert positions[0] == 0
    assert positions[-1] < 10_007
    assert set(np.diff(positions).tolist()) <= {10, 11}
