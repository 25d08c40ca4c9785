"""`flairsearch ARGUMENTS` in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from flairsearch.cli import main
from flairsearch.model import prompts


class Done:
    """What a run left: exit code, stdout, stderr."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def message(self) -> str:
        """The one line of an error."""
        (line,) = self.err.splitlines()
        assert line.startswith("flairsearch: ")
        return line


RunCommand = Callable[..., Done]


def shorten_bank(patch: pytest.MonkeyPatch, count: int = 100) -> None:
    """The first texts of the bank stand for all: to encode and fit 2,400 takes five seconds for each new model."""
    patch.setattr(prompts, "texts", partial(prompts.texts, count))


def settle(work: Path, patch: pytest.MonkeyPatch) -> None:
    """Make it the working folder, with cache and indexes beside it, and no hub."""
    patch.setenv("FLAIRSEARCH_CACHE", str(work.parent / "cache"))
    patch.setenv("FLAIRSEARCH_HOME", str(work.parent / "indexes"))
    patch.setenv("COLUMNS", "200")
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.chdir(work)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> RunCommand:
    """`flairsearch ARGUMENTS` through the console script's own function."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["flairsearch", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        code = caught.value.code
        return Done(code if isinstance(code, int) else 0, out, err)

    return run
