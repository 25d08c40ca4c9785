"""The command line. Results go to stdout, talk and progress to stderr; the only place that prints."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flairsearch import cli_eval
from flairsearch.cli_query import query_command, show_command
from flairsearch.errors import FlairSearchError, UsageError
from flairsearch.options import DeviceOption, IndexOption, ModelOption

if TYPE_CHECKING:
    from flairsearch.engine import Engine
    from flairsearch.records import Progress, Report

app = typer.Typer(
    help="Search a folder of photos with a sentence: the photos, and the place in each photo.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models_app = typer.Typer(help="List, download and import models.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(models_app, name="models")
app.add_typer(cli_eval.app)  # a verb of its own


def main() -> None:
    """The console script: one line for every expected error."""
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")  # our own limit is checked in decode
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # of broken EXIF: it counts as none
    with _one_line_errors():
        app()


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except FlairSearchError as error:
        typer.echo(f"flairsearch: {error}", err=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        typer.echo("flairsearch: stopped; what was committed is kept, run it again to go on", err=True)
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe went away: nobody is left to tell
        sys.stderr.close()
        sys.exit(141)


@app.command("index")
def index_command(
    folders: Annotated[list[Path] | None, typer.Argument(help="Folders of photos; none: rescan those known.")] = None,
    index: IndexOption = "default",
    model: ModelOption = None,
    views: Annotated[
        str | None,
        typer.Option(help="squash: the whole photo; center: its middle square; tiles:N: the whole, N or so squares."),
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Glob of names or paths to leave out.")] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Make the index anew, for another model or views.")
    ] = False,
    codec: Annotated[str | None, typer.Option(help="How tokens are kept: fp16, int8, q4, q2, q1.")] = None,
    move_root: Annotated[
        tuple[Path, Path] | None, typer.Option(help="OLD NEW: a known folder that is somewhere else now.")
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Index folders of photos, or bring the index up to date."""
    from flairsearch import engine as engines
    from flairsearch.settings import index_folder

    folder = index_folder(index)
    if move_root:
        with engines.Engine.open(folder, create=False) as engine:
            engine.move_root(*move_root)
    if not folders and not (folder / "index.json").exists():
        raise UsageError(f"no index at {folder} yet - give a folder of photos: flairsearch index FOLDER")
    if rebuild or not (folder / "index.json").exists():
        _check_folders(folders or [])
    if model is None and not (folder / "index.json").exists():
        _say_default_model()
    if rebuild:
        report = _follow(engines.rebuild(folder, folders or [], model, device, views, exclude or [], codec))
    else:
        with engines.Engine.open(folder, model, device=device, views=views, codec=codec) as engine:
            report = _follow(engine.adding(folders or [], exclude or []))
    _tell(report, folder)


def _check_folders(folders: list[Path]) -> None:
    """Before an empty index is made for a mistyped folder."""
    for folder in folders:
        if not folder.expanduser().is_dir():
            what = "is a file" if folder.exists() else "is not there"
            raise UsageError(f"{folder} {what} - give a folder of photos")


def _say_default_model() -> None:
    from flairsearch import weights

    name = weights.default_name()
    if name == weights.BUNDLED:
        typer.echo(
            f"model: {name}, small and offline; for far better results: flairsearch models pull {weights.PUBLISHED[0]}",
            err=True,
        )


def _follow(steps: Iterator[Progress | Report]) -> Report:
    """Show progress on stderr, return the report."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from flairsearch.records import Report

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
        for step in steps:  # to the end: what comes after the report is the swap of a rebuilt index
            if isinstance(step, Report):
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


def _tell(report: Report, folder: Path) -> None:
    from flairsearch.present import short_path, to_text

    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for skipped in report.skipped[:20]:
        typer.echo(f"skipped: {short_path(skipped.path)}: {skipped.reason}", err=True)
    if len(report.skipped) > 20:
        typer.echo(f"skipped: {len(report.skipped) - 20} more, see 'flairsearch status'", err=True)
    typer.echo(f"{to_text(report)} -> {short_path(str(folder))}", err=True)
    indexed = report.added + report.updated + report.moved + report.removed + report.unchanged
    if not indexed and report.skipped:
        raise typer.Exit(1)


app.command("query")(query_command)
app.command("show")(show_command)


@app.command("status")
def status_command(index: IndexOption = "default") -> None:
    """What the index holds."""
    from flairsearch import present
    from flairsearch.engine import Engine

    with Engine.open(index, create=False) as engine:
        for line in present.to_lines(engine.status()):
            typer.echo(line)


@app.command("forget")
def forget_command(
    path: Annotated[Path, typer.Argument(help="A photo or folder in the index.")], index: IndexOption = "default"
) -> None:
    """Remove a photo or a folder from the index; the files stay."""
    from flairsearch.engine import Engine

    with Engine.open(index, create=False) as engine:
        count = engine.forget(path)
        known = any(Path(root) in path.expanduser().absolute().parents for root in engine.status().roots)
    typer.echo(f"{count:,} photos removed from the index; the files are untouched", err=True)
    if known:
        typer.echo("their folder is still indexed: the next run finds them again, unless with --exclude", err=True)


@app.command("verify")
def verify_command(
    index: IndexOption = "default",
    repair: Annotated[bool, typer.Option("--repair", help="Encode damaged views again from their photos.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Check every stored byte against its checksum."""
    from flairsearch.engine import Engine

    with Engine.open(index, device=device, create=False) as engine:
        damage, total = [one for _, _, found in engine.verify() for one in found], engine.status().views
        for one in damage:
            typer.echo("\t".join((f"view {one.view}", *one.paths)))
        if damage and repair:
            left = engine.repair(damage)
            typer.echo(f"{len(damage) - len(left):,} of {len(damage):,} damaged views encoded again", err=True)
            for one in left:
                typer.echo(f"not repaired, the photo is gone or has changed: {' '.join(one.paths)}", err=True)
            damage = left
        elif damage:
            typer.echo(f"{len(damage):,} of {total:,} views are damaged - run flairsearch verify --repair", err=True)
        else:
            typer.echo(f"{total:,} views, none damaged", err=True)
    if damage:
        raise typer.Exit(1)


@app.command("compact")
def compact_command(
    index: IndexOption = "default",
    codec: Annotated[str | None, typer.Option(help="Write all views in it: fp16, int8, q4, q2, q1.")] = None,
    refit: Annotated[bool, typer.Option("--refit", help="Make the vectors of the shortlist anew.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Give back the room of photos that are gone; with --codec, keep tokens in another way."""
    from flairsearch.engine import Engine

    with Engine.open(index, device=device, create=False) as engine:
        before = engine.status().bytes
        done = max((done for done, _ in engine.compact(codec)), default=0)
        if refit:
            _refit(engine)
        after = engine.status().bytes
    typer.echo(f"{done:,} views rewritten; {before / 1e6:,.1f} MB before, {after / 1e6:,.1f} MB now", err=True)


def _refit(engine: Engine) -> None:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("vectors", total=engine.status().views)
        for done, _ in engine.refit():
            bar.update(task, completed=done)


@app.command("demo")
def demo_command(
    photos: Annotated[Path | None, typer.Option(help="Your own folder; none: sample photographs.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the sample photos, the index and the pictures.")] = Path("demo"),
) -> None:
    """Index photos, run a few queries, draw the regions."""
    from flairsearch.demo import BEYOND, QUERIES, copy_samples

    folder = photos.expanduser() if photos else copy_samples(out / "photos")
    index = str((out / ("own-index" if photos else "index")).absolute())
    typer.echo(f"$ flairsearch index {folder}")
    index_command([folder], index)
    for text in QUERIES if photos else (*QUERIES, BEYOND):
        if text == BEYOND:
            typer.echo("and one that is too much for the small model, the photo is coffee.png:")
        pictures = out / ("own-overlay" if photos else "overlay") / text.replace(" ", "-")
        typer.echo(f'$ flairsearch query "{text}" -k 3 --overlay {pictures}')
        query_command([text], index, k=3, overlay=pictures)


@models_app.command("list")
def models_list() -> None:
    """Known and imported models."""
    from flairsearch import weights

    for name, where in weights.available():
        typer.echo(f"{name:<22} {where}")


@models_app.command("pull")
def models_pull(name: str) -> None:
    """Download a published model into the cache."""
    from flairsearch import weights

    typer.echo(str(weights.pull(name).path))


@models_app.command("import")
def models_import(
    file: Path, name: Annotated[str | None, typer.Option(help="Name to keep it under; default: the file's.")] = None
) -> None:
    """Check a checkpoint file and keep it in the cache."""
    from flairsearch import weights

    found = weights.import_file(file, name)
    typer.echo(f"{found.name}: {found.path}")


if __name__ == "__main__":
    main()
