"""Times of stages, and the age of a process."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
import time
from io import StringIO
from typing import Any

import pytest

from flairsearch.core import timing
from flairsearch.core.timing import StageTimer, process_age_seconds


def test_seconds_of_a_stage_are_added_up_in_the_order_of_their_first() -> None:
    times = StageTimer()
    assert times.seconds == {}
    for name, taken in (("open", 0.01), ("rank", 0.03), ("open", 0.02), ("show", 0.0)):
        with times.stage(name):
            time.sleep(taken)
    assert list(times.seconds) == ["open", "rank", "show"]
    assert 0.03 <= times.seconds["open"] < 0.3
    assert 0.03 <= times.seconds["rank"] < 0.3
    assert 0 <= times.seconds["show"] < 0.03


def test_a_stage_that_fails_counts_too() -> None:
    times = StageTimer()
    with pytest.raises(KeyError), times.stage("rank"):
        {}[time.sleep(0.01)]
    assert times.seconds["rank"] >= 0.01


def test_two_timers_are_two() -> None:
    one, other = StageTimer(), StageTimer()
    with one.stage("open"):
        pass
    assert (list(one.seconds), other.seconds) == (["open"], {})


def test_the_age_of_a_process() -> None:
    """It starts after its parent called it and before its first line runs; the system counts in hundredths."""
    code = "import time; time.sleep(0.3); from flairsearch.core.timing import process_age_seconds as age; print(age())"
    before = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    whole = time.perf_counter() - before
    assert 0.28 <= float(done.stdout) <= whole + 0.02
    first = process_age_seconds()
    time.sleep(0.05)
    second = process_age_seconds()
    assert first is not None
    assert second is not None
    assert 0.03 <= second - first < 1
    assert first > 0


@pytest.mark.parametrize("name", ["(x", "a) R 1 2 3 (b", ") ) )", "a b c", ""])
def test_a_process_of_any_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By proc(5), the second field is a name in parentheses, which may hold parentheses itself."""
    real = open("/proc/self/stat", encoding="ascii").read()  # noqa: SIM115
    fields = real.rpartition(")")[2]
    monkeypatch.setattr(builtins, "open", lambda *_, **__: StringIO(f"123 ({name}){fields}"))
    assert process_age_seconds() == pytest.approx(_age(fields), abs=0.5)


def _age(fields: str) -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields.split()[19]) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("content", ["", "1", "1 (x) R", "1 (x) " + "a " * 60, "no brackets at all"])
def test_a_system_that_says_nothing_of_it(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "open", lambda *_, **__: StringIO(content))
    assert process_age_seconds() is None


def test_a_system_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise FileNotFoundError

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", missing)
        assert process_age_seconds() is None
    monkeypatch.delattr(timing.time, "CLOCK_BOOTTIME")
    assert process_age_seconds() is None
