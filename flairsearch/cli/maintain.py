"""`flairsearch forget`, `verify` and `compact`: maintain an index. Messages go to stderr."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flairsearch.cli.options import DeviceOption, IndexOption, complete_codec

if TYPE_CHECKING:
    from flairsearch.engine import Engine


def forget_command(
    path: Annotated[Path, typer.Argument(help="An indexed photo or folder.")], index: IndexOption = "default"
) -> None:
    """Remove a photo or a folder from the index; the files stay."""
    from flairsearch.engine import Engine

    with Engine.open(index, create=False) as engine:
        count = engine.forget(path)
        is_in_root = any(Path(root) in path.expanduser().absolute().parents for root in engine.status().roots)
    typer.echo(f"{count:,} photos removed from the index; the files are untouched", err=True)
    if is_in_root:
        typer.echo("their folder is still indexed: the next run adds them again unless you give --ignore", err=True)


def verify_command(
    index: IndexOption = "default",
    repair: Annotated[bool, typer.Option("--repair", help="Encode damaged views again from their photos.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Compare every stored byte with its checksum."""
    from flairsearch.engine import Engine

    with Engine.open(index, device=device, create=False) as engine:
        damage, total = [view for _, _, damaged in engine.verify() for view in damaged], engine.status().views
        for view in damage:
            typer.echo("\t".join((f"view {view.view}", *view.paths)))
        if damage and repair:
            unrepaired = engine.repair(damage)
            typer.echo(f"{len(damage) - len(unrepaired):,} of {len(damage):,} damaged views encoded again", err=True)
            for view in unrepaired:
                typer.echo(f"not repaired, the photo is gone or has changed: {' '.join(view.paths)}", err=True)
            damage = unrepaired
        elif damage:
            typer.echo(f"{len(damage):,} of {total:,} views are damaged - run flairsearch verify --repair", err=True)
        else:
            typer.echo(f"{total:,} views, none damaged", err=True)
    if damage:
        raise typer.Exit(1)


def compact_command(
    index: IndexOption = "default",
    codec: Annotated[
        str | None,
        typer.Option(help="Convert all views to this codec: fp16, int8, q4, q2 or q1.", autocompletion=complete_codec),
    ] = None,
    refit_shortlist: Annotated[
        bool, typer.Option("--refit-shortlist", help="Fit the shortlist's score predictor again.")
    ] = False,
    device: DeviceOption = "auto",
) -> None:
    """Free the space of removed photos, or change the codec."""
    from flairsearch.engine import Engine

    with Engine.open(index, device=device, create=False) as engine:
        before = engine.status().bytes
        done = max((done for done, _ in engine.compact(codec)), default=0)
        if refit_shortlist:
            _refit(engine)
        after = engine.status().bytes
    typer.echo(f"{done:,} views rewritten; {before / 1e6:,.1f} MB before, {after / 1e6:,.1f} MB now", err=True)


def _refit(engine: Engine) -> None:
    """Fit the score predictor again, with progress on stderr."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("vectors", total=engine.status().views)
        for done, _ in engine.refit():
            bar.update(task, completed=done)
