"""Options of a search are defined once, in core/request.OPTIONS: the command line and HTTP have no others."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flairsearch.cli import query
from flairsearch.cli.main import VERBS
from flairsearch.cli.option_parameters import name_on_command_line
from flairsearch.core.filters import Filter
from flairsearch.core.option import options_of
from flairsearch.core.query import ImageExample, Query
from flairsearch.core.request import OPTIONS, SearchRequest
from tests.support.command import RunCommand

if TYPE_CHECKING:  # The server needs an extra, without which its tests are skipped.
    from tests.support.served import Site

OWN = {
    *("--index", "--server", "--json", "--paths", "--null", "-0", "--logits", "--thumbnails", "--no-thumbnails"),
    *("--overlay", "--heat", "--open", "--timings", "--verbose", "-v", "--model", "--device", "--help", "-h"),
}
"""The options of `query` that say where to search and how to show hits, not what to search for."""


@pytest.mark.parametrize(
    ("parameter", "name"),
    [
        ("text", "TEXT"),
        ("k", "-k"),
        ("min_area", "--min-area"),
        ("image_weight", "--image-weight"),
        ("larger_than", "--larger-than"),
        ("folder", "--folder"),
        ("server", "--server"),
    ],
)
def test_a_name_on_the_command_line(parameter: str, name: str) -> None:
    assert name_on_command_line(parameter) == name


def test_the_same_options_everywhere(served: Site, run: RunCommand) -> None:
    """`query --help`, GET /search and the queries of a body of JSON have the options of OPTIONS, and no others."""
    done = run("query", "--help")
    assert done.code == 0
    on_command_line = _options_in(done.out) - OWN | ({"TEXT"} if "[TEXT...]" in done.out else set())
    assert on_command_line == {name_on_command_line(name) for name in OPTIONS}
    httpx = pytest.importorskip("httpx", reason="needs httpx")
    description = httpx.get(f"{served.url}/api/v1/openapi.json").json()
    search = description["paths"]["/api/v1/search"]
    over_http = [parameter["name"] for parameter in search["get"]["parameters"]]
    assert len(over_http) == len(OPTIONS)
    assert {"text" if name == "q" else name for name in over_http} == set(OPTIONS)
    assert search["post"]["parameters"] == search["get"]["parameters"]
    body = search["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert body.keys() == {*over_http, "queries"}
    single = body["queries"]["items"]["anyOf"][1]["properties"]
    assert single.keys() == set(over_http)


def test_no_option_is_defined_twice() -> None:
    """Each field of the records is one option, but for those that hold a record or a name."""
    others = {Query: {"image", "images"}, ImageExample: {"name"}, Filter: set(), SearchRequest: {"query", "filter"}}
    names = [name for record in others for name in options_of(record)]
    assert len(names) == len(set(names))
    assert set(names) == set(OPTIONS)
    for record, fields_besides in others.items():
        assert len(options_of(record)) == len(fields(record)) - len(fields_besides)
        assert fields_besides <= {field.name for field in fields(record)}
    parameters = set(inspect.signature(query.query_command).parameters)
    assert set(OPTIONS) <= parameters
    own = {name_on_command_line(name) for name in parameters - set(OPTIONS)}
    assert own - {"--open-best"} <= OWN


def test_help_describes_every_option(run: RunCommand) -> None:
    words = " ".join(run("query", "--help").out.split())
    for name, (option, _) in OPTIONS.items():
        assert option.help in words, name


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_h_is_help(run: RunCommand, verb: str | None) -> None:
    arguments = [] if verb is None else [verb]
    short, long = run(*arguments, "-h"), run(*arguments, "--help")
    assert (short.code, short.err) == (0, "")
    assert "Usage:" in short.out
    assert short.out == long.out


def test_version(run: RunCommand) -> None:
    done = run("--version")
    assert (done.code, done.out, done.err) == (0, f"flairsearch {version('flairsearch')}\n", "")
    assert run("--version", "query").out == done.out


# -- the kinds of scores


Search = Callable[[str], list[dict[str, Any]]]


def check_kinds(search: Search) -> None:
    """Each photo here has one view: `global` is its cosine of the global token, and `sum` the mean of both."""
    found = {kind: {hit["path"]: hit for hit in search(kind)} for kind in ("flair", "global", "sum")}
    flair = found["flair"]
    assert len(flair) > 2
    for kind, hits in found.items():
        assert hits.keys() == flair.keys()
        scores = [hit["score"] for hit in hits.values()]
        assert scores == sorted(scores, reverse=True), kind
        for path, hit in hits.items():
            assert hit["score_global"] == pytest.approx(flair[path]["score_global"], abs=1e-5)
    for path, hit in found["global"].items():
        assert hit["score"] == pytest.approx(hit["score_global"], abs=1e-5)
        assert hit["phrases"][0]["score"] == pytest.approx(hit["score_global"], abs=1e-5)
        mean = (flair[path]["score"] + hit["score_global"]) / 2
        assert found["sum"][path]["score"] == pytest.approx(mean, abs=1e-5)
    assert any(abs(hit["score"] - hit["score_global"]) > 1e-3 for hit in flair.values())


def test_kinds_of_scores_on_the_command_line(real_index: Path, run: RunCommand) -> None:
    def search(*options: str) -> list[dict[str, Any]]:
        done = run("query", "something red", "--json", "--index", real_index, *options)
        assert done.code == 0, done.err
        return [json.loads(line) for line in done.out.splitlines()]

    check_kinds(lambda kind: search("--score", kind))
    kinds = [search("--score", kind) for kind in ("flair", "global", "sum")]
    assert search() in kinds, "without the option, the model says which"


def test_kinds_of_scores_through_a_server(served: Site, run: RunCommand) -> None:
    def search(*options: str) -> list[dict[str, Any]]:
        done = run("query", "red", "-k", "200", "--json", "--server", served.url, *options)
        assert (done.code, done.err) == (0, "")
        return [json.loads(line) for line in done.out.splitlines()]

    check_kinds(lambda kind: search("--score", kind))
    assert search() == search("--score", "flair")


def test_kinds_of_scores_over_http(served: Site) -> None:
    httpx = pytest.importorskip("httpx", reason="needs httpx")

    def search(kind: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{served.url}/api/v1/search", params={"q": "a blue square", "k": 200, "score": kind})
        assert answer.status_code == 200, answer.text
        hits: list[dict[str, Any]] = answer.json()["hits"]
        return hits

    check_kinds(search)


def test_a_kind_of_score_that_there_is_not(real_index: Path, run: RunCommand) -> None:
    done = run("query", "red", "--score", "cosine", "--index", real_index)
    assert (done.code, done.out) == (2, "")
    assert done.message == "flairsearch: --score: there is no 'cosine' - use one of flair, global, sum"


def _options_in(text: str) -> set[str]:
    """The names of options at the beginnings of lines of --help."""
    heads = re.findall(r"^  (-\S+(?:,? (?:/ )?-\S+)*)", text, re.MULTILINE)
    return {name for head in heads for name in re.findall(r"(?<!\S)-{1,2}[\w-]+", head)}
