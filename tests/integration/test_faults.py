"""The campaign of benchmarks/faults.py in small: an index loses nothing to a kill or a full disk, and names damage."""

import random
import shutil
import tempfile
from itertools import islice, pairwise
from pathlib import Path

import pytest

from benchmarks import faults


@pytest.fixture(scope="module")
def world():
    """One for all: starting Python and making the indexes takes most of the time."""
    work = Path(tempfile.mkdtemp())
    work.chmod(0o755)  # pytest's own folders may be entered by their owner only, and one test is somebody else
    try:
        with faults.a_world(work) as world:
            yield world
    finally:
        shutil.rmtree(work)


def test_undisturbed_runs_are_right(world):
    """What the tests below compare with."""
    for name, base in world.bases.items():
        assert base.after.wrong == base.after.damaged == [], name
        assert len(base.states) > 1, name  # it does commit
        assert base.events > 20, name  # and can be killed in many places
    assert world.bases["forget"].after.empty_rows > world.bases["compact"].after.empty_rows == 0
    for name in ("add", "rescan"):  # merges are commits that change no listing
        states = world.bases[name].states
        assert any(one == other for one, other in pairwise(states)), name
    assert world.bases["grow"].after.codecs == world.bases["to q2"].after.codecs == {"q2"}


def test_nothing_is_lost_to_a_kill(world):
    points = list(faults.kill_points(world, count=20, seed=1))
    assert [problem for *_, wrong in points for problem in wrong] == []
    assert len(points) == 20
    assert sum(killed for _, killed, _, _ in points) >= 15
    assert {name for name, *_ in points} == set(world.bases)


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.__name__)
def test_other_faults(world, fault):
    tries = list(islice(fault(world, random.Random(1)), 2))
    if not tries:
        pytest.skip("cannot be tried here")
    assert [problem for wrong in tries for problem in wrong] == []
