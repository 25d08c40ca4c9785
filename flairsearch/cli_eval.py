"""`flairsearch eval`: a verb of the command line in a module of its own. Tables or JSON to stdout, talk to stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from flairsearch.annotations import FORMATS, read_annotations
from flairsearch.errors import UsageError
from flairsearch.options import DeviceOption, IndexOption, ModelOption

if TYPE_CHECKING:
    from rich.table import Table

    from flairsearch.annotations import Annotations
    from flairsearch.encode import Encoder
    from flairsearch.gallery import Gallery
    from flairsearch.records import CodecRow, Encoded, Query, RetrievalRow, ShortlistRow

_Piece = TypeVar("_Piece", "Encoded", "list[Query]")
_Row = TypeVar("_Row", "CodecRow", "RetrievalRow", "ShortlistRow")
CODEC_COUNT = 500  # texts, and views of an index, unless --count says otherwise

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command("eval")
def eval_command(
    annotations: Annotated[
        Path | None,
        typer.Argument(metavar="[ANNOTATIONS]", help="Photos with captions, in any --format; none: an index."),
    ] = None,
    photos: Annotated[
        Path | None, typer.Option(help="Folder the annotated paths start from; default: as the set is laid out.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help=f"{', '.join(FORMATS)}; default: told by the content."),
    ] = None,
    views: Annotated[
        str | None,
        typer.Option(help="Of photos: center (the reference's crop) or squash. Of an index: how many, evenly spaced."),
    ] = None,
    mosaics: Annotated[int, typer.Option(min=0, help="2x2 mosaics of the photos, instead of the photos.")] = 0,
    rerank: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="Also: only the K best views of a text ranked exactly.")
    ] = None,
    topk: Annotated[
        int | None,
        typer.Option(
            "--topk-texts-per-image", min=1, metavar="K", help="Also the reference's top-k mode: K texts an image."
        ),
    ] = None,
    codecs: Annotated[bool, typer.Option("--codecs", help="Instead: what each codec costs and loses.")] = False,
    count: Annotated[
        int | None, typer.Option(min=1, help="Texts at most (--codecs: 500, and views of an index).")
    ] = None,
    index: IndexOption = "default",
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Measure retrieval on annotated photos, or what shortlists hold on an index of your own."""
    if annotations is None and (photos or form or mosaics or rerank or topk):
        raise UsageError("no annotations for these options - give a file: flairsearch eval ANNOTATIONS --photos DIR")
    if codecs and (rerank or topk):
        raise UsageError("--codecs measures nothing but codecs - leave --rerank and --topk-texts-per-image away")
    count = count or (CODEC_COUNT if codecs else None)
    if annotations is None:
        encoder, found = _open_index(index, model, device, _most(views) or (count if codecs else None), count)
    else:
        notes = read_annotations(annotations, photos, form)  # before the model: what is wrong shows at once
        encoder, found = _open_photos(notes, views or "center", model, device, mosaics, count)
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{encoder.name}, {found.views:,} views, {len(found.texts):,} texts", err=True)
    if codecs:
        _show_codecs(encoder, found, json)
    else:
        _show_retrieval(encoder, found, rerank, topk, json)


def _open_photos(
    notes: Annotations, views: str, model: str | None, device: str, mosaics: int, count: int | None
) -> tuple[Encoder, Gallery]:
    from flairsearch import gallery, weights
    from flairsearch.encode import Encoder
    from flairsearch.settings import check_views

    policy = check_views(views)
    encoder = Encoder(model or weights.default_name(), device)
    size = encoder.config.image_size
    return encoder, gallery.of_photos(notes, encoder.encode_pictures, policy, size, mosaics, count)


def _open_index(
    index: str, model: str | None, device: str, most: int | None, count: int | None
) -> tuple[Encoder, Gallery]:
    from flairsearch import gallery
    from flairsearch.engine import Engine

    with Engine.open(index, model, device=device, create=False) as engine:
        return engine.encoder, gallery.of_index(engine.folder, engine.settings, most, count)


def _most(views: str | None) -> int | None:
    """How many views of an index."""
    if views is not None and (not views.isdecimal() or not int(views)):
        raise UsageError(f"--views {views} of an index is no number - its photos are encoded already: give how many")
    return None if views is None else int(views)


def _show_codecs(encoder: Encoder, found: Gallery, json: bool) -> None:
    from flairsearch import evaluate, gallery, present

    encoded = gallery.join(_follow(found.encoded, "views", found.views))
    queries, weights = encoder.encode_texts(found.texts), encoder.pool_weights
    rows = evaluate.compare_codecs(encoded, queries, found.right, weights, encoder.token_metric, encoder.device)
    _show(rows, present.to_codec_table, json)


def _show_retrieval(encoder: Encoder, found: Gallery, rerank: int | None, topk: int | None, json: bool) -> None:
    from flairsearch import evaluate, present
    from flairsearch.retrieval import shortlist_recall

    groups = evaluate.encode_in_groups(encoder.encode_texts, found.texts)
    queries = _follow(groups, "texts", len(set(found.texts)))
    weights, bank = encoder.pool_weights, encoder.bank()
    scores = evaluate.PairScores(found.views, found.texts, queries, weights, encoder.device, bank)
    for encoded in _follow(found.encoded, "views", found.views):
        scores.add(encoded)
    if found.right is not None:
        _show(evaluate.retrieval(scores, found.right, rerank, topk), present.to_retrieval_table, json)
    _show(shortlist_recall(scores.exact, scores.prefilters), present.to_shortlist_table, json)


def _follow(pieces: Iterable[_Piece], what: str, total: int) -> Iterator[_Piece]:
    """The pieces as they come, with progress on stderr."""
    from rich.console import Console
    from rich.progress import Progress

    from flairsearch.records import Encoded

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        for piece in pieces:
            yield piece
            bar.advance(task, len(piece.pooled if isinstance(piece, Encoded) else piece))


def _show(rows: Iterable[_Row], to_table: Callable[[list[_Row]], Table], json: bool) -> None:
    from rich.console import Console

    from flairsearch import present

    if json:
        for row in rows:
            typer.echo(present.to_json_line(row))
    else:
        Console(width=None if sys.stdout.isatty() else 1000).print(to_table(list(rows)), "")
