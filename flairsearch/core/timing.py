"""How long the parts of an answer take."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager


class StageTimer:
    """Seconds by part, in the order in which parts were first timed."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Adds the time within to a part; parts do not nest."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun


def process_age_seconds() -> float | None:
    """Seconds since this process was started; None where the system does not say."""
    try:
        with open("/proc/self/stat", encoding="ascii") as stream:
            ticks = int(stream.read().rpartition(")")[2].split()[19])  # the 22nd field, proc(5): after boot
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError, IndexError):
        return None
