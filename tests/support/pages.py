"""README.md and docs/: their blocks, commands, tables and sections, and the options of the command line."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[2]
README, CLI, PYTHON, HTTP = (ROOT / name for name in ("README.md", "docs/cli.md", "docs/python.md", "docs/http.md"))
CHANGES = ROOT / "CHANGELOG.md"
PAGES = sorted((README, *(ROOT / "docs").glob("*.md")))
# Every option that these pages name is one of flairsearch; the other two pages also name options of benchmarks.
CURRENT = [page for page in PAGES if page.name not in ("regions.md", "shortlist.md")]


def text_of(page: Path) -> str:
    """Return the text of a page."""
    return page.read_text(encoding="utf-8")


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the contents of the fenced blocks in one of these languages."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)
    return [content for language, content in fenced if language in languages]


def prose(page: Path) -> str:
    """Return the page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def section(page: Path, title: str) -> str:
    """Return the text below a heading, up to the next heading of its level."""
    match = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text_of(page), re.MULTILINE | re.DOTALL)
    assert match, f"no section {title} in {page.name}"
    return match[1]


def spans(text: str) -> list[str]:
    """Return the code spans of a text."""
    return re.findall(r"`([^`\n]+)`", text)


def table_names(page: Path, header: str) -> list[str]:
    """Return the code spans in the first column of the table with this header."""
    match = re.search(rf"^\| {header} \|[^\n]*\n\|[-|]+\n((?:\|.*\n?)+)", text_of(page), re.MULTILINE)
    assert match, f"{page.name} has no table of {header}"
    return [name for row in match[1].splitlines() for name in spans(row.split("|")[1])]


def shell_lines(page: Path, program: str) -> list[str]:
    """Return the lines of shell blocks that run a program, without comments; a variable may be set before it."""
    lines = [line.partition("  #")[0].strip() for block in blocks(page, "sh") for line in block.splitlines()]
    return [line for line in lines if re.match(rf"([A-Z_]+=\S+ )?{program} ", line)]


def commands(page: Path) -> list[str]:
    """Return the commands of flairsearch in shell blocks, without variables."""
    return [re.sub(r"^[A-Z_]+=\S+ ", "", line) for line in shell_lines(page, "flairsearch")]


def inline_commands(page: Path) -> list[str]:
    """Return the commands of flairsearch in sentences and in lines for cron."""
    lines = re.findall(r"`(?:[^`\n]*/)?(flairsearch\s[^`]*)`", prose(page))
    lines += [line[line.index("flairsearch ") :] for block in blocks(page, "crontab") for line in block.splitlines()]
    return [" ".join(line.split()) for line in lines]


def subcommands(command: Any) -> dict[str, Any]:
    """Return the commands below a command, by name."""
    if not hasattr(command, "list_commands"):
        return {}
    context = click.Context(command)
    return {name: command.get_command(context, name) for name in command.list_commands(context)}


def options(command: Any) -> set[str]:
    """Return the options of a command and of the commands below it."""
    own = {name for option in command.params for name in (*option.opts, *option.secondary_opts) if name.startswith("-")}
    return own.union(*(options(below) for below in subcommands(command).values()))


def options_in(text: str) -> set[str]:
    """Return the options in code spans and shell lines, except in those of other programs."""
    code = [*spans(text), *re.findall(r"^flairsearch .*", text, re.MULTILINE)]
    others = re.compile(r"python -m|curl|pip |xargs")
    ours = (span for span in code if span.startswith("flairsearch") or not others.search(span))
    return {name for span in ours for name in re.findall(r"(?<![\w/-])--?[a-z0][\w-]*", span.partition("|")[0])}


def run_python(code: str, page: Path, variables: dict[str, Any]) -> str:
    """Run a block with these variables, which it may add to, and return what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, page.name, "exec"), variables)
    return printed.getvalue()


def field_names(kind: Any) -> set[str]:
    """Return the names of the fields of a dataclass."""
    return {field.name for field in fields(kind)}
