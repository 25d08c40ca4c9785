"""Long arrays and sequences in parts, and where sorted arrays have values."""

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
    """An array or a sequence in parts of `size` values, the last one shorter."""
    return (values[start : start + size] for start in range(0, len(values), size))


def positions_of(ids: NDArray[np.int64], some: NDArray[np.int64]) -> NDArray[np.int64]:
    """ids i64[N], some i64[n], both ascending -> where in `ids` those are that it has, ascending."""
    some = some[: int(some.searchsorted(ids[-1:], "right").sum())]  # the others are larger than all
    places = ids.searchsorted(some)
    there: NDArray[np.int64] = places[ids[places] == some]
    return there
