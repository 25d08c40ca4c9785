"""benchmarks/mutants.py on a package of two modules: drawing mutants, running tests, and finding moved modules."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import mutants

SUMS = '''"""Sums: é < ü, 1 + 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    LIMIT = 1 + 2


def add(one: int, other: Literal[5] = 3) -> Literal[6] | None:
    """1 < 2."""
    assert one < 99
    known = one if "é" in "née" else 7; total = (one  # 1 < 2
        + other)
    return total if total is not known else None


def unseen(values: list[float]) -> float:
    for value in values:
        if value > 0.5 and not (value == 2 or False):
            break
    return value
'''
CONFTEST = """import pytest
from tiny.sums import unseen


@pytest.fixture
def seen():
    return unseen([1])
"""
FILES = {
    "tiny/__init__.py": '"""Tiny."""\n',
    "tiny/sums.py": SUMS,
    "tiny/alone.py": "NUMBER = 41\n",
    "tests/conftest.py": CONFTEST,
    "tests/test_sums.py": "def test_sums():\n    from tiny.sums import add\n    assert add(2) == 5\n",
    "tests/test_none.py": "def test_none():\n    assert True\n",
    "tests/test_other.py": "import tiny.sums\n\n\ndef test_other(seen):\n    assert tiny.sums.add(1, 1) == 2\n",
}
# Each change has its kind, the code before and the code after.
CHANGES = {
    ("integer", "3", "4"),
    ("integer", "7", "8"),
    ("integer", "2", "3"),
    ("integer", "41", "42"),
    ("comparison", "in", "not in"),
    ("arithmetic", "+", "-"),
    ("comparison", "is not", "is"),
    ("branch", "value > 0.5 and not (value == 2 or False)", "not (value > 0.5 and not (value == 2 or False))"),
    ("comparison", ">", ">="),
    ("comparison", "==", "!="),
    ("boolean", "and", "or"),
    ("boolean", "or", "and"),
    ("float", "0.5", "1.0"),
    ("flag", "False", "True"),
    ("not", "not (value == 2 or False)", "(value == 2 or False)"),
    ("jump", "break", "continue"),
}

Command = Callable[..., dict[str, Any]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs the command in its own repository and returns the JSON that it wrote."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # Loading them takes a second each time.
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["mutants", *arguments])
        mutants.main()
        written: dict[str, Any] = json.loads(Path(arguments[arguments.index("--out") + 1]).read_bytes())
        return written

    return command


def draw(command: Command, out: str = "mutants.json", count: int = 99, seed: int = 0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = command(
        "draw", "--package", "tiny", "--out", out, "--count", str(count), "--seed", str(seed)
    )["mutants"]
    return found


def test_each_mutant_changes_one_place(command: Command) -> None:
    every = draw(command)
    assert {(mutant["kind"], mutant["before"], mutant["after"]) for mutant in every} == CHANGES
    assert len(every) == len(CHANGES)
    for mutant in every:
        source = Path(mutant["module"]).read_bytes()
        changed = mutants.apply_mutant(source, mutant)
        assert changed[: mutant["offset"]] == source[: mutant["offset"]]
        assert source[mutant["offset"] : mutant["end"]].decode() == mutant["before"]
        assert source.endswith(changed[mutant["offset"] + len(mutant["text"].encode()) :])
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))
        line = source.decode().splitlines()[mutant["line"] - 1]
        assert mutant["context"].startswith(line)
        assert line[mutant["column"] - 1 :].startswith(mutant["before"])


def test_a_seed_draws_the_same_again_and_fewer_are_the_first(command: Command) -> None:
    assert draw(command, count=9) == draw(command, "again.json", count=9) == draw(command, "more.json")[:9]
    assert draw(command) != draw(command, seed=1)


def test_caught_and_surviving_mutants(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    ids = {one["before"]: one["id"] for one in draw(command)}
    chosen = {ids["+"]: "caught", ids["7"]: "survived", ids["41"]: "no tests"}
    results = command("run", "mutants.json", "--out", "results.json", "--only", *chosen)["results"]
    assert {name: result["outcome"] for name, result in results.items()} == chosen
    assert results[ids["+"]]["note"] == "tests/test_sums.py::test_sums"
    assert [results[name]["tests"] for name in chosen] == [2, 2, 0]
    said = capsys.readouterr().out
    assert f"{ids['+']}  tiny/sums.py:15  arithmetic  + -> -  caught" in said
    assert re.findall(r"^([a-z ]+?) +(\d+)$", said, re.M) == [
        ("caught", "1"),
        ("survived", "1"),
        ("no tests", "1"),
        ("not found", "0"),
    ]
    assert Path("tiny/sums.py").read_text(encoding="utf-8") == SUMS, "the working tree stays as it is"


def test_a_run_continues_and_finds_moved_modules(command: Command) -> None:
    every = draw(command, count=16)
    first, last = (next(one["id"] for one in every if one["before"] == text) for text in ("41", "is not"))
    kept = command("run", "mutants.json", "--out", "results.json", "--only", first)["results"][first]
    Path("tiny/deep").mkdir()
    Path("tiny/sums.py").rename("tiny/deep/total.py")
    Path("tiny/deep/total.py").write_text("# New.\n" + SUMS.replace("LIMIT", "MOST"), encoding="utf-8")
    for test in Path("tests").glob("*.py"):
        test.write_text(test.read_text().replace("tiny.sums", "tiny.deep.total"))
    results = command("run", "mutants.json", "--out", "results.json", "--only", last)["results"]
    assert results[first] == kept
    assert results[last] | {"seconds": 0} == {
        "module": "tiny/deep/total.py",
        "line": 17,
        "kind": "comparison",
        "tests": 2,
        "note": "tests/test_sums.py::test_sums",
        "outcome": "caught",
        "seconds": 0,
    }


def test_a_changed_module_is_refused_unless_it_is_named(command: Command) -> None:
    (one,) = (one for one in draw(command) if one["before"] == "41")
    Path("tiny/alone.py").write_text("OTHER = 1\nNUMBER = 41\n")
    run = ("run", "mutants.json", "--out", "results.json", "--only", one["id"])
    with pytest.raises(SystemExit, match=r"^tiny/alone.py has changed since the draw - .*--map"):
        command(*run)
    assert command(*run, "--map", "tiny/alone.py=tiny/alone.py")["results"][one["id"]]["line"] == 2
    Path("tiny/alone.py").write_text("NUMBER = 40\n")
    assert command(*run, "--map", "tiny/alone.py=tiny/alone.py")["results"][one["id"]]["outcome"] == "not found"


def test_a_mutant_that_does_not_end_is_caught(command: Command) -> None:
    Path("tests/test_alone.py").write_text(
        "import tiny.alone\n\n\ndef test():\n    while tiny.alone.NUMBER > 41:\n        pass\n"
    )
    (one,) = (one for one in draw(command) if one["before"] == "41")
    run = ("run", "mutants.json", "--out", "results.json", "--timeout", "2", "--only", one["id"])
    result = command(*run)["results"][one["id"]]
    assert (result["outcome"], result["note"]) == ("caught", "timeout")
