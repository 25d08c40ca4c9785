"""`flairsearch query` and `show`. Hits to stdout, talk to stderr."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flairsearch.errors import UsageError
from flairsearch.options import DeviceOption, IndexOption, ModelOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flairsearch.engine import Engine
    from flairsearch.records import Hit
    from flairsearch.terms import Example, Terms


def query_command(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT...", help="What to look for, in quotes; several are phrases.")
    ] = None,
    index: IndexOption = "default",
    k: Annotated[int, typer.Option("-k", help="How many photos.")] = 10,
    image: Annotated[str | None, typer.Option(metavar="FILE", help="Look for what this picture shows.")] = None,
    box: Annotated[str | None, typer.Option(metavar="L,T,R,B", help="The part of it that is meant, pixels.")] = None,
    image_weight: Annotated[float, typer.Option(metavar="W", help="Its weight, where a text weighs 1.")] = 1.0,
    without: Annotated[
        list[str] | None, typer.Option("--not", metavar="TEXT", help="What must not be where the match is.")
    ] = None,
    at: Annotated[
        list[str] | None, typer.Option(metavar="PLACE", help="Where it has to be: left, right, top, bottom, center.")
    ] = None,
    min_area: Annotated[str, typer.Option(metavar="SHARE", help="How large it has to be, of the photo: 5%.")] = "0%",
    shortlist: Annotated[str, typer.Option(help="Views ranked exactly: auto, all or a number.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    paths: Annotated[bool, typer.Option("--paths", help="Only the paths.")] = False,
    min_score: Annotated[float | None, typer.Option(help="Hide photos that score less.")] = None,
    max_false_alarm: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Mark photos that may be there by chance, more often: 1%.")
    ] = None,
    logits: Annotated[bool, typer.Option("--logits", help="Show the score as FLAIR's logit.")] = False,
    under: Annotated[str | None, typer.Option(metavar="FOLDER", help="Only photos below this folder.")] = None,
    since: Annotated[str | None, typer.Option(metavar="DATE", help="Only from then on: 2024, 2024-05-17.")] = None,
    until: Annotated[str | None, typer.Option(metavar="DATE", help="Only to then, with all of it.")] = None,
    larger_than: Annotated[str | None, typer.Option(metavar="SIZE", help="Only these: 2MB, or 1920x1080.")] = None,
    ext: Annotated[list[str] | None, typer.Option(metavar="EXT", help="Only these kinds: jpg, or jpg,png.")] = None,
    overlay: Annotated[Path | None, typer.Option(help="Folder for pictures with the regions drawn.")] = None,
    heat: Annotated[bool, typer.Option("--heat", help="Draw the heat map too.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say how many views were ranked exactly.")] = False,
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Find photos, and the place in each."""
    from flairsearch.engine import Engine
    from flairsearch.scope import Scope
    from flairsearch.terms import Terms, read_share

    example = _example(image, box, image_weight)
    terms = Terms.of(texts or (), picture=example, without=without or (), at=at or (), min_area=min_area)
    allowed = None if max_false_alarm is None else read_share(max_false_alarm, "1%")
    limits = {"under": under, "since": since, "until": until, "larger-than": larger_than, "ext": ",".join(ext or ())}
    scope = Scope.of(under, since, until, larger_than, ext or ())
    with Engine.open(index, model, device=device, create=False) as engine:
        hits = _mark(engine.search(terms, k, shortlist, min_score, scope), allowed)
        _say_unseen(engine, terms)
        if verbose:
            _say_how_many(engine, bool(scope))
        _say_damage(engine)
    if overlay:
        for hit in hits:
            _draw(hit, overlay / f"{hit.rank:02d}-{Path(hit.path).stem[:60]}.jpg", heat)
    _print(hits, json, paths, logits)
    if not hits:
        _say_nothing(engine, terms, " ".join(f"--{name} {value}" for name, value in limits.items() if value))
    elif allowed is not None:
        _say_chance(hits, allowed)


def _print(hits: Sequence[Hit], json: bool, paths: bool, logits: bool) -> None:
    from rich.console import Console

    from flairsearch import present

    if json:
        for hit in hits:
            typer.echo(present.to_json(hit))
    elif paths:
        for hit in hits:
            typer.echo(hit.path)
    elif hits:
        Console(width=None if sys.stdout.isatty() else 1000).print(present.to_table(hits, logits))


def _example(image: str | None, box: str | None, weight: float) -> Example | None:
    from flairsearch.terms import Example

    if image is None and box is not None:
        raise UsageError("a box without a picture - give the picture too: --image FILE")
    if image is None and weight != 1:
        raise UsageError("a picture's weight without a picture - give the picture too: --image FILE")
    return None if image is None else Example.of(image, box, weight)


def _mark(hits: Sequence[Hit], allowed: float | None) -> list[Hit]:
    """Whether each hit's false alarm is as rare as is asked for; unknown stays unknown."""
    if allowed is None:
        return list(hits)
    return [hit if hit.confidence is None else replace(hit, matches=1 - hit.confidence <= allowed) for hit in hits]


def _say_chance(hits: Sequence[Hit], allowed: float) -> None:
    """Why no hit is one that was asked for, where none is."""
    if all(hit.matches is None for hit in hits):
        typer.echo("note: what is there by chance is not known of pictures, nor in so small an index", err=True)
    elif not any(hit.matches for hit in hits):
        typer.echo(f"nothing matches: each of these may be there by chance, more often than {allowed:.3g}", err=True)


def _say_nothing(engine: Engine, terms: Terms, scope: str) -> None:
    """Why there is no hit. scope: the options that leave photos out."""
    narrows = terms.without or terms.at or terms.min_area
    if not engine.in_scope:
        why = "no indexed photo is in scope" if scope else "the index is empty"
    else:
        which = "--not, --at, --min-area or --min-score hide" if narrows else "--min-score hides"
        why = f"{which} all in scope" if scope else f"{which} all"
    typer.echo(f"no photo to show: {why}{f': {scope}' if scope else ''}", err=True)


def _say_how_many(engine: Engine, scoped: bool) -> None:
    (ranked,), views = engine.reranked, engine.in_scope
    what = f"views in scope (of {engine.status().views:,})" if scoped else "views"
    typer.echo(f"{ranked:,} of {views:,} {what} ranked exactly ({ranked / max(1, views):.1%})", err=True)


def _say_unseen(engine: Engine, terms: Terms) -> None:
    for text in (*terms.texts, *terms.without):
        if words := engine.unseen_words(text):
            model, several = engine.settings.model, ", ".join(repr(word) for word in words)
            typer.echo(f"note: {model} was trained on no text with {several}; the hits do not know that word", err=True)


def _say_damage(engine: Engine) -> None:
    for warning in engine.damage():
        typer.echo(f"warning: {warning}", err=True)


def _draw(hit: Hit, path: Path, heat: bool) -> None:
    from flairsearch import draw, present
    from flairsearch.decode import open_upright
    from flairsearch.errors import PictureError

    try:
        photo = open_upright(hit.path)
    except PictureError as error:
        typer.echo(f"no overlay for {error}", err=True)
        return
    draw.save_overlay(hit, photo, path, heat)
    typer.echo(f"overlay: {present.short_path(str(path))}", err=True)


def show_command(
    image: Annotated[Path, typer.Argument(help="An indexed photo.")],
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="What to look for in it; several are phrases.")],
    out: Annotated[Path | None, typer.Option(help="Picture to write; default NAME-regions.jpg here.")] = None,
    heat: Annotated[bool, typer.Option("--heat", help="Draw the heat map too.")] = False,
    index: IndexOption = "default",
    device: DeviceOption = "auto",
) -> None:
    """Draw where one photo shows what the text says."""
    from flairsearch import present
    from flairsearch.engine import Engine
    from flairsearch.terms import Terms

    terms = Terms.of(texts)
    with Engine.open(index, device=device, create=False) as engine:
        hit = engine.show(image, terms)
        _say_unseen(engine, terms)
    _draw(hit, out or Path(f"{image.stem}-regions.jpg"), heat)
    typer.echo(present.to_json(hit))
