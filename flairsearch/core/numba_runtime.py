"""Loops that numba compiles, and threads that share them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, TypeVar

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function, reorder: bool = False) -> _Function:
    """reorder: sums may be taken in any order, which is what makes vector instructions of a plain loop."""
    options: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"} if reorder else False}
    try:
        jitted: _Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep it in: every process compiles it anew
        jitted = numba.njit(**options)(function)
    return jitted


def share_out(
    work: Callable[[Iterator[tuple[int, int]]], None], rows: int, size: int, threads: int | None = None
) -> None:
    """Each thread takes the next piece of the rows when it is done with one: cores are not equally free."""
    starts = count(0, size)

    def pieces() -> Iterator[tuple[int, int]]:
        while (start := next(starts)) < rows:
            yield start, min(start + size, rows)

    number = min(threads or _cores(), -(-rows // size))
    if number <= 1:
        work(pieces())
        return
    with ThreadPoolExecutor(number) as pool:
        for done in [pool.submit(work, pieces()) for _ in range(number)]:
            done.result()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
