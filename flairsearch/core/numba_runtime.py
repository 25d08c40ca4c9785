"""Compile loops with numba, and run them in threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, TypeVar

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function, reorder: bool = False) -> _Function:
    """Compile a function with numba.

    reorder: allow sums in any order, so that a plain loop becomes vector instructions.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"} if reorder else False}
    try:
        jitted: _Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # There is no writable cache folder, so every process compiles the function.
        jitted = numba.njit(**options)(function)
    return jitted


def run_in_threads(
    work: Callable[[Iterator[tuple[int, int]]], None], rows: int, size: int, threads: int | None = None
) -> None:
    """Split rows into pieces of `size` rows and process them in threads.

    work: called once in each thread with an iterator of pieces (first row, row after the last). A thread takes the next
    piece when it has finished one, since cores are not equally busy.
    """
    starts = count(0, size)

    def pieces() -> Iterator[tuple[int, int]]:
        while (start := next(starts)) < rows:
            yield start, min(start + size, rows)

    thread_count = min(threads or _usable_cores(), -(-rows // size))
    if thread_count <= 1:
        work(pieces())
        return
    with ThreadPoolExecutor(thread_count) as pool:
        for future in [pool.submit(work, pieces()) for _ in range(thread_count)]:
            future.result()


def _usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
