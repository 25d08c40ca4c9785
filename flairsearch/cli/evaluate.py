"""`flairsearch eval`. Tables or JSON go to stdout, messages to stderr."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flairsearch.cli.evaluate_regions import (
    BoxOptions,
    ClassesOption,
    InstancesOption,
    PastedOption,
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
from flairsearch.evaluate.box_datasets import DEFAULT_PROMPT
from flairsearch.evaluate.caption_datasets import FORMATS, read_caption_dataset

if TYPE_CHECKING:
    from flairsearch.core.types import EncodedViews
    from flairsearch.evaluate.caption_datasets import CaptionDataset
    from flairsearch.evaluate.galleries import Gallery
    from flairsearch.model.encoder import TorchEncoder

DEFAULT_CODEC_COUNT = 500  # Number of texts, and of an index's views, for --codecs when --count is not given.

_Annotations = Annotated[
    Path | None,
    typer.Argument(
        metavar="[ANNOTATIONS]",
        help="File of photos with captions, in any --format, or with boxes (default: measure an index).",
    ),
]
_Photos = Annotated[
    Path | None,
    typer.Option(help="Folder that the annotated paths start from (default: where the data set has its photos)."),
]
_Format = Annotated[
    str | None,
    typer.Option("--format", help=f"Format of ANNOTATIONS: {', '.join(FORMATS)} (default: detected)."),
]
_Views = Annotated[
    str | None,
    typer.Option(
        help="How a photo becomes a view: center (the reference's crop) or squash (default for regions). "
        "For an index: a number of views, evenly spaced."
    ),
]
_Rerank = Annotated[
    int | None,
    typer.Option(min=1, metavar="K", help="Also measure ranking only the prefilter's K best views per text exactly."),
]
_TopK = Annotated[
    int | None,
    typer.Option(
        "--topk-texts-per-image",
        min=1,
        metavar="K",
        help="Also measure the reference's top-k mode with K texts per image.",
    ),
]
_Count = Annotated[
    int | None,
    typer.Option(min=1, help="Largest number of texts (with --codecs also of an index's views; default 500)."),
]


def eval_command(
    annotations: _Annotations = None,
    photos: _Photos = None,
    format_name: _Format = None,
    views: _Views = None,
    mosaics: Annotated[
        int, typer.Option(min=0, metavar="N", help="Measure on N mosaics of the photos, instead of the photos.")
    ] = 0,
    side: SideOption = 2,
    rerank: _Rerank = None,
    topk: _TopK = None,
    codecs: Annotated[
        bool, typer.Option("--codecs", help="Measure what each codec costs and loses, instead of retrieval.")
    ] = False,
    count: _Count = None,
    regions: RegionsOption = False,
    pasted: PastedOption = 0,
    prompt: PromptOption = DEFAULT_PROMPT,
    instances: InstancesOption = None,
    split: SplitOption = None,
    segmentation: SegmentationOption = False,
    classes: ClassesOption = None,
    index: IndexOption = "default",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    model: ModelOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Measure retrieval, shortlists, codecs or regions."""
    has_places = regions or segmentation
    if annotations is None and (photos or format_name or mosaics or rerank or topk or has_places):
        raise UsageError("no annotations for these options - give a file: flairsearch eval ANNOTATIONS --photos DIR")
    if annotations is not None and has_places:
        if codecs or rerank or topk or count or (regions and segmentation):
            raise UsageError("--regions and --segmentation measure nothing else - leave out the other measurements")
        options = BoxOptions(
            annotations,
            photos,
            format_name,
            views or BoxOptions.views,
            mosaics,
            side,
            pasted,
            prompt,
            instances,
            split,
            classes,
        )
        return (show_regions if regions else show_segmentation)(options, model, device, json)
    if pasted or prompt != DEFAULT_PROMPT or instances or split or classes:
        raise UsageError("--pasted, --prompt, --instances, --split, --classes are for places - add --regions")
    if codecs and (rerank or topk):
        raise UsageError("--codecs measures only codecs - leave out --rerank and --topk-texts-per-image")
    count = count or (DEFAULT_CODEC_COUNT if codecs else None)
    if annotations is None:
        max_views = _parse_view_count(views) or (count if codecs else None)
        encoder, gallery = _open_index(index, model, device, max_views, count)
    else:
        # The annotations are read before the model is loaded, so that errors in them appear at once.
        dataset = read_caption_dataset(annotations, photos, format_name)
        encoder, gallery = _open_photos(dataset, views or "center", (model, device), mosaics, side, count)
    _print_summary(encoder, gallery)
    if codecs:
        return _show_codecs(encoder, gallery, json)
    _show_retrieval(encoder, gallery, rerank, topk, json)


def _print_summary(encoder: TorchEncoder, gallery: Gallery) -> None:
    """Print to stderr what is measured."""
    for note in gallery.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{encoder.name}, {gallery.views:,} views, {len(gallery.texts):,} texts", err=True)


def _open_photos(
    dataset: CaptionDataset, views: str, model: tuple[str | None, str], mosaics: int, side: int, count: int | None
) -> tuple[TorchEncoder, Gallery]:
    """Load the model (its name and device) and build a gallery of the annotated photos."""
    from flairsearch.core.settings import check_views
    from flairsearch.evaluate import galleries
    from flairsearch.evaluate.mosaics import MosaicPlan
    from flairsearch.model import checkpoints
    from flairsearch.model.encoder import TorchEncoder

    policy, plan = check_views(views, tiles=False), MosaicPlan(mosaics, side) if mosaics else None
    encoder = TorchEncoder(model[0] or checkpoints.default_name(), model[1])
    size = encoder.config.image_size
    return encoder, galleries.caption_gallery(dataset, encoder.encode_images, policy, size, plan, count)


def _open_index(
    index: str, model: str | None, device: str, max_views: int | None, count: int | None
) -> tuple[TorchEncoder, Gallery]:
    """Load the model of an index and build a gallery of its views."""
    from flairsearch.core.paths import index_folder
    from flairsearch.evaluate import galleries
    from flairsearch.indexing.lifecycle import open_index
    from flairsearch.model.lazy_encoder import LazyEncoder

    folder = index_folder(index)
    settings, known = open_index(folder, model, None, None, create=False)
    encoder = LazyEncoder(folder, settings, known, device).in_torch
    return encoder, galleries.index_gallery(folder, settings, max_views, count)


def _parse_view_count(views: str | None) -> int | None:
    """Return --views as a number of an index's views. Raises UsageError when it is not a positive number."""
    if views is not None and (not views.isdecimal() or not int(views)):
        raise UsageError(f"--views {views} of an index is not a number - its photos are encoded already: give how many")
    return None if views is None else int(views)


def _show_codecs(encoder: TorchEncoder, gallery: Gallery, json: bool) -> None:
    from flairsearch.evaluate import galleries, tables
    from flairsearch.evaluate.codec_comparison import compare_codecs

    encoded = galleries.concatenate(follow(gallery.encoded, "views", gallery.views, _count_views))
    queries, weights = encoder.encode_texts(gallery.texts), encoder.pool_weights
    rows = compare_codecs(encoded, queries, gallery.relevant, weights, encoder.token_metric, encoder.device)
    show(rows, tables.to_codec_table, json)


def _show_retrieval(encoder: TorchEncoder, gallery: Gallery, rerank: int | None, topk: int | None, json: bool) -> None:
    from flairsearch.evaluate import retrieval_run, tables
    from flairsearch.evaluate.retrieval_metrics import shortlist_recall

    groups = retrieval_run.encode_in_groups(encoder.encode_texts, gallery.texts)
    queries = follow(groups, "texts", len(set(gallery.texts)), len)
    weights, device = encoder.pool_weights, encoder.device
    fitted = retrieval_run.FittedVectors(encoder.encode_prompts(), weights, device, gallery.views)
    scores = retrieval_run.PairScores(gallery.views, gallery.texts, queries, weights, device, fitted)
    for encoded in follow(gallery.encoded, "views", gallery.views, _count_views):
        scores.add(encoded)
    if gallery.relevant is not None:
        rows = retrieval_run.evaluate_retrieval(scores, gallery.relevant, rerank, topk)
        show(rows, tables.to_retrieval_table, json)
    show(shortlist_recall(scores.exact, scores.prefilters), tables.to_shortlist_table, json)


def _count_views(encoded: EncodedViews) -> int:
    return len(encoded.pooled)
