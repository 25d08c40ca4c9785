"""docs/http.md is true: its requests run, and its endpoints, parameters, fields, statuses and metrics exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.support.command import RunCommand
from tests.support.pages import CLI, HTTP, README, blocks, run_python, section, shell_lines, table_names, text_of

pytestmark = pytest.mark.skipif(not README.is_file(), reason="no README.md")
ADDRESS = "http://127.0.0.1:8421"  # The page's requests go to this address.


def ask(address: str, path: str) -> Any:
    """Send a GET and return the JSON of the answer."""
    with urllib.request.urlopen(f"{address}/api/v1/{path}", timeout=60) as response:
        return json.load(response)


def test_http_fields(server: str) -> None:
    answer = ask(server, "search?q=a+cat&k=1")
    (hit,) = answer["hits"]
    assert set(table_names(HTTP, "field of a search")) == set(answer)
    assert set(table_names(CLI, "field of a hit")) == set(hit)
    (phrase,) = ask(server, f"regions/{hit['id']}?q=green+eyes")["phrases"]
    answers = section(HTTP, "Answers")
    assert all(f"`{name}`" in answers for name in {"heat", "view"} | (phrase.keys() - {"text", "score", "regions"}))
    assert len(phrase["heat"]) == len(phrase["heat"][0]) == 14
    status = ask(server, "status")
    assert set(table_names(HTTP, "field of status")) == set(status)
    assert all(f"`{name}`" in answers for name in (*status["default"], *status["folders"][0]))
    assert set(ask(server, "health")) == {"status"}


def test_http_description(server: str) -> None:
    """Endpoints and parameters of the page and of the server's description are the same; its statuses are explained."""
    paths = ask(server, "openapi.json")["paths"]
    endpoints = {
        f"{method.upper()} {path}": endpoint for path, methods in paths.items() for method, endpoint in methods.items()
    }
    assert set(re.findall(r"^\| `((?:GET|POST) [^`]*)`", text_of(HTTP), re.MULTILINE)) == set(endpoints)
    parameters = {parameter["name"] for parameter in endpoints["GET /api/v1/search"]["parameters"]}
    assert set(table_names(HTTP, "parameter")) == parameters
    statuses = set(re.findall(r"^\| (\d{3}) \|", text_of(HTTP), re.MULTILINE))
    assert {status for endpoint in endpoints.values() for status in endpoint["responses"]} - {"200"} <= statuses


def test_http_metrics(server: str) -> None:
    ask(server, "search?q=a+cat")
    with urllib.request.urlopen(f"{server}/api/v1/metrics", timeout=60) as response:
        text = response.read().decode()
    types = dict(re.findall(r"^# TYPE (\S+) (\w+)", text, re.MULTILINE))
    ours = {name for name in types if not name.endswith("_created")}
    assert set(table_names(HTTP, "metric")) == ours


@pytest.mark.parametrize("line", shell_lines(HTTP, "curl"))
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
    """There is one answer for each query, with hits and with the fields of the example on the page."""
    (body,) = re.findall(r"-d '(.*?)'", line)
    queries = json.loads(body)["queries"]
    (example,) = blocks(HTTP, "json")
    shown = json.loads(example)["results"]
    assert len(results) == len(queries) == len(shown)
    for result, shape in zip(results, shown, strict=True):
        assert result.keys() == shape.keys() == set(table_names(HTTP, "field of a search"))
        assert result["hits"]
        assert all(hit.keys() <= result["hits"][0].keys() for hit in shape["hits"])


def test_a_wrong_query_is_named_by_its_place(server: str) -> None:
    body = json.dumps({"queries": ["a dog", {"q": "a cat", "min_area": 7}], "position": "left"}).encode()
    request = urllib.request.Request(f"{server}/api/v1/search", body, {"content-type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    with caught.value:
        assert caught.value.code == 400
        assert json.load(caught.value)["error"].startswith("queries.1: min_area: ")


def test_http_python(server: str) -> None:
    (code,) = blocks(HTTP, "python")
    assert len(run_python(code.replace(ADDRESS, server), HTTP, {}).splitlines()) == 3


def test_a_query_asks_the_server(server: str, run: RunCommand) -> None:
    """A query with --server asks the server, and its hits are those of the same index without one."""
    asked = run("query", "a cat", "--server", server, "--timings", "--json")
    assert " server " in asked.err
    alone = run("query", "a cat", "--index", "./served", "--timings", "--json")
    assert " server " not in alone.err
    from_server, from_index = ([json.loads(line)["path"] for line in done.out.splitlines()] for done in (asked, alone))
    assert from_server
    assert from_server == from_index
