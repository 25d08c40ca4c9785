"""One thread for OpenBLAS, unless the environment says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = "from flairsearch.core.blas_threads import use_one_blas_thread as one; one(); import os; print(os.environ[{!r}])"
NAME = "OPENBLAS_NUM_THREADS"


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("3", "3")])
def test_a_value_in_the_environment_is_kept(given: str | None, expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != NAME}
    if given is not None:
        environment[NAME] = given
    done = subprocess.run([sys.executable, "-c", CODE.format(NAME)], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == expected
