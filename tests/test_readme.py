"""What README.md says can be typed: its commands parse, its Python names what exists, its links lead somewhere."""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import fields
from pathlib import Path

import click
import pytest
import typer

from flairsearch import Engine, Hit, Region, Report, cli

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
pytestmark = pytest.mark.skipif(not README.is_file(), reason="no README.md yet")


def text() -> str:
    return README.read_text(encoding="utf-8")


def blocks(*languages: str) -> list[str]:
    """Contents of fenced blocks in one of these languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", text(), re.MULTILINE | re.DOTALL)
    return [content for language, content in found if language in languages]


def commands() -> list[list[str]]:
    """Every `flairsearch ...` line of the shell blocks and every inline one, split as a shell does."""
    lines = [
        line.strip().removeprefix("$ ") for block in blocks("sh", "bash", "console", "") for line in block.splitlines()
    ]
    lines += re.findall(r"`(flairsearch [^`]*)`", text())
    split = [
        shlex.split(line, comments=True)
        for line in lines
        if line.startswith(("flairsearch ", ".venv/bin/flairsearch "))
    ]
    return [words[1:] for words in split if "|" not in words]


def test_there_are_commands() -> None:
    assert {words[0] for words in commands()} >= {"index", "query"}


def test_commands_parse() -> None:
    root = typer.main.get_command(cli.app)
    for words in commands():
        group, rest = root, list(words)
        context = click.Context(root, info_name="flairsearch")
        while rest and hasattr(group, "commands"):
            assert rest[0] in group.commands, f"no command {rest[0]!r}: {' '.join(words)}"
            group = group.commands[rest.pop(0)]
            context = type(context)(group, parent=context, info_name=words[0])
        if any("..." in word for word in rest) or not rest:
            continue
        try:
            group.make_context("flairsearch", rest, parent=context.parent)
        except Exception as error:
            pytest.fail(f"{' '.join(words)}: {error}")


def test_python_names_exist() -> None:
    known = {"engine": Engine, "hits[]": Hit, "hit": Hit, "regions[]": Region, "report": Report}

    def owner(node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Attribute):
            return node.attr
        return f"{owner(node.value)}[]" if isinstance(node, ast.Subscript) else ""

    for block in blocks("python", "py"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "flairsearch":
                module = __import__("flairsearch")
                assert all(hasattr(module, alias.name) for alias in node.names)
            elif isinstance(node, ast.Attribute) and owner(node.value) in ("Engine", *known):
                kind = known.get(owner(node.value), Engine)
                names = {field.name for field in fields(kind)} if hasattr(kind, "__dataclass_fields__") else set()
                assert node.attr in names or hasattr(kind, node.attr), f"{kind.__name__} has no {node.attr}"
    assert blocks("python", "py")


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", text())
    assert links
    for link in links:
        if not re.match(r"[a-z]+:|#", link):
            assert (ROOT / link.split("#")[0]).exists(), f"{link} is not there"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    code = "\n".join([*blocks("sh", "bash", "console", ""), *re.findall(r"`([^`\n]+)`", text())])
    named = set(re.findall(r"^(?:\$ )?make ([a-z]+)|(?:&& |or )make ([a-z]+)", code, re.MULTILINE))
    named = {name for pair in named for name in pair if name}
    assert named
    assert named <= targets
