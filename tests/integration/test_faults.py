"""A small run of benchmarks/faults.py: an index loses nothing to a kill or a full disk, and names damage."""

import random
import shutil
import tempfile
from itertools import islice, pairwise
from pathlib import Path

import pytest

from benchmarks import faults


@pytest.fixture(scope="module")
def world():
    """Make one world for all tests, because starting Python and making the indexes takes most of the time."""
    work = Path(tempfile.mkdtemp())
    work.chmod(0o755)  # One test runs as another user, who may not enter pytest's own folders.
    try:
        with faults.make_world(work) as world:
            yield world
    finally:
        shutil.rmtree(work)


def test_undisturbed_runs_are_right(world):
    """The tests below compare with these runs."""
    for name, base in world.baselines.items():
        assert base.after.wrong == base.after.damaged == [], name
        assert len(base.states) > 1, name  # The command commits.
        assert base.events > 20, name  # The command can be killed in many places.
    assert world.baselines["forget"].after.empty_rows > world.baselines["compact"].after.empty_rows == 0
    for name in ("add", "rescan"):  # Merges are commits that do not change the listing.
        states = world.baselines[name].states
        assert any(first == second for first, second in pairwise(states)), name
    assert world.baselines["grow"].after.codecs == world.baselines["to q2"].after.codecs == {"q2"}


def test_nothing_is_lost_to_a_kill(world):
    points = list(faults.kill_points(world, count=20, seed=1))
    assert [problem for *_, wrong in points for problem in wrong] == []
    assert len(points) == 20
    assert sum(killed for _, killed, _, _ in points) >= 15
    assert {name for name, *_ in points} == set(world.baselines)


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.__name__)
def test_other_faults(world, fault):
    tries = list(islice(fault(world, random.Random(1)), 2))
    if not tries:
        pytest.skip("cannot be tried here")
    assert [problem for wrong in tries for problem in wrong] == []
