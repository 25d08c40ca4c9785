"""`flairsearch query` and `show`. Hits to stdout, talk to stderr."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flairsearch.cli.options import (
    DeviceOption,
    GivenIndexOption,
    IndexOption,
    ModelOption,
    PlaceOption,
    TextsArgument,
    WithoutOption,
)
from flairsearch.core.errors import UsageError
from flairsearch.core.paths import DEFAULT_INDEX
from flairsearch.core.timing import StageTimer, process_age_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flairsearch.core.query import ImageExample, Query
    from flairsearch.core.types import Answer, Hit
    from flairsearch.search.request import Question


@dataclass(frozen=True)
class _Show:
    """How hits are shown."""

    json: bool
    paths: bool
    null: bool  # zero bytes after paths
    logits: bool
    thumbnails: bool
    overlay: Path | None
    heat: bool
    open_best: bool


def query_command(
    texts: TextsArgument = None,
    index: GivenIndexOption = None,
    server: Annotated[
        str | None, typer.Option(metavar="URL", envvar="FLAIRSEARCH_SERVER", help="Ask this flairsearch serve instead.")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many photos.")] = 10,
    image: Annotated[str | None, typer.Option(metavar="FILE", help="Look for what this picture shows.")] = None,
    box: Annotated[str | None, typer.Option(metavar="L,T,R,B", help="The part of it that is meant, pixels.")] = None,
    image_weight: Annotated[float, typer.Option(metavar="W", help="Its weight, where a text weighs 1.")] = 1.0,
    without: WithoutOption = None,
    at: PlaceOption = None,
    min_area: Annotated[str, typer.Option(metavar="SHARE", help="How large it has to be, of the photo: 5%.")] = "0%",
    shortlist: Annotated[str, typer.Option(help="Views ranked exactly: auto, all or a number.")] = "auto",
    min_score: Annotated[float | None, typer.Option(help="Hide photos that score less.")] = None,
    under: Annotated[str | None, typer.Option(metavar="FOLDER", help="Only photos below this folder.")] = None,
    since: Annotated[str | None, typer.Option(metavar="DATE", help="Only from then on: 2024, 2024-05-17.")] = None,
    until: Annotated[str | None, typer.Option(metavar="DATE", help="Only to then, with all of it.")] = None,
    larger_than: Annotated[str | None, typer.Option(metavar="SIZE", help="Only these: 2MB, or 1920x1080.")] = None,
    ext: Annotated[list[str] | None, typer.Option(metavar="EXT", help="Only these kinds: jpg, or jpg,png.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    paths: Annotated[bool, typer.Option("--paths", help="Only the paths.")] = False,
    null: Annotated[bool, typer.Option("-0", help="Only the paths, each ended by a zero byte: for xargs -0.")] = False,
    logits: Annotated[bool, typer.Option("--logits", help="Show the score as FLAIR's logit.")] = False,
    thumbnails: Annotated[bool, typer.Option(help="Small pictures in the table, where the terminal can.")] = True,
    overlay: Annotated[Path | None, typer.Option(help="Folder for pictures with the regions drawn.")] = None,
    heat: Annotated[bool, typer.Option("--heat", help="Draw the heat map too.")] = False,
    open_best: Annotated[bool, typer.Option("--open", help="Show the best photo, with --overlay as drawn.")] = False,
    timings: Annotated[bool, typer.Option("--timings", help="Say what took how long.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say how many views were ranked exactly.")] = False,
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Find photos, and the place in each."""
    from flairsearch.core.filters import Filter
    from flairsearch.core.query import Query
    from flairsearch.search.request import Question

    start = process_age_seconds() or 0.0
    example = _example(image, box, image_weight)
    terms = Query.of(texts or (), picture=example, without=without or (), at=at or (), min_area=min_area)
    scope = Filter.of(under, since, until, larger_than, ext or ())
    question = Question(terms, k, shortlist, min_score, scope)
    how = _Show(json, paths, null, logits, thumbnails, overlay, heat, open_best)
    if server:
        local = {"index": index, "model": model, "device": device != "auto", "heat": overlay is not None and heat}
        answer = _ask_server(question, server, [name for name, value in local.items() if value])
    else:
        answer = _ask_here(question, index, model, device)
    shown = _show_hits(answer, how)
    limits = {"under": under, "since": since, "until": until, "larger-than": larger_than, "ext": ",".join(ext or ())}
    place = None if server else index or DEFAULT_INDEX
    _say(question, answer, place, " ".join(f"--{name} {value}" for name, value in limits.items() if value))
    if verbose:
        _say_how_many(answer, bool(scope))
    if timings:
        _say_timings({"start": start, **answer.seconds, "show": shown})


def _show_hits(answer: Answer, how: _Show) -> float:
    """Prints the hits, draws and opens them as asked; -> the seconds it took."""
    clock = StageTimer()
    with clock.part("show"):
        drawn = [_draw(hit, how.overlay / _name(hit), how.heat) for hit in answer.hits] if how.overlay else []
        _print(answer.hits, how)
        if how.open_best and answer.hits:
            _open(str(next(filter(None, drawn[:1]), answer.hits[0].path)))
    return clock.seconds["show"]


def _ask_server(question: Question, url: str, local: Sequence[str]) -> Answer:
    """local: options that were given and only a query on this machine can follow. Raises UsageError on any."""
    from flairsearch.serve.client import ServerClient

    if local:
        raise UsageError(f"--{local[0]} does not go with --server (or FLAIRSEARCH_SERVER) - leave out one of them")
    return ServerClient.at(url, os.environ.get("FLAIRSEARCH_TOKEN") or None).search(question)


def _ask_here(question: Question, index: str | None, model: str | None, device: str) -> Answer:
    from flairsearch.engine import Engine

    # A GPU takes longer to start than it saves one query.
    with Engine.open(index, model, device="cpu" if device == "auto" else device, create=False) as engine:
        return question.ask(engine)


def _print(hits: Sequence[Hit], how: _Show) -> None:
    from flairsearch.output import formatting

    if how.null:
        sys.stdout.buffer.write(b"".join(os.fsencode(hit.path) + b"\0" for hit in hits))
        sys.stdout.flush()
    elif how.json:
        for hit in hits:
            typer.echo(formatting.to_json(hit))
    elif how.paths:
        _print_paths(hits)
    elif hits:
        from rich.console import Console

        pictures = None
        if how.thumbnails and sys.stdout.isatty():
            from flairsearch.cli.thumbnails import thumbnails

            pictures = thumbnails(hits)
        Console(width=None if sys.stdout.isatty() else 1000).print(formatting.to_table(hits, how.logits, pictures))


def _print_paths(hits: Sequence[Hit]) -> None:
    """As they are where a program reads them; to a terminal without orders to it."""
    from flairsearch.output import formatting

    if sys.stdout.isatty():
        for hit in hits:
            typer.echo(formatting.escape(hit.path))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(b"".join(os.fsencode(hit.path) + b"\n" for hit in hits))
        sys.stdout.flush()


def _open(path: str) -> None:
    """In whatever this machine shows pictures with."""
    from flairsearch.output import formatting

    if not os.path.exists(path):
        typer.echo(f"nothing opened: {formatting.escape(path)} is not there any more - run flairsearch index", err=True)
    elif typer.launch(path):
        typer.echo("nothing opened: there is no program that opens pictures - install xdg-utils", err=True)


def _name(hit: Hit) -> str:
    """Of the picture with its regions."""
    return f"{hit.rank:02d}-{Path(hit.path).stem[:60]}.jpg"


def _example(image: str | None, box: str | None, weight: float) -> ImageExample | None:
    from flairsearch.core.query import ImageExample

    if image is None and box is not None:
        raise UsageError("a box without a picture - give the picture too: --image FILE")
    if image is None and weight != 1:
        raise UsageError("a picture's weight without a picture - give the picture too: --image FILE")
    return None if image is None else ImageExample.of(image, box, weight)


def _say(question: Question, answer: Answer, index: str | None, limits: str) -> None:
    """What there is to know besides the hits. index: None when a server answered. limits: options that narrow."""
    _say_unseen(answer.unseen, index)
    for warning in answer.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if not answer.hits:
        _say_nothing(answer, question.terms, limits)


def _say_unseen(words: Iterable[str], index: str | None) -> None:
    if several := ", ".join(repr(word) for word in words):
        from flairsearch.core.paths import index_folder
        from flairsearch.core.settings import IndexSettings

        model = "the server's model" if index is None else IndexSettings.load(index_folder(index)).model
        typer.echo(f"note: {model} was trained on no text with {several}; the hits do not know that word", err=True)


def _say_nothing(answer: Answer, terms: Query, scope: str) -> None:
    """Why there is no hit. scope: the options that leave photos out."""
    narrows = terms.without or terms.at or terms.min_area
    if not answer.in_scope:
        why = "no indexed photo is in scope" if scope else "the index is empty"
    else:
        which = "--not, --at, --min-area or --min-score hide" if narrows else "--min-score hides"
        why = f"{which} all in scope" if scope else f"{which} all"
    typer.echo(f"no photo to show: {why}{f': {scope}' if scope else ''}", err=True)


def _say_how_many(answer: Answer, scoped: bool) -> None:
    share = answer.ranked / max(1, answer.in_scope)
    what = "views in scope" if scoped else "views"
    typer.echo(f"{answer.ranked:,} of {answer.in_scope:,} {what} ranked exactly ({share:.1%})", err=True)


def _say_timings(seconds: Mapping[str, float]) -> None:
    """start: of Python, to the command. The other parts by name; what they leave is between them."""
    parts = "  ".join(f"{name} {1000 * taken:.0f}" for name, taken in seconds.items() if taken)
    age = process_age_seconds()
    typer.echo(f"milliseconds: {parts}" + ("" if age is None else f"  in all {1000 * age:.0f}"), err=True)


def _draw(hit: Hit, path: Path, heat: bool) -> Path | None:
    """None when the photo cannot be read."""
    from flairsearch.core.errors import PictureError
    from flairsearch.images.decoding import open_upright
    from flairsearch.output import formatting
    from flairsearch.output import overlay as overlay_module

    try:
        if os.path.exists(hit.path) and not os.path.isfile(hit.path):  # A pipe of that name would never end.
            raise PictureError(f"{hit.path}: it is no file")
        photo = open_upright(hit.path)
    except PictureError as error:
        typer.echo(f"no overlay for {formatting.escape(str(error))}", err=True)
        return None
    overlay_module.save_overlay(hit, photo, path, heat)
    typer.echo(f"overlay: {formatting.escape(formatting.short_path(str(path)))}", err=True)
    return path


def show_command(
    image: Annotated[Path, typer.Argument(help="An indexed photo.")],
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="What to look for in it; several are phrases.")],
    out: Annotated[Path | None, typer.Option(help="Picture to write; default NAME-regions.jpg here.")] = None,
    heat: Annotated[bool, typer.Option("--heat", help="Draw the heat map too.")] = False,
    index: IndexOption = "default",
    device: DeviceOption = "auto",
) -> None:
    """Draw where one photo shows what the text says."""
    from flairsearch.core.query import Query
    from flairsearch.engine import Engine
    from flairsearch.output import formatting

    terms = Query.of(texts)
    with Engine.open(index, device="cpu" if device == "auto" else device, create=False) as engine:
        hit = engine.show(image, terms)
        _say_unseen(engine.unseen_words(*terms.texts), index)
    _draw(hit, out or Path(f"{image.stem}-regions.jpg"), heat)
    typer.echo(formatting.to_json(hit))
