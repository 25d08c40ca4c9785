"""The commands of README.md and docs/ run; every verb, option, variable, extra and field is documented and exists.

Commands run in the folder of conftest.py. NOT_RUN says what is not run, and why.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import click
import pytest

from flairsearch.cli import main
from flairsearch.core.reports import Status
from flairsearch.core.request import OPTIONS
from tests.support.command import RunCommand
from tests.support.pages import (
    CHANGES,
    CLI,
    CURRENT,
    HTTP,
    PAGES,
    PYTHON,
    README,
    ROOT,
    blocks,
    commands,
    field_names,
    inline_commands,
    options,
    options_in,
    prose,
    section,
    spans,
    subcommands,
    table_names,
    text_of,
)

pytestmark = pytest.mark.skipif(not README.is_file(), reason="no README.md")
# The beginning of a command, as a regular expression -> why it is only parsed.
NOT_RUN = {
    "flairsearch index --watch": "never ends",
    r"flairsearch index --index \$HOME": "cron's, in a folder that is not there",
    "flairsearch query .* --open": "opens a window",
    "flairsearch query .* --server": "there is no server on that port; tests/docs/test_http_page.py asks one",
    "flairsearch serve": "never ends; tests/docs/conftest.py starts one",
    "flairsearch models pull": "downloads",
    "flairsearch index --rebuild --model flair-merged30m": "downloads",
    "flairsearch eval$": "slow; tests/cli/test_evaluate.py measures an index",
    "flairsearch eval .*--codecs": "slow; tests/cli/test_evaluate.py compares codecs",
    "flairsearch eval .*--rerank": "slow; tests/cli/test_evaluate.py has these modes",
    "flairsearch eval instances_val2017.json": "COCO is not here",
    "flairsearch eval VOCDIR": "VOC is not here",
    "flairsearch demo --photos": "the same as without, on other photos",
    "flairsearch --install-completion": "changes the shell's settings",
    "flairsearch --show-completion": "asks the shell that runs it",
}


def is_run(line: str) -> bool:
    """Whether a command is run, not only parsed."""
    return not any(re.match(start, line) for start in NOT_RUN)


SHOWN = list(dict.fromkeys(line for page in (README, CLI, PYTHON, HTTP) for line in commands(page)))


def test_there_are_commands() -> None:
    assert {line.split()[1] for line in SHOWN} >= {"index", "query", "show", "serve", "status", "eval"}
    named = [*SHOWN, *inline_commands(README), *inline_commands(CLI)]
    for start in NOT_RUN:
        assert any(re.match(start, line) for line in named), f"{start} is in no page any more"


@pytest.mark.parametrize("line", list(filter(is_run, SHOWN)))
def test_commands_run(place: Path, run: RunCommand, line: str) -> None:
    if "|" in line:
        done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return
    ended = run(*map(os.path.expanduser, shlex.split(line)[1:]))
    assert ended.code == 0, ended.err
    if line.startswith(("flairsearch query", "flairsearch show")) and "--json" in line:
        assert [json.loads(hit)["path"] for hit in ended.out.splitlines()]


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)
def test_commands_parse(page: Path) -> None:
    root = main.root()
    for line in [*commands(page), *inline_commands(page)]:
        words = shlex.split(line.partition("|")[0])[1:]
        if not words or words[0].isupper():
            continue
        if words[0].startswith("--"):
            assert words[0] in options(root), line
            continue
        command, context = root, click.Context(root, info_name="flairsearch")
        while words and (below := subcommands(command)):
            assert words[0] in below, f"no command {words[0]!r}: {line}"
            command = below[words.pop(0)]
        if words:
            try:
                command.make_context("flairsearch", words, parent=context)
            except Exception as error:
                pytest.fail(f"{line}: {error}")


def test_all_verbs_and_options_are_documented() -> None:
    root = main.root()
    verbs = subcommands(root)
    assert verbs
    linked = re.findall(r"^\| \[(\w+)\]\(#(\w+)\)", text_of(CLI), re.MULTILINE)
    assert {verb for verb, anchor in linked if verb == anchor} == set(verbs)
    for verb, command in verbs.items():
        named = options_in(section(CLI, verb))
        missing = options(command) - named - {"--help"}
        assert not missing, f"docs/cli.md says nothing of {verb} {' '.join(sorted(missing))}"
        for below in subcommands(command):
            assert f"`{below}`" in section(CLI, verb)


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)
def test_options_exist(page: Path) -> None:
    unknown = options_in(text_of(page)) - options(main.root()) - {"--help", "-h"}
    assert not unknown, f"{page.name}: no option {unknown}"


def test_options_are_of_their_verb() -> None:
    """The tables in a verb's section have only options of this verb."""
    for verb, command in subcommands(main.root()).items():
        rows = re.findall(r"^\| (`-[^|]*)\|", section(CLI, verb), re.MULTILINE)
        assert not options_in("\n".join(rows)) - options(command), verb


def test_changelog() -> None:
    """Old options and parameters are gone, and new ones exist."""
    verbs, changes = subcommands(main.root()), text_of(CHANGES)
    renamed = re.findall(r"^\| (\w+) \| `(--[\w-]+)` \| `(--[\w-]+)` \|", changes, re.MULTILINE)
    assert len(renamed) >= 7
    for verb, old, new in renamed:
        assert old not in options(verbs[verb]), old
        assert new in options(verbs[verb]), new
    parameters = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", section(CHANGES, "Unreleased"), re.MULTILINE)
    assert {new for old, new in parameters if new.islower()} == {"exclude", "position", "folder", "extension"}
    assert not {old for old, _ in parameters} & OPTIONS.keys()


def test_environment() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "flairsearch").rglob("*.py"))
    read = set(re.findall(r"[\"'](FLAIRSEARCH_[A-Z]+)[\"']", source))
    assert read == {name for name in table_names(CLI, "variable") if name.startswith("FLAIRSEARCH")}
    for page in CURRENT:
        assert set(re.findall(r"FLAIRSEARCH_[A-Z]+", text_of(page))) <= read


def test_extras() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(table_names(CLI, "extra")) == project["optional-dependencies"].keys() - {"dev"}


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    code = "\n".join([*blocks(README, "sh"), *spans(prose(README))])
    named = set(re.findall(r"(?:^|&& |or |: )make ([a-z]+)", code, re.MULTILINE))
    assert named >= {"demo", "test", "check"}
    assert named <= targets


def test_modules_exist() -> None:
    """The modules of `python -m benchmarks...` and the named files of the package exist."""
    for page in PAGES:
        for module in re.findall(r"python -m ((?:benchmarks|training)[.\w]*)", text_of(page)):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), f"{page.name}: {module}"
    for name in re.findall(r"`(?:flairsearch/)?([\w/]+\.py)`", text_of(ROOT / "docs" / "how-it-works.md")):
        assert (ROOT / "flairsearch" / name).is_file(), name


def test_json_fields(place: Path, run: RunCommand) -> None:
    hit = json.loads(run("query", "a cat", "--json", "-k", 1).out)
    assert set(table_names(CLI, "field of a hit")) == set(hit)
    (phrase,), (region, *_) = hit["phrases"], hit["regions"]
    rows = section(CLI, "JSON")
    assert all(f"`{name}`" in rows for name in (*phrase, *region))
    status = json.loads(run("status", "--json").out)
    assert set(table_names(CLI, "field of status")) == set(status) == field_names(Status)
    rows = section(CLI, "status")
    assert all(f"`{name}`" in rows for name in (*status["sizes"], *status["last_run"]))


def test_exit_codes(place: Path, run: RunCommand) -> None:
    assert run("query", "a cat", "--min-score", "0.999").code == 0
    assert run("query", "a cat", "--index", "./nowhere").code == 1
    assert run("query", "").code == 2
    assert run("query", "a cat", "--since", "soon").code == 2
    (place / "broken").mkdir()
    (place / "broken" / "photo.jpg").write_bytes(b"no photo")
    assert run("index", "broken", "--index", "./broken.index").code == 1
