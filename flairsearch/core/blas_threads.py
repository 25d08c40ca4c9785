"""Limit the threads of numpy's matrix products."""

from __future__ import annotations

import os


def use_one_blas_thread() -> None:
    """Let OpenBLAS, which numpy multiplies with, use one thread; a value in the environment is kept.

    Call it before numpy is imported; afterwards it has no effect. The products of a search are small: several threads
    wait for one another longer than they calculate, above all beside other work (benchmarks/threads.py). Numba and
    torch have threads of their own.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
