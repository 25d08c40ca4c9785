"""Output shared by the evaluation commands: measurements to stdout, progress to stderr."""

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


def follow(pieces: Iterable[_Piece], label: str, total: int, length: Callable[[_Piece], int]) -> Iterator[_Piece]:
    """Yield the pieces, with a labelled progress bar on stderr; length: how much of the total a piece is."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        for piece in pieces:
            yield piece
            bar.advance(task, length(piece))


def show(rows: Iterable[_Row], to_table: Callable[[list[_Row]], RenderableType], json: bool) -> None:
    """Print a table of all rows or, with `json`, each row as a line of JSON as soon as it is measured."""
    from rich.console import Console

    from flairsearch.evaluate import tables

    if json:
        for row in rows:
            typer.echo(tables.to_json_line(row))
    else:
        Console(width=None if sys.stdout.isatty() else 1000).print(to_table(list(rows)), "")
