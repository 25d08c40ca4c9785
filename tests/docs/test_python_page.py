"""The Python blocks of README.md and docs/python.md run, and the names, fields and signatures of the page exist."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

import flairsearch
from flairsearch import (
    Engine,
    Filter,
    FlairSearchError,
    Hit,
    ImageExample,
    IndexReport,
    Query,
    Region,
    SearchRequest,
    SearchResult,
)
from flairsearch.core.hits import PhraseMatch
from flairsearch.core.request import SearchStats
from tests.support.pages import PYTHON, README, blocks, field_names, run_python, section, spans, table_names, text_of

pytestmark = pytest.mark.skipif(not README.is_file(), reason="no README.md")
OPENING = ("open", "close")  # The methods of Engine that are described above the table of methods.


def test_readme_python(work_folder: Path) -> None:
    (code,) = blocks(README, "python")
    variables: dict[str, Any] = {}
    printed = run_python(code, README, variables)
    photos = len(list((work_folder / "photos").iterdir()))
    assert len(printed.splitlines()) == len(variables["result"]) == photos
    assert variables["report"].added + variables["report"].unchanged == photos
    assert len(variables["recent"]) <= photos
    assert variables["best_box"] == variables["result"].hits[0].regions[0].box


def test_python_page(work_folder: Path) -> None:
    variables: dict[str, Any] = {}
    printed = {code: run_python(code, PYTHON, variables) for code in blocks(PYTHON, "python")}
    assert all(printed.values())
    (engine_block,) = (text for code, text in printed.items() if "unseen_words" in code)
    assert str(variables["engine"].unseen_words("an avocado")) in engine_block.splitlines()
    (similar,) = (text for code, text in printed.items() if "similar =" in code)
    assert similar.splitlines()[-1] == str(work_folder / "photos" / "chelsea.png")  # An image finds itself.
    (errors,) = (text for code, text in printed.items() if "except FlairSearchError" in code)
    assert errors.startswith("min_area - min_area: ")
    assert "no index at" in errors
    (model,) = (text for code, text in printed.items() if "load_model(" in code)
    assert model.startswith("torch.Size([1, 3, 448, 448]) ")
    assert variables["result"].stats.backend
    assert variables["hit"].path == str(work_folder / "photos" / "chelsea.png")


def test_python_names_exist() -> None:
    (listed,) = re.findall(r"^The public names are (.*?)\.\s", text_of(PYTHON), re.MULTILINE | re.DOTALL)
    assert set(spans(listed)) == set(flairsearch.__all__)
    methods = {name.partition("(")[0] for name in table_names(PYTHON, "method")}
    assert methods.isdisjoint(OPENING)
    assert all(f"{name}(" in section(PYTHON, "Engine") for name in OPENING)
    assert methods | set(OPENING) == {name for name in vars(Engine) if not name.startswith("_")}
    errors = {kind.__name__ for kind in FlairSearchError.__subclasses__() if hasattr(flairsearch, kind.__name__)}
    assert set(table_names(PYTHON, "class")) == errors
    (code,) = blocks(README, "python")
    for kind, owner in (("report", IndexReport), ("hit", Hit)):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == kind:
                assert node.attr in field_names(owner)
    (comment,) = re.findall(r"add\(.*\)  # (.*)", code)
    assert set(comment.split(", ")) <= field_names(IndexReport)


def test_python_fields() -> None:
    """Every field and property of an answer is documented, and every parameter of what a caller makes, in order."""
    answers = {
        "a result": SearchResult,
        "stats": SearchStats,
        "a hit": Hit,
        "a region": Region,
        "a phrase": PhraseMatch,
        "a report": IndexReport,
    }
    for title, kind in answers.items():
        properties = {name for name, value in vars(kind).items() if isinstance(value, property)}
        assert set(table_names(PYTHON, f"field of {title}")) == field_names(kind) | properties
    given = {"a query": Query, "an example": ImageExample, "a filter": Filter, "a request": SearchRequest}
    for title, kind in given.items():
        parameters = {field.name: field.default for field in fields(kind) if field.init}
        assert table_names(PYTHON, f"field of {title}") == list(parameters)
        rows = section(PYTHON, kind.__name__)
        for name, value in parameters.items():
            row = next(row for row in rows.splitlines() if row.startswith(f"| `{name}` |"))
            for written in re.findall(r"; default:? `?\"?([\w.]+)\"?`? \|", row):
                assert value is not MISSING
                assert written in (str(value), f"{value:g}" if isinstance(value, float) else "", "none"), row


def test_signatures() -> None:
    """Parameters and defaults of the methods that docs/python.md writes out."""
    written = re.findall(r"`(?:Engine\.)?(\w+)\(([^`]*)\)`", section(PYTHON, "Engine"))
    assert len(written) >= 15
    for name, parameters in written:
        signature = inspect.signature(getattr(Engine, name)).parameters.values()
        real = [_written(parameter) for parameter in signature if parameter.name != "self"]
        plain = [part.strip().replace("'", '"') for part in re.split(r",(?! *\))", parameters)]
        assert [part for part in plain if part not in ("*", "")] == [part.replace("'", '"') for part in real], name


def _written(parameter: Any) -> str:
    """A parameter as a signature shows it, without its type."""
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    return f"{stars}{parameter.name}" + ("" if parameter.default is parameter.empty else f"={parameter.default!r}")
