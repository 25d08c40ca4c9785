"""Memory that is freed and soon wanted again."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # The numbers of glibc's malloc.h.


def keep_freed_memory() -> None:
    """Let glibc keep what this process frees, where there is glibc.

    Arrays of some MB would be taken from the system anew each time: half of the time of a convolutional tower, and a
    tenth of that of a warm query, would be page faults.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL("libc.so.6").mallopt
            mallopt(_M_MMAP_THRESHOLD, 1 << 30)
            mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
