"""Measure how long the stages of a search take."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager


class StageTimer:
    """Adds up the seconds of each stage, in the order in which stages were first timed."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time that is spent in the `with` block to a stage; stages do not nest."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def process_age_seconds() -> float | None:
    """Return the seconds since this process was started; None if the system does not tell."""
    try:
        with open("/proc/self/stat", encoding="ascii") as stream:
            # The 22nd field of proc(5) is the start in clock ticks after boot; the 20th after the name in parentheses.
            ticks = int(stream.read().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError, IndexError):
        return None
