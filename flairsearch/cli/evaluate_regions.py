"""`flairsearch eval --regions` and `--segmentation`: measure how well places in photos are found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flairsearch.cli.progress import follow, show
from flairsearch.core.errors import UsageError
from flairsearch.evaluate.box_datasets import BOX_FORMATS, DEFAULT_PROMPT, check_prompt, read_box_dataset
from flairsearch.evaluate.caption_datasets import read_caption_dataset

if TYPE_CHECKING:
    from flairsearch.evaluate.galleries import BoxGallery
    from flairsearch.model.encoder import TorchEncoder

RegionsOption = Annotated[
    bool,
    typer.Option(
        "--regions",
        help="Measure how well regions are found, instead of retrieval. The true boxes come from --mosaics, --pasted "
        f"or the annotations ({', '.join(BOX_FORMATS)}).",
    ),
]
SideOption = Annotated[int, typer.Option(min=1, max=8, help="Number of photos along a side of each mosaic.")]
PastedOption = Annotated[
    int, typer.Option(min=0, metavar="N", help="With --regions: make N photos with another photo pasted on each.")
]
SegmentationOption = Annotated[
    bool,
    typer.Option(
        "--segmentation",
        help="Measure the mean IoU of masks, instead of retrieval. ANNOTATIONS is a folder in VOC's layout.",
    ),
]
PromptOption = Annotated[str, typer.Option(help="Text for a class or category, with {} in place of its name.")]
ClassesOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="With --segmentation: class names, one per line (default: VOC's 20 classes)."),
]
InstancesOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="File with the boxes of refs (default: instances.json beside ANNOTATIONS)."),
]
SplitOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Split of refs, or of a folder in VOC's layout (default: val).")
]


@dataclass(frozen=True)
class BoxOptions:
    """The options that say which photos and true places are measured on."""

    annotations: Path
    photos: Path | None = None
    format_name: str | None = None
    views: str = "squash"  # A centre crop would hide places near the margins.
    mosaics: int = 0
    side: int = 2
    pasted: int = 0
    prompt: str = DEFAULT_PROMPT
    instances: Path | None = None
    split: str | None = None
    classes: Path | None = None


def show_regions(options: BoxOptions, model: str | None, device: str, json: bool) -> None:
    """Print the measures of regions and of their controls."""
    if options.mosaics and options.pasted:
        raise UsageError("--mosaics and --pasted are two kinds of pictures - ask for one at a time")
    if options.classes or ((options.mosaics or options.pasted) and (options.instances or options.split)):
        raise UsageError("--classes is for --segmentation, --instances and --split are for refs - leave them out")
    from flairsearch.evaluate import tables
    from flairsearch.evaluate.region_run import evaluate_regions
    from flairsearch.evaluate.retrieval_run import encode_in_groups

    encoder, gallery = _open_gallery(options, model, device)
    for note in gallery.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{encoder.name}, {gallery.views:,} views, {len(gallery.texts):,} texts", err=True)
    groups = follow(encode_in_groups(encoder.encode_texts, gallery.texts), "texts", len(set(gallery.texts)), len)
    encoded = follow(gallery.encoded, "views", gallery.views, lambda batch: len(batch[1]))
    rows = evaluate_regions(replace(gallery, encoded=encoded), groups, encoder.pool_weights, encoder.device)
    show(rows, tables.to_region_tables, json)


def _open_gallery(options: BoxOptions, model: str | None, device: str) -> tuple[TorchEncoder, BoxGallery]:
    """Read the annotations, then load the model: errors in the files appear without waiting for the model."""
    from flairsearch.core.settings import check_views

    policy = check_views(options.views, tiles=False)
    file, photos, format_name = options.annotations, options.photos, options.format_name
    if not (options.mosaics or options.pasted):
        boxes = read_box_dataset(file, photos, format_name, options.prompt, options.instances, options.split)
        from flairsearch.evaluate import galleries

        encoder = _load_encoder(model, device)
        return encoder, galleries.box_gallery(boxes, encoder.encode_images, policy, encoder.config.image_size)
    captions = read_caption_dataset(file, photos, format_name)
    from flairsearch.evaluate import galleries
    from flairsearch.evaluate.mosaics import MosaicPlan

    encoder = _load_encoder(model, device)
    encode, size = encoder.encode_images, encoder.config.image_size
    if options.pasted:
        return encoder, galleries.paste_gallery(captions, encode, policy, size, options.pasted)
    plan = MosaicPlan(options.mosaics, options.side)
    return encoder, galleries.mosaic_gallery(captions, encode, policy, size, plan)


def show_segmentation(options: BoxOptions, model: str | None, device: str, json: bool) -> None:
    """Print the IoU of each class and their mean."""
    if options.photos or options.format_name or options.mosaics or options.pasted or options.instances:
        raise UsageError("--segmentation needs no option of annotation files - give it a folder laid out as VOC's")
    from flairsearch.core.settings import check_views
    from flairsearch.evaluate import galleries, tables
    from flairsearch.evaluate.segmentation import evaluate_segmentation, read_voc

    policy = check_views(options.views, tiles=False)
    check_prompt(options.prompt)
    dataset = read_voc(options.annotations, options.split or "val", options.classes)
    encoder = _load_encoder(model, device)
    typer.echo(f"{encoder.name}, {len(dataset.photos):,} photos, {len(dataset.classes):,} classes", err=True)
    texts = encoder.encode_texts([options.prompt.replace("{}", name) for name in dataset.classes])
    pictures = galleries.load_pictures(dataset.folder, dataset.photos, policy, encoder.config.image_size)
    batches = galleries.encode_batches_with_frames(encoder.encode_images, pictures)
    followed = follow(batches, "photos", len(dataset.photos), lambda batch: len(batch[1]))
    show([evaluate_segmentation(followed, texts, dataset)], tables.to_segmentation_table, json)


def _load_encoder(model: str | None, device: str) -> TorchEncoder:
    from flairsearch.model import checkpoints
    from flairsearch.model.encoder import TorchEncoder

    return TorchEncoder(model or checkpoints.default_name(), device)
