"""`flairsearch eval`. Tables or JSON to stdout, talk to stderr."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flairsearch.cli.evaluate_regions import (
    ClassesOption,
    InstancesOption,
    PasteOption,
    Places,
    PromptOption,
    RegionsOption,
    SegmentationOption,
    SideOption,
    SplitOption,
    show_regions,
    show_segmentation,
)
from flairsearch.cli.options import DeviceOption, IndexOption, ModelOption
from flairsearch.cli.progress import follow, show
from flairsearch.core.errors import UsageError
from flairsearch.evaluate.box_datasets import PROMPT
from flairsearch.evaluate.caption_datasets import FORMATS, read_annotations

if TYPE_CHECKING:
    from flairsearch.core.types import EncodedViews
    from flairsearch.evaluate.caption_datasets import Annotations
    from flairsearch.evaluate.galleries import Gallery
    from flairsearch.model.encoder import Encoder

CODEC_COUNT = 500  # texts, and views of an index, unless --count says otherwise

_Annotations = Annotated[
    Path | None,
    typer.Argument(metavar="[ANNOTATIONS]", help="Photos with captions, in any --format; none: an index."),
]
_Photos = Annotated[
    Path | None, typer.Option(help="Folder the annotated paths start from; default: as the set is laid out.")
]
_Format = Annotated[
    str | None,
    typer.Option("--format", help=f"{', '.join(FORMATS)}; default: told by the content."),
]
_Views = Annotated[
    str | None,
    typer.Option(
        help="Of photos: center (the reference's crop), or squash (as places are measured). "
        "Of an index: how many, evenly spaced."
    ),
]
_Rerank = Annotated[
    int | None, typer.Option(min=1, metavar="K", help="Also: only the K best views of a text ranked exactly.")
]
_TopK = Annotated[
    int | None,
    typer.Option(
        "--topk-texts-per-image", min=1, metavar="K", help="Also the reference's top-k mode: K texts an image."
    ),
]
_Count = Annotated[int | None, typer.Option(min=1, help="Texts at most (--codecs: 500, and views of an index).")]


def eval_command(
    annotations: _Annotations = None,
    photos: _Photos = None,
    form: _Format = None,
    views: _Views = None,
    mosaics: Annotated[int, typer.Option(min=0, help="Mosaics of the photos, instead of the photos.")] = 0,
    side: SideOption = 2,
    rerank: _Rerank = None,
    topk: _TopK = None,
    codecs: Annotated[bool, typer.Option("--codecs", help="Instead: what each codec costs and loses.")] = False,
    count: _Count = None,
    regions: RegionsOption = False,
    paste: PasteOption = 0,
    prompt: PromptOption = PROMPT,
    instances: InstancesOption = None,
    split: SplitOption = None,
    segmentation: SegmentationOption = False,
    classes: ClassesOption = None,
    index: IndexOption = "default",
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Measure retrieval on annotated photos, shortlists on an index of your own, or how well places are found."""
    placed = regions or segmentation
    if annotations is None and (photos or form or mosaics or rerank or topk or placed):
        raise UsageError("no annotations for these options - give a file: flairsearch eval ANNOTATIONS --photos DIR")
    if annotations is not None and placed:
        if codecs or rerank or topk or count or (regions and segmentation):
            raise UsageError("--regions and --segmentation measure nothing else - leave other measurements away")
        places = Places(
            annotations, photos, form, views or "squash", mosaics, side, paste, prompt, instances, split, classes
        )
        return (show_regions if regions else show_segmentation)(places, model, device, json)
    if paste or prompt != PROMPT or instances or split or classes:
        raise UsageError("--paste, --prompt, --instances, --split, --classes are of places - add --regions")
    if codecs and (rerank or topk):
        raise UsageError("--codecs measures nothing but codecs - leave --rerank and --topk-texts-per-image away")
    count = count or (CODEC_COUNT if codecs else None)
    if annotations is None:
        encoder, found = _open_index(index, model, device, _most(views) or (count if codecs else None), count)
    else:
        notes = read_annotations(annotations, photos, form)  # before the model: what is wrong shows at once
        encoder, found = _open_photos(notes, views or "center", (model, device), mosaics, side, count)
    _tell(encoder, found)
    if codecs:
        return _show_codecs(encoder, found, json)
    _show_retrieval(encoder, found, rerank, topk, json)


def _tell(encoder: Encoder, found: Gallery) -> None:
    """What is measured, to stderr."""
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{encoder.name}, {found.views:,} views, {len(found.texts):,} texts", err=True)


def _open_photos(
    notes: Annotations, views: str, model: tuple[str | None, str], mosaics: int, side: int, count: int | None
) -> tuple[Encoder, Gallery]:
    from flairsearch.core.settings import check_views
    from flairsearch.evaluate import galleries
    from flairsearch.evaluate.mosaics import Mosaics
    from flairsearch.model import checkpoints
    from flairsearch.model.encoder import Encoder

    policy, shown = check_views(views, tiles=False), Mosaics(mosaics, side) if mosaics else None
    encoder = Encoder(model[0] or checkpoints.default_name(), model[1])
    size = encoder.config.image_size
    return encoder, galleries.of_photos(notes, encoder.encode_pictures, policy, size, shown, count)


def _open_index(
    index: str, model: str | None, device: str, most: int | None, count: int | None
) -> tuple[Encoder, Gallery]:
    from flairsearch.core.paths import index_folder
    from flairsearch.evaluate import galleries
    from flairsearch.indexing.lifecycle import open_index
    from flairsearch.model.lazy_encoder import LazyEncoder

    folder = index_folder(index)
    settings, known = open_index(folder, model, None, None, create=False)
    encoder = LazyEncoder(folder, settings, known, device).in_torch
    return encoder, galleries.of_index(folder, settings, most, count)


def _most(views: str | None) -> int | None:
    """How many views of an index."""
    if views is not None and (not views.isdecimal() or not int(views)):
        raise UsageError(f"--views {views} of an index is no number - its photos are encoded already: give how many")
    return None if views is None else int(views)


def _show_codecs(encoder: Encoder, found: Gallery, json: bool) -> None:
    from flairsearch.evaluate import galleries, tables
    from flairsearch.evaluate.codec_comparison import compare_codecs

    encoded = galleries.join(follow(found.encoded, "views", found.views, _views))
    queries, weights = encoder.encode_texts(found.texts), encoder.pool_weights
    rows = compare_codecs(encoded, queries, found.right, weights, encoder.token_metric, encoder.device)
    show(rows, tables.to_codec_table, json)


def _show_retrieval(encoder: Encoder, found: Gallery, rerank: int | None, topk: int | None, json: bool) -> None:
    from flairsearch.evaluate import retrieval_run, tables
    from flairsearch.evaluate.retrieval_metrics import shortlist_recall

    groups = retrieval_run.encode_in_groups(encoder.encode_texts, found.texts)
    queries = follow(groups, "texts", len(set(found.texts)), len)
    weights, device = encoder.pool_weights, encoder.device
    fitted = retrieval_run.FittedVectors(encoder.bank(), weights, device, found.views)
    scores = retrieval_run.PairScores(found.views, found.texts, queries, weights, device, fitted)
    for encoded in follow(found.encoded, "views", found.views, _views):
        scores.add(encoded)
    if found.right is not None:
        show(retrieval_run.retrieval(scores, found.right, rerank, topk), tables.to_retrieval_table, json)
    show(shortlist_recall(scores.exact, scores.prefilters), tables.to_shortlist_table, json)


def _views(encoded: EncodedViews) -> int:
    return len(encoded.pooled)
