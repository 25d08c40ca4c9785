"""README.md and docs/ are true: commands and Python blocks run, links lead somewhere, names, options and fields exist.

Commands run in a folder with the sample photos, and ~ has a folder with the same ones. NOT_RUN names what is not run.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import pytest

from flairsearch import (
    Engine,
    Filter,
    Hit,
    ImageExample,
    IndexReport,
    Query,
    Region,
    SearchRequest,
    SearchResult,
)
from flairsearch.cli import main
from flairsearch.core.errors import FlairSearchError
from flairsearch.core.hits import PhraseMatch
from flairsearch.core.reports import Status
from flairsearch.core.request import SearchStats
from tests.support.command import IndexRun, shorten_bank

ROOT = Path(__file__).parents[2]
README, CLI, PYTHON, HTTP = (ROOT / name for name in ("README.md", "docs/cli.md", "docs/python.md", "docs/http.md"))
pytestmark = pytest.mark.skipif(not README.is_file(), reason="no README.md")
OTHERS = (
    "CHANGELOG.md",
    "indexes/README.md",
    "flairsearch/model/data/flair-small.md",
)  # Of these the links are checked.
PAGES = sorted((README, *(ROOT / "docs").glob("*.md")))
# These pages name options of flairsearch only; the other two also name options of benchmarks.
CURRENT = [page for page in PAGES if page.name not in ("regions.md", "shortlist.md")]
OPENING = ("open", "open_for_one_search", "close")  # Methods that open and close an Engine.

ADDRESS = "http://127.0.0.1:8421"
NOT_RUN = {  # the beginning of a command -> why it is only parsed
    "flairsearch index --watch": "never ends",
    r"flairsearch index --index \$HOME": "cron's, in a folder that is not there",
    "flairsearch query .* --open": "opens a window",
    "flairsearch query .* --server": "there is no server on that port; test_a_query_asks_the_server asks one",
    "flairsearch serve": "never ends; the HTTP tests start one",
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


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, *languages: str) -> list[str]:
    """Contents of fenced blocks in one of these languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)
    return [content for language, content in found if language in languages]


def prose(page: Path) -> str:
    """Without fenced blocks."""
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def lines(page: Path, program: str) -> list[str]:
    """The command lines of shell blocks that begin with a program, without comments; a variable may come before it."""
    found = [line.partition("  #")[0].strip() for block in blocks(page, "sh") for line in block.splitlines()]
    return [line for line in found if re.match(rf"([A-Z_]+=\S+ )?{program} ", line)]


def inline(page: Path) -> list[str]:
    """The commands in a sentence, and cron's."""
    found = re.findall(r"`(?:[^`\n]*/)?(flairsearch\s[^`]*)`", prose(page))
    found += [line[line.index("flairsearch ") :] for block in blocks(page, "crontab") for line in block.splitlines()]
    return [" ".join(one.split()) for one in found]


def commands(page: Path) -> list[str]:
    return [re.sub(r"^[A-Z_]+=\S+ ", "", line) for line in lines(page, "flairsearch")]


def is_run(line: str) -> bool:
    return not any(re.match(start, line) for start in NOT_RUN)


SHOWN = list(dict.fromkeys(line for page in (README, CLI, PYTHON, HTTP) for line in commands(page)))


# -- the place where they are run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder: photos, an index of those in ~/Pictures, captions."""
    folder = tmp_path_factory.mktemp("docs")
    work = folder / "work"
    (work / "indexes").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder / "home"))
        patch.setenv("FLAIRSEARCH_HOME", str(work / "indexes"))
        patch.setenv("FLAIRSEARCH_CACHE", str(folder / "cache"))
        patch.delenv("FLAIRSEARCH_TOKEN", raising=False)
        patch.delenv("FLAIRSEARCH_SERVER", raising=False)
        patch.setenv("COLUMNS", "200")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        patch.chdir(work)
        shorten_bank(patch)
        _lay_out(work, folder / "home")
        yield work


def _lay_out(work: Path, home: Path) -> None:
    from flairsearch.cli.samples import copy_samples
    from flairsearch.model.checkpoints import BUNDLED, bundled_file

    photos, pictures = copy_samples(work / "photos"), home / "Pictures"
    shutil.copytree(photos, pictures)
    shutil.copy(photos / "chelsea.png", pictures / "dog.jpg")  # what a file is, its bytes say
    for folder, name in (("2024", "coffee.png"), ("2024", "hubble_deep_field.jpg"), ("old", "rocket.jpg")):
        (pictures / folder).mkdir(exist_ok=True)
        shutil.copy(photos / name, pictures / folder / name)
    shutil.copytree(pictures / "2024", home / "Archive" / "2024")
    shutil.copy(bundled_file(), work / "flair-own.safetensors")
    captions = [{"image": path.name, "caption": [f"a {path.stem}"]} for path in sorted(photos.iterdir())]
    (work / "val.json").write_text(json.dumps(captions))
    box = {"label": "cat", "box": [100, 20, 400, 280]}
    (work / "boxes.jsonl").write_text(json.dumps({"image": "chelsea.png", "size": [451, 300], "boxes": [box]}))
    for index, folder in (("default", pictures), ("trips", pictures / "2024")):
        with Engine.open(index, BUNDLED, device="cpu") as engine:
            engine.add(folder)


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[str]:
    """The address of `flairsearch serve`, on the index of ~/Pictures, whatever the commands made of that."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    shutil.copytree(place / "indexes" / "default", place / "served")
    process = subprocess.Popen(
        [sys.executable, "-m", "flairsearch", "serve", "--index", "./served", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        address = process.stderr.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        yield address
    finally:
        process.terminate()
        process.wait(20)
        process.stderr.close()


# -- what can be typed


def test_there_are_commands() -> None:
    assert {line.split()[1] for line in SHOWN} >= {"index", "query", "show", "serve", "status", "eval"}
    named = [*SHOWN, *inline(README), *inline(CLI)]
    for start in NOT_RUN:
        assert any(re.match(start, line) for line in named), f"{start} is in no page any more"


@pytest.mark.parametrize("line", list(filter(is_run, SHOWN)))
def test_commands_run(place: Path, run: IndexRun, line: str) -> None:
    if "|" in line:
        done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return
    found = run(*map(os.path.expanduser, shlex.split(line)[1:]))
    assert found.code == 0, found.err
    if line.startswith(("flairsearch query", "flairsearch show")) and "--json" in line:
        assert [json.loads(one)["path"] for one in found.out.splitlines()]


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)
def test_commands_parse(page: Path) -> None:
    root = main.root()
    for line in [*commands(page), *inline(page)]:
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


# -- what --help says


def subcommands(command: Any) -> dict[str, Any]:
    """The commands below a command, by name."""
    if not hasattr(command, "list_commands"):
        return {}
    context = click.Context(command)
    return {name: command.get_command(context, name) for name in command.list_commands(context)}


def options(command: Any) -> set[str]:
    """The options of a command and of the commands below it."""
    found = {name for one in command.params for name in (*one.opts, *one.secondary_opts) if name.startswith("-")}
    return found.union(*(options(below) for below in subcommands(command).values()))


def section(page: Path, title: str) -> str:
    """A heading's text, to the next heading of its level."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text_of(page), re.MULTILINE | re.DOTALL)
    assert found, f"no section {title} in {page.name}"
    return found[1]


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def options_in(text: str) -> set[str]:
    """Options named in code spans and shell lines, but for other programs' lines."""
    code = [*spans(text), *re.findall(r"^flairsearch .*", text, re.MULTILINE)]
    ours = (one for one in code if not re.search(r"python -m|curl|pip |xargs", one) or one.startswith("flairsearch"))
    return {name for one in ours for name in re.findall(r"(?<![\w/-])--?[a-z0][\w-]*", one.partition("|")[0])}


def test_all_verbs_and_options_are_documented() -> None:
    root = main.root()
    verbs = subcommands(root)
    assert verbs
    first = re.findall(r"^\| \[(\w+)\]\(#(\w+)\)", text_of(CLI), re.MULTILINE)
    assert {verb for verb, anchor in first if verb == anchor} == set(verbs)
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
    """In the section of a verb no option of another one is in a table."""
    for verb, command in subcommands(main.root()).items():
        rows = re.findall(r"^\| (`-[^|]*)\|", section(CLI, verb), re.MULTILINE)
        assert not options_in("\n".join(rows)) - options(command), verb


def test_changelog() -> None:
    """Old options and parameters are gone, and new ones exist."""
    from flairsearch.core.request import OPTIONS

    verbs, changes = subcommands(main.root()), text_of(ROOT / "CHANGELOG.md")
    renamed = re.findall(r"^\| (\w+) \| `(--[\w-]+)` \| `(--[\w-]+)` \|", changes, re.MULTILINE)
    assert len(renamed) >= 7
    for verb, old, new in renamed:
        assert old == "--exclude" or old not in options(verbs[verb]), old  # The name means something else now.
        assert new in options(verbs[verb]), new
    parameters = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", section(ROOT / "CHANGELOG.md", "Unreleased"), re.MULTILINE)
    assert {new for old, new in parameters if new.islower()} == {"exclude", "position", "folder", "extension"}
    assert not {old for old, _ in parameters} & OPTIONS.keys()


def test_environment() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "flairsearch").rglob("*.py"))
    read = set(re.findall(r"[\"'](FLAIRSEARCH_[A-Z]+)[\"']", source))
    assert read == {name for name in names(CLI, "variable") if name.startswith("FLAIRSEARCH")}
    for page in CURRENT:
        assert set(re.findall(r"FLAIRSEARCH_[A-Z]+", text_of(page))) <= read


def test_extras() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(names(CLI, "extra")) == project["optional-dependencies"].keys() - {"dev"}


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    code = "\n".join([*blocks(README, "sh"), *spans(prose(README))])
    named = set(re.findall(r"(?:^|&& |or |: )make ([a-z]+)", code, re.MULTILINE))
    assert named >= {"demo", "test", "check"}
    assert named <= targets


def test_modules_exist() -> None:
    """`python -m benchmarks...`, and the files of the package that are named."""
    for page in PAGES:
        for module in re.findall(r"python -m ((?:benchmarks|training)[.\w]*)", text_of(page)):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), f"{page.name}: {module}"
    for name in re.findall(r"`(?:flairsearch/)?([\w/]+\.py)`", text_of(ROOT / "docs" / "how-it-works.md")):
        assert (ROOT / "flairsearch" / name).is_file(), name


# -- Python


def run_python(code: str, page: Path, known: dict[str, Any]) -> str:
    """What a block prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, page.name, "exec"), known)
    return printed.getvalue()


def test_readme_python(place: Path) -> None:
    (code,) = blocks(README, "python")
    known: dict[str, Any] = {}
    printed = run_python(code, README, known)
    photos = len(list((place / "photos").iterdir()))
    assert len(printed.splitlines()) == len(known["result"]) == photos
    assert known["report"].added + known["report"].unchanged == photos
    assert len(known["recent"]) <= photos
    assert known["best_box"] == known["result"].hits[0].regions[0].box


def test_python_page(place: Path) -> None:
    known: dict[str, Any] = {}
    printed = {code: run_python(code, PYTHON, known) for code in blocks(PYTHON, "python")}
    assert all(printed.values())
    (several,) = (text for code, text in printed.items() if "unseen_words" in code)
    assert str(known["engine"].unseen_words("an avocado")) in several.splitlines()
    (similar,) = (text for code, text in printed.items() if "similar =" in code)
    assert similar.splitlines()[-1] == str(place / "photos" / "chelsea.png")  # An image finds itself.
    (errors,) = (text for code, text in printed.items() if "except FlairSearchError" in code)
    assert errors.startswith("min_area - min_area: ")
    assert "no index at" in errors
    (model,) = (text for code, text in printed.items() if "load_model(" in code)
    assert model.startswith("torch.Size([1, 3, 448, 448]) ")
    assert known["result"].stats.backend
    assert known["hit"].path == str(place / "photos" / "chelsea.png")


def test_python_names_exist() -> None:
    import flairsearch

    (listed,) = re.findall(r"^The public names are (.*?)\.\s", text_of(PYTHON), re.MULTILINE | re.DOTALL)
    assert set(spans(listed)) == set(flairsearch.__all__)
    methods = {name.partition("(")[0] for name in names(PYTHON, "method")}
    assert methods | set(OPENING) == {name for name in vars(Engine) if not name.startswith("_")}
    errors = {kind.__name__ for kind in FlairSearchError.__subclasses__() if hasattr(flairsearch, kind.__name__)}
    assert set(names(PYTHON, "class")) == errors
    (code,) = blocks(README, "python")
    for kind, owner in (("report", IndexReport), ("hit", Hit)):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == kind:
                assert node.attr in fields_of(owner)
    (comment,) = re.findall(r"add\(.*\)  # (.*)", code)
    assert set(comment.split(", ")) <= fields_of(IndexReport)


def test_python_fields() -> None:
    """What an answer holds is documented whole; of what a caller makes, all that the constructor takes."""
    answers = {
        "result": SearchResult,
        "stats": SearchStats,
        "hit": Hit,
        "region": Region,
        "phrase": PhraseMatch,
        "report": IndexReport,
    }
    for title, kind in answers.items():
        properties = {name for name, value in vars(kind).items() if isinstance(value, property)}
        assert set(names(PYTHON, f"field of a {title}".replace("a stats", "stats"))) == fields_of(kind) | properties
    given = {"a query": Query, "an example": ImageExample, "a filter": Filter, "a request": SearchRequest}
    for title, kind in given.items():
        parameters = {field.name: field.default for field in fields(kind) if field.init}
        assert names(PYTHON, f"field of {title}") == list(parameters)
        rows = section(PYTHON, kind.__name__)
        for name, value in parameters.items():
            row = next(row for row in rows.splitlines() if row.startswith(f"| `{name}` |"))
            for written in re.findall(r"; default:? `?\"?([\w.]+)\"?`? \|", row):
                assert value is not MISSING
                assert written in (str(value), f"{value:g}" if isinstance(value, float) else "", "none"), row


def test_signatures() -> None:
    """Parameters and defaults of the methods that docs/python.md writes out."""
    import inspect

    written = re.findall(r"`(?:Engine\.)?(\w+)\(([^`]*)\)`", "\n".join([section(PYTHON, "Engine")]))
    assert len(written) >= 15
    for name, parameters in written:
        signature = inspect.signature(getattr(Engine, name)).parameters.values()
        real = [_written(one) for one in signature if one.name != "self"]
        plain = [part.strip().replace("'", '"') for part in re.split(r",(?! *\))", parameters)]
        assert [part for part in plain if part not in ("*", "")] == [one.replace("'", '"') for one in real], name


def _written(parameter: Any) -> str:
    """A parameter as a signature shows it, without its type."""
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    return f"{stars}{parameter.name}" + ("" if parameter.default is parameter.empty else f"={parameter.default!r}")


def fields_of(kind: Any) -> set[str]:
    return {field.name for field in fields(kind)}


# -- fields, and HTTP


def names(page: Path, header: str) -> list[str]:
    """What is in code in the first column of a table."""
    found = re.search(rf"^\| {header} \|[^\n]*\n\|[-|]+\n((?:\|.*\n?)+)", text_of(page), re.MULTILINE)
    assert found, f"{page.name} has no table of {header}"
    return [name for row in found[1].splitlines() for name in spans(row.split("|")[1])]


def test_json_fields(place: Path, run: IndexRun) -> None:
    hit = json.loads(run("query", "a cat", "--json", "-k", 1).out)
    assert set(names(CLI, "field of a hit")) == set(hit)
    (phrase,), (region, *_) = hit["phrases"], hit["regions"]
    rows = section(CLI, "JSON")
    assert all(f"`{name}`" in rows for name in (*phrase, *region))
    status = json.loads(run("status", "--json").out)
    assert set(names(CLI, "field of status")) == set(status) == fields_of(Status)
    rows = section(CLI, "status")
    assert all(f"`{name}`" in rows for name in (*status["sizes"], *status["last_run"]))


def ask(address: str, path: str) -> Any:
    with urllib.request.urlopen(f"{address}/api/v1/{path}", timeout=60) as response:
        return json.load(response)


def test_http_fields(server: str) -> None:
    found = ask(server, "search?q=a+cat&k=1")
    assert set(names(HTTP, "field of a search")) == set(found)
    assert set(names(CLI, "field of a hit")) == set(found["hits"][0])
    (phrase,) = ask(server, f"regions/{found['hits'][0]['id']}?q=green+eyes")["phrases"]
    answers = section(HTTP, "Answers")
    assert all(f"`{name}`" in answers for name in {"heat", "view"} | (phrase.keys() - {"text", "score", "regions"}))
    assert len(phrase["heat"]) == len(phrase["heat"][0]) == 14
    status = ask(server, "status")
    assert set(names(HTTP, "field of status")) == set(status)
    assert all(f"`{name}`" in answers for name in (*status["default"], *status["folders"][0]))
    assert set(ask(server, "health")) == {"status"}


def test_http_description(server: str) -> None:
    """Endpoints, parameters and statuses, both ways."""
    paths = ask(server, "openapi.json")["paths"]
    there = {f"{method.upper()} {path}": one for path, several in paths.items() for method, one in several.items()}
    assert set(re.findall(r"^\| `((?:GET|POST) [^`]*)`", text_of(HTTP), re.MULTILINE)) == set(there)
    search = {one["name"] for one in there["GET /api/v1/search"]["parameters"]}
    assert set(names(HTTP, "parameter")) == search
    statuses = set(re.findall(r"^\| (\d{3}) \|", text_of(HTTP), re.MULTILINE))
    assert {status for one in there.values() for status in one["responses"]} - {"200"} <= statuses


def test_http_metrics(server: str) -> None:
    ask(server, "search?q=a+cat")
    with urllib.request.urlopen(f"{server}/api/v1/metrics", timeout=60) as response:
        text = response.read().decode()
    types = dict(re.findall(r"^# TYPE (\S+) (\w+)", text, re.MULTILINE))
    ours = {name for name, kind in types.items() if not name.endswith("_created")}
    assert set(names(HTTP, "metric")) == ours


@pytest.mark.parametrize("line", lines(HTTP, "curl"))
def test_curl(server: str, line: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    command = line.replace(ADDRESS, server).replace("curl ", "curl -sS --fail-with-body ", 1)
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    if "application/json" in line:
        _check_batch(json.loads(done.stdout)["results"], line)
    elif "/search" in line:
        assert json.loads(done.stdout).keys() >= {"hits"}


def _check_batch(results: list[dict[str, Any]], line: str) -> None:
    """Answers to several searches are as many as the queries, and have the fields of the example in docs/http.md."""
    (body,) = re.findall(r"-d '(.*?)'", line)
    asked = json.loads(body)["queries"]
    (example,) = blocks(HTTP, "json")
    shown = json.loads(example)["results"]
    assert len(results) == len(asked) == len(shown)
    for result, shape in zip(results, shown, strict=True):
        assert result.keys() == shape.keys() == set(names(HTTP, "field of a search"))
        assert result["hits"]
        assert all(hit.keys() <= result["hits"][0].keys() for hit in shape["hits"])


def test_http_python(server: str) -> None:
    (code,) = blocks(HTTP, "python")
    assert len(run_python(code.replace(ADDRESS, server), HTTP, {}).splitlines()) == 3


def test_a_query_asks_the_server(server: str, run: IndexRun) -> None:
    """As docs/cli.md says."""
    asked = run("query", "a cat", "--server", server, "--timings", "--json")
    assert " server " in asked.err
    alone = run("query", "a cat", "--index", "./served", "--timings", "--json")
    assert " server " not in alone.err
    assert [json.loads(one)["path"] for one in asked.out.splitlines()] == [
        json.loads(one)["path"] for one in alone.out.splitlines()
    ]


def test_exit_codes(place: Path, run: IndexRun) -> None:
    assert run("query", "a cat", "--min-score", "0.999").code == 0
    assert run("query", "a cat", "--index", "./nowhere").code == 1
    assert run("query", "").code == 2
    assert run("query", "a cat", "--since", "soon").code == 2
    (place / "broken").mkdir()
    (place / "broken" / "photo.jpg").write_bytes(b"no photo")
    assert run("index", "broken", "--index", "./broken.index").code == 1


# -- links and pictures


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text_of(page), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *(ROOT / name for name in OTHERS)], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)) if not re.match(r"[a-z]+:", link)]
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link} is not there"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link} has no such heading"


def test_all_pages_are_reached() -> None:
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page))
    }
    assert {path.resolve() for path in PAGES} - {README} <= linked


def test_figure() -> None:
    """Its words are text, and it is drawn for light and dark."""
    source = text_of(ROOT / "docs" / "how-it-works.svg")
    root = ElementTree.fromstring(source)
    words = " ".join("".join(one.itertext()) for one in root.iter("{http://www.w3.org/2000/svg}text"))
    assert all(word in words for word in ("14 × 14", "512 bytes", "shortlist", "heat", "box"))
    assert "prefers-color-scheme: dark" in source
    assert not re.search(r"(href|src)=\"(?!#)|url\((?!#)|<script", source)
