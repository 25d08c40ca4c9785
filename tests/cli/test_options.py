"""The words that a shell offers for options, and how quickly it does."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from flairsearch.cli import options
from flairsearch.codecs.codec import check_codec
from flairsearch.core.query import POSITIONS, Query
from flairsearch.core.request import SearchRequest
from flairsearch.core.settings import check_device, check_views


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("holiday", "home"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.json").write_text("{}")
    (tmp_path / "no-index").mkdir()
    monkeypatch.setenv("FLAIRSEARCH_HOME", str(tmp_path))
    monkeypatch.setenv("FLAIRSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def complete(words: str) -> tuple[list[str], float]:
    """The words that bash is offered for the last word, and the seconds of a core that it takes: the best of three."""
    count = len(words.split(" ")) - 1
    variables = {"_FLAIRSEARCH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    code = "import sys; from flairsearch.cli.main import main; sys.argv = ['flairsearch']; main()"
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **variables}, check=False
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.stderr == ""
    return done.stdout.split(), min(took)


@pytest.mark.parametrize("command", ["query", "index", "status", "forget", "verify"])
def test_names_of_indexes_at_once(home: Path, command: str) -> None:
    words, took = complete(f"flairsearch {command} --index ")
    assert words == ["holiday", "home"]
    assert took < 0.5  # It takes 0.15 to 0.2 seconds.
    assert complete(f"flairsearch {command} --index hom")[0] == ["home"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("index --codec q", ["q4", "q2", "q1"]),
        ("compact --codec i", ["int8"]),
        ("index --views s", ["squash"]),
        ("query --device c", ["cpu", "cuda"]),
        ("query --position t", ["top"]),
        ("query --score s", ["sum"]),
        ("index --model flair-s", ["flair-small"]),
    ],
)
def test_words_of_other_options(home: Path, words: str, offered: list[str]) -> None:
    assert complete(f"flairsearch {words}")[0] == offered


def test_all_choices_of_a_search_are_offered(home: Path) -> None:
    assert complete("flairsearch query --position ")[0] == list(POSITIONS)
    assert complete("flairsearch query --score ")[0] == ["flair", "global", "sum"]


def test_every_word_offered_is_one_that_is_taken(home: Path) -> None:
    for word in complete("flairsearch query --position ")[0]:
        assert Query("a dog", position=word).positions == (word,)
    for word in complete("flairsearch query --score ")[0]:
        assert SearchRequest.of("a dog", score=word).score == word
    assert [check_codec(word) for word in options.complete_codec("")]
    assert [check_views(word) for word in options.complete_views("")]
    assert [check_device(word) for word in options.complete_device("")]
    assert "flair-merged30m" in options.complete_model("flair-m")
    assert options.complete_index("x") == []


def test_a_home_that_is_not_there_offers_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAIRSEARCH_HOME", str(tmp_path / "nowhere"))
    assert options.complete_index("") == []


def test_completion_imports_nothing_heavy(home: Path) -> None:
    code = (
        "import sys; from flairsearch.cli import options; options.complete_index(''); options.complete_views('')\n"
        "heavy = {'numpy', 'torch', 'sqlite3', 'faiss', 'PIL', 'rich.table'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
