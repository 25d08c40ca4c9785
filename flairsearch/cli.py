"""The command line. Results go to stdout, talk and progress to stderr; the only place that prints."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flairsearch import cli_eval
from flairsearch.cli_index import index_command, status_command
from flairsearch.cli_query import query_command, show_command
from flairsearch.cli_serve import serve_command
from flairsearch.errors import FlairSearchError, UsageError
from flairsearch.options import DeviceOption, IndexOption, complete_codec

if TYPE_CHECKING:
    from flairsearch.engine import Engine

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
    if sys.stdout is None:  # closed by the shell: >&-
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - to the end
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
    except OSError as error:  # a full disk, behind stdout too; whoever knows more has said it better
        typer.echo(f"flairsearch: {error}", err=True)
        sys.exit(1)


app.command("index")(index_command)
app.command("query")(query_command)
app.command("show")(show_command)
app.command("serve")(serve_command)
app.command("status")(status_command)


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
    codec: Annotated[
        str | None,
        typer.Option(help="Write all views in it: fp16, int8, q4, q2, q1.", autocompletion=complete_codec),
    ] = None,
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
    from flairsearch.present import short_path

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
    typer.echo(f"in the browser: {Path(sys.argv[0])} serve --open --index {short_path(index)}", err=True)


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
