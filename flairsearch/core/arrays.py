"""Split arrays and sequences into chunks, and find values in sorted arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_T = TypeVar("_T")


@overload
def chunks(values: NDArray[Any], size: int) -> Iterator[NDArray[Any]]: ...
@overload
def chunks(values: Sequence[_T], size: int) -> Iterator[Sequence[_T]]: ...
def chunks(values: Any, size: int) -> Iterator[Any]:
    """Split an array or a sequence into parts of `size` values; the last one may be shorter."""
    return (values[start : start + size] for start in range(0, len(values), size))


def positions_of(ids: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the positions of the wanted values in `ids`, i64[n], ascending; values that are not in `ids` have none.

    ids: i64[N], ascending. wanted: i64[K], ascending.
    """
    wanted = wanted[: int(wanted.searchsorted(ids[-1:], "right").sum())]  # Values larger than all ids are dropped.
    positions = ids.searchsorted(wanted)
    result: NDArray[np.int64] = positions[ids[positions] == wanted]
    return result


def evenly_spaced(count: int, max_positions: int) -> NDArray[np.int64]:
    """Return evenly spaced positions i64[min(count, max_positions)] in a sequence of `count` values."""
    import numpy as np

    size = min(count, max_positions)
    positions: NDArray[np.int64] = np.arange(size) * count // max(1, size)
    return positions
