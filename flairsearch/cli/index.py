"""`flairsearch index`, with or without --watch, and `flairsearch status`. Messages and progress go to stderr."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flairsearch.cli.options import DeviceOption, IndexOption, ModelOption, complete_codec, complete_views
from flairsearch.core.errors import UsageError

if TYPE_CHECKING:
    from flairsearch.core.reports import IndexReport, Progress

MAX_LISTED_SKIPPED = 20  # A run prints at most this many skipped files; `status --skipped` lists all.

_Folders = Annotated[list[Path] | None, typer.Argument(help="Folders of photos (default: all folders of the index).")]
_Views = Annotated[
    str | None,
    typer.Option(
        help="How a photo becomes views. squash: the whole photo; center: its middle square; tiles:N: the whole photo "
        "and about N squares of it.",
        autocompletion=complete_views,
    ),
]
_Ignore = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Leave out files whose name or path matches this glob. May be repeated."),
]
_Rebuild = Annotated[bool, typer.Option("--rebuild", help="Make the index anew, for another model or other views.")]
_Codec = Annotated[
    str | None, typer.Option(help="How tokens are stored: fp16, int8, q4, q2 or q1.", autocompletion=complete_codec)
]
_MoveRoot = Annotated[
    tuple[Path, Path] | None,
    typer.Option(metavar="OLD NEW", help="Photos of the folder OLD are now in the folder NEW."),
]
_Watch = Annotated[bool, typer.Option("--watch", help="Keep running, and index changes as they happen, until Ctrl-C.")]


def index_command(
    folders: _Folders = None,
    index: IndexOption = "default",
    model: ModelOption = None,
    views: _Views = None,
    ignore: _Ignore = None,
    rebuild: _Rebuild = False,
    codec: _Codec = None,
    move_root: _MoveRoot = None,
    watch: _Watch = False,
    device: DeviceOption = "auto",
) -> None:
    """Index folders of photos, or update the index."""
    from flairsearch.cli.watch import ending_on_interrupt, keep_watching
    from flairsearch.core.paths import index_folder
    from flairsearch.engine import Engine
    from flairsearch.indexing.watch import check_installed
    from flairsearch.rebuild import IndexOptions
    from flairsearch.rebuild import rebuild as rebuild_index

    folder = index_folder(index)
    if watch:
        check_installed()
    if move_root:
        with Engine.open(folder, create=False) as engine:
            engine.move_root(*move_root)
    if not folders and not (folder / "index.json").exists():
        raise UsageError(f"no index at {folder} yet - give a folder of photos: flairsearch index FOLDER")
    if rebuild or not (folder / "index.json").exists():
        _check_folders(folders or [])
    if model is None and not (folder / "index.json").exists():
        _print_default_model()
    report = None
    with ending_on_interrupt(watch):
        if rebuild:
            options = IndexOptions(model, views, codec)
            report = _follow(rebuild_index(folder, folders or [], options, device, ignore or []))
            _print_report(report, folder)
        if watch or not rebuild:
            with Engine.open(folder, model, device=device, views=views, codec=codec) as engine:
                if report is None:
                    report = _follow(engine.adding(folders or [], ignore or []))
                    _print_report(report, folder)
                if watch:
                    keep_watching(engine, report, lambda engine: _follow(engine.adding((), ignore or [])), device)
    if report and report.skipped and not report.indexed and not watch:
        raise typer.Exit(1)


def _check_folders(folders: list[Path]) -> None:
    """Refuse a mistyped folder before an empty index is made."""
    for folder in folders:
        if not folder.expanduser().is_dir():
            reason = "is a file" if folder.exists() else "is not there"
            raise UsageError(f"{folder} {reason} - give a folder of photos")


def _print_default_model() -> None:
    """Print how to get a better model if only the bundled one is available."""
    from flairsearch.model import checkpoints

    name = checkpoints.default_name()
    if name == checkpoints.BUNDLED:
        typer.echo(
            f"model: {name}, small and offline; for far better results: "
            f"flairsearch models pull {checkpoints.PUBLISHED[0]}",
            err=True,
        )


def _follow(steps: Iterator[Progress | IndexReport]) -> IndexReport:
    """Show the progress of an indexing run on stderr; return its report."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from flairsearch.core.reports import IndexReport

    columns = (
        TextColumn("indexing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[skipped]}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("indexing", total=None, rate="", skipped="")
        report = None
        for step in steps:
            if isinstance(step, IndexReport):
                report = step
                continue
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            bar.update(
                task,
                total=step.total,
                completed=step.done,
                rate=f"{speed:.1f} photos/s" if speed else "",
                skipped=f"{step.skipped} skipped" if step.skipped else "",
            )
    assert report, "an indexing run ends with its report"
    return report


def _print_report(report: IndexReport, folder: Path) -> None:
    """Print warnings, skipped files and a summary of an indexing run to stderr."""
    from flairsearch.output.formatting import short_path
    from flairsearch.output.status import to_text, to_video_line

    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for skipped in report.skipped[:MAX_LISTED_SKIPPED]:
        typer.echo(f"skipped: {short_path(skipped.path)}: {skipped.reason}", err=True)
    if len(report.skipped) > MAX_LISTED_SKIPPED:
        typer.echo(f"skipped: {len(report.skipped) - MAX_LISTED_SKIPPED} more, see 'flairsearch status'", err=True)
    if report.videos:
        typer.echo(to_video_line(report.videos), err=True)
    typer.echo(f"{to_text(report)} -> {short_path(str(folder))}", err=True)


def status_command(
    index: IndexOption = "default",
    skipped: Annotated[bool, typer.Option("--skipped", help="List every skipped file.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what the index holds."""
    from flairsearch.engine import Engine
    from flairsearch.output.status import status_to_json, to_lines

    with Engine.open(index, create=False) as engine:
        status = engine.status()
    for line in [status_to_json(status)] if json else to_lines(status, skipped):
        typer.echo(line)
