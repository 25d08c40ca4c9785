"""`flairsearch query` and `show`. Hits to stdout, talk to stderr."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flairsearch.errors import UsageError
from flairsearch.options import DeviceOption, IndexOption, ModelOption

if TYPE_CHECKING:
    from flairsearch.engine import Engine
    from flairsearch.records import Hit


def query_command(
    texts: Annotated[list[str], typer.Argument(metavar="TEXT", help="What to look for, in quotes.")],
    index: IndexOption = "default",
    k: Annotated[int, typer.Option("-k", help="How many photos.")] = 10,
    shortlist: Annotated[str, typer.Option(help="Views ranked exactly: auto, all or a number.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    paths: Annotated[bool, typer.Option("--paths", help="Only the paths.")] = False,
    min_score: Annotated[float | None, typer.Option(help="Hide photos that score less.")] = None,
    logits: Annotated[bool, typer.Option("--logits", help="Show the score as FLAIR's logit.")] = False,
    under: Annotated[str | None, typer.Option(metavar="FOLDER", help="Only photos below this folder.")] = None,
    since: Annotated[str | None, typer.Option(metavar="DATE", help="Only from then on: 2024, 2024-05-17.")] = None,
    until: Annotated[str | None, typer.Option(metavar="DATE", help="Only to then, with all of it.")] = None,
    larger_than: Annotated[str | None, typer.Option(metavar="SIZE", help="Only these: 2MB, or 1920x1080.")] = None,
    ext: Annotated[list[str] | None, typer.Option(metavar="EXT", help="Only these kinds: jpg, or jpg,png.")] = None,
    overlay: Annotated[Path | None, typer.Option(help="Folder for pictures with the regions drawn.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say how many views were ranked exactly.")] = False,
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Find photos, and the place in each."""
    from rich.console import Console

    from flairsearch import present
    from flairsearch.engine import Engine
    from flairsearch.scope import Scope

    if len(texts) > 1:
        raise UsageError(f'several texts - put the sentence in quotes: flairsearch query "{" ".join(texts)}"')
    scope = Scope.of(under, since, until, larger_than, ext or ())
    with Engine.open(index, model, device=device, create=False) as engine:
        hits = engine.search(texts[0], k, shortlist, min_score, scope)
        _say_unseen(engine, texts[0])
        if verbose:
            _say_how_many(engine, bool(scope))
        for warning in engine.damage():
            typer.echo(f"warning: {warning}", err=True)
    if overlay:
        for hit in hits:
            _draw(hit, texts[0], overlay / f"{hit.rank:02d}-{Path(hit.path).stem[:60]}.jpg")
    if json:
        for hit in hits:
            typer.echo(present.to_json(hit))
    elif paths:
        for hit in hits:
            typer.echo(hit.path)
    elif hits:
        Console(width=None if sys.stdout.isatty() else 1000).print(present.to_table(hits, logits))
    if not hits and not scope:
        typer.echo("no photo to show: the index is empty, or --min-score hides them all", err=True)
    elif not hits:
        asked = {"under": under, "since": since, "until": until, "larger-than": larger_than, "ext": ",".join(ext or ())}
        words = " ".join(f"--{name} {value}" for name, value in asked.items() if value)
        which = "--min-score hides all" if engine.in_scope else "no indexed photo is"
        typer.echo(f"no photo to show: {which} in scope: {words}", err=True)


def _say_how_many(engine: Engine, scoped: bool) -> None:
    (ranked,), views = engine.reranked, engine.in_scope
    what = f"views in scope (of {engine.status().views:,})" if scoped else "views"
    typer.echo(f"{ranked:,} of {views:,} {what} ranked exactly ({ranked / max(1, views):.1%})", err=True)


def _say_unseen(engine: Engine, text: str) -> None:
    if words := engine.unseen_words(text):
        model, several = engine.settings.model, ", ".join(repr(word) for word in words)
        typer.echo(f"note: {model} was trained on no text with {several}; the hits do not know that word", err=True)


def _draw(hit: Hit, text: str, path: Path) -> None:
    from flairsearch import present
    from flairsearch.decode import open_upright
    from flairsearch.errors import PictureError

    try:
        photo = open_upright(hit.path)
    except PictureError as error:
        typer.echo(f"no overlay for {error}", err=True)
        return
    present.save_overlay(hit, photo, text, path)
    typer.echo(f"overlay: {present.short_path(str(path))}", err=True)


def show_command(
    image: Annotated[Path, typer.Argument(help="An indexed photo.")],
    text: Annotated[str, typer.Argument(help="What to look for in it.")],
    out: Annotated[Path | None, typer.Option(help="Picture to write; default NAME-regions.jpg here.")] = None,
    index: IndexOption = "default",
    device: DeviceOption = "auto",
) -> None:
    """Draw where one photo shows what the text says."""
    from flairsearch import present
    from flairsearch.engine import Engine

    with Engine.open(index, device=device, create=False) as engine:
        hit = engine.show(image, text)
        _say_unseen(engine, text)
    _draw(hit, text, out or Path(f"{image.stem}-regions.jpg"))
    typer.echo(present.to_json(hit))
