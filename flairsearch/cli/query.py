"""`flairsearch query` and `flairsearch show`. Hits go to stdout, messages to stderr."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flairsearch.cli.option_parameters import name_on_command_line, takes_search_options
from flairsearch.cli.options import DeviceOption, GivenIndexOption, IndexOption, ModelOption
from flairsearch.core.blas_threads import use_one_blas_thread
from flairsearch.core.errors import UsageError
from flairsearch.core.paths import DEFAULT_INDEX
from flairsearch.core.request import SearchRequest, SearchResult, SearchStats, example_from_options
from flairsearch.core.timing import StageTimer, process_age_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flairsearch.core.hits import Hit


@dataclass(frozen=True)
class _Presentation:
    """The options that say how hits are shown."""

    json: bool
    paths: bool
    null: bool  # Only paths are printed, each ended by a zero byte.
    logits: bool
    thumbnails: bool
    overlay: Path | None
    heat: bool
    open_best: bool


@takes_search_options
def query_command(
    values: dict[str, Any],
    index: GivenIndexOption = None,
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", envvar="FLAIRSEARCH_SERVER", help="Ask the flairsearch server at this URL."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    paths: Annotated[bool, typer.Option("--paths", help="Print only the paths.")] = False,
    null: Annotated[
        bool, typer.Option("--null", "-0", help="Print only the paths, each ended by a zero byte, for xargs -0.")
    ] = False,
    logits: Annotated[bool, typer.Option("--logits", help="Show scores as FLAIR's logits.")] = False,
    thumbnails: Annotated[bool, typer.Option(help="Show small pictures in the table, if the terminal can.")] = True,
    overlay: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Save the photos, with their regions drawn, to this folder.")
    ] = None,
    heat: Annotated[bool, typer.Option("--heat", help="Draw the heat map as well.")] = False,
    open_best: Annotated[
        bool, typer.Option("--open", help="Open the best photo; with --overlay, the drawn one.")
    ] = False,
    timings: Annotated[bool, typer.Option("--timings", help="Print how long each step took.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print how many views were ranked exactly.")] = False,
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Find photos by text or image, and the place in each."""
    start = process_age_seconds() or 0.0
    request = SearchRequest.from_options(values, example_from_options(values["image"], values))
    presentation = _Presentation(json, paths, null, logits, thumbnails, overlay, heat, open_best)
    if server:
        local = {"index": index, "model": model, "device": device != "auto", "heat": overlay is not None and heat}
        result = _ask_server(request, server, [name for name, value in local.items() if value])
    else:
        result = _search_locally(request, index, model, device)
    show_seconds = _show_hits(result, presentation)
    _print_messages(request, result, None if server else index or DEFAULT_INDEX)
    if verbose:
        _print_view_counts(result.stats, bool(request.filter))
    if timings:
        _print_timings({"start": start, **result.stats.seconds, "show": show_seconds}, result.stats.backend)


def _show_hits(result: SearchResult, presentation: _Presentation) -> float:
    """Draw, print and open hits as the options say; return the seconds it took."""
    timer = StageTimer()
    with timer.stage("show"):
        folder, heat = presentation.overlay, presentation.heat
        drawn = [_draw(hit, folder / _file_name(hit), heat) for hit in result] if folder else []
        _print_hits(result.hits, presentation)
        if presentation.open_best and result.hits:
            _open_picture(str(next(filter(None, drawn[:1]), result[0].path)))
    return timer.seconds["show"]


def _ask_server(request: SearchRequest, url: str, local: Sequence[str]) -> SearchResult:
    """Send a query to a server.

    local: the options in use that need a query on this machine. Raises UsageError if there are any.
    """
    from flairsearch.serve.client import ServerClient

    if local:
        raise UsageError("it does not go with --server (or FLAIRSEARCH_SERVER) - leave out one of them", local[0])
    return ServerClient.at(url, os.environ.get("FLAIRSEARCH_TOKEN") or None).search(request)


def _search_locally(request: SearchRequest, index: str | None, model: str | None, device: str) -> SearchResult:
    """Run a query on this machine."""
    use_one_blas_thread()
    from flairsearch.engine import Engine

    with Engine.open_for_one_search(index, model, device) as engine:
        return engine.search(request)


def _print_hits(hits: Sequence[Hit], presentation: _Presentation) -> None:
    """Print hits to stdout as a table, JSON or paths."""
    from flairsearch.output import formatting

    if presentation.null:
        sys.stdout.buffer.write(b"".join(os.fsencode(hit.path) + b"\0" for hit in hits))
        sys.stdout.flush()
    elif presentation.json:
        for hit in hits:
            typer.echo(formatting.to_json(hit))
    elif presentation.paths:
        _print_paths(hits)
    elif hits:
        from rich.console import Console

        pictures = None
        if presentation.thumbnails and sys.stdout.isatty():
            from flairsearch.cli.thumbnails import thumbnails

            pictures = thumbnails(hits)
        Console(width=None if sys.stdout.isatty() else 1000).print(
            formatting.to_table(hits, presentation.logits, pictures)
        )


def _print_paths(hits: Sequence[Hit]) -> None:
    """Print paths: unchanged to a file or pipe, and with escaped control characters to a terminal."""
    from flairsearch.output import formatting

    if sys.stdout.isatty():
        for hit in hits:
            typer.echo(formatting.escape(hit.path))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(b"".join(os.fsencode(hit.path) + b"\n" for hit in hits))
        sys.stdout.flush()


def _open_picture(path: str) -> None:
    """Open a picture in the machine's default program."""
    from flairsearch.output import formatting

    if not os.path.exists(path):
        typer.echo(f"nothing opened: {formatting.escape(path)} is not there any more - run flairsearch index", err=True)
    elif typer.launch(path):
        typer.echo("nothing opened: there is no program that opens pictures - install xdg-utils", err=True)


def _file_name(hit: Hit) -> str:
    """Return the name of the picture with the drawn regions."""
    return f"{hit.rank:02d}-{Path(hit.path).stem[:60]}.jpg"


def _print_messages(request: SearchRequest, result: SearchResult, index: str | None) -> None:
    """Print unseen words, warnings and, without hits, the reason. index: None if a server answered."""
    _print_unseen_words(result.stats.unseen_words, index)
    for warning in result.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if not result.hits:
        _print_why_empty(request, result)


def _print_unseen_words(words: Iterable[str], index: str | None) -> None:
    """Print which words of the query the model has never seen. index: None if a server answered."""
    if quoted := ", ".join(repr(word) for word in words):
        from flairsearch.core.paths import index_folder
        from flairsearch.core.settings import IndexSettings

        model = "the server's model" if index is None else IndexSettings.load(index_folder(index)).model
        typer.echo(f"note: {model} was trained on no text with {quoted}; it can only guess what that means", err=True)


def _print_why_empty(request: SearchRequest, result: SearchResult) -> None:
    """Print why there is no hit."""
    filter_options = _filter_options(request)
    within = " within the filter" if filter_options else ""
    if not result.stats.views_in_filter and not result.complete:
        why = f"no part of the index{within} can be read"
    elif not result.stats.views_in_filter:
        why = "no indexed photo is within the filter" if filter_options else "the index is empty"
    elif request.offset:
        why = f"no hit{within} comes after the first {request.offset:,}"
    else:
        conditions = "--exclude, --position, --min-area or --min-score hide"
        reason = conditions if request.query.has_conditions else "--min-score hides"
        why = f"{reason} all within the filter" if filter_options else f"{reason} all"
    typer.echo(f"no photo to show: {why}{f': {filter_options}' if filter_options else ''}", err=True)


def _filter_options(request: SearchRequest) -> str:
    """Return the options of the filter as the user writes them on the command line."""
    from flairsearch.core.filters import Filter
    from flairsearch.core.option import options_of
    from flairsearch.output.formatting import short_path

    filter_values = {name: value for name, value in request.to_options().items() if name in options_of(Filter)}
    texts = {
        name: ",".join(value) if isinstance(value, tuple) else short_path(str(value))
        for name, value in filter_values.items()
    }
    return " ".join(f"{name_on_command_line(name)} {text}" for name, text in texts.items())


def _print_view_counts(stats: SearchStats, is_filtered: bool) -> None:
    share = stats.views_ranked / max(1, stats.views_in_filter)
    noun = "views within the filter" if is_filtered else "views"
    typer.echo(f"{stats.views_ranked:,} of {stats.views_in_filter:,} {noun} ranked exactly ({share:.1%})", err=True)


def _print_timings(seconds: Mapping[str, float], backend: str) -> None:
    """Print the milliseconds of each stage and in all. `start` lasts from the start of Python to the command."""
    parts = "  ".join(f"{name} {1000 * taken:.0f}" for name, taken in seconds.items() if taken)
    age = process_age_seconds()
    total = "" if age is None else f"  in all {1000 * age:.0f}"
    typer.echo(f"milliseconds: {parts}{total}{f'  ({backend})' if backend else ''}", err=True)


def _draw(hit: Hit, path: Path, heat: bool) -> Path | None:
    """Save the photo with its regions drawn; return the path, or None if the photo cannot be read."""
    from flairsearch.core.errors import PictureError
    from flairsearch.images.decoding import open_upright
    from flairsearch.output import formatting
    from flairsearch.output import overlay as overlay_module

    try:
        if os.path.exists(hit.path) and not os.path.isfile(hit.path):  # Reading a pipe could block for ever.
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
    texts: Annotated[
        list[str], typer.Argument(metavar="TEXT...", help="What to look for in the photo; several texts are phrases.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Picture to write (default: NAME-regions.jpg in the current folder)."),
    ] = None,
    heat: Annotated[bool, typer.Option("--heat", help="Draw the heat map as well.")] = False,
    index: IndexOption = "default",
    device: DeviceOption = "auto",
) -> None:
    """Draw where one indexed photo shows what the texts say."""
    use_one_blas_thread()
    from flairsearch.core.query import Query
    from flairsearch.engine import Engine
    from flairsearch.output import formatting

    query = Query(texts)
    with Engine.open_for_one_search(index, device=device) as engine:
        hit = engine.show(image, query)
        _print_unseen_words(engine.unseen_words(*query.texts), index)
    _draw(hit, out or Path(f"{image.stem}-regions.jpg"), heat)
    typer.echo(formatting.to_json(hit))
