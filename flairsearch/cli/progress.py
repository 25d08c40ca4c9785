"""Measurements to stdout as they come, progress to stderr: what verbs that measure share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from flairsearch.evaluate.tables import ResultRow

_Piece = TypeVar("_Piece")
_Row = TypeVar("_Row", bound="ResultRow")


def follow(pieces: Iterable[_Piece], what: str, total: int, length: Callable[[_Piece], int]) -> Iterator[_Piece]:
    """The pieces as they come, with progress on stderr."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        for piece in pieces:
            yield piece
            bar.advance(task, length(piece))


def show(rows: Iterable[_Row], to_table: Callable[[list[_Row]], RenderableType], json: bool) -> None:
    """A table of all rows, or a line of JSON each as it comes."""
    from rich.console import Console

    from flairsearch.evaluate import tables

    if json:
        for row in rows:
            typer.echo(tables.to_json_line(row))
    else:
        Console(width=None if sys.stdout.isatty() else 1000).print(to_table(list(rows)), "")
