"""`flairsearch eval --regions` and `--segmentation`: how well places are found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flairsearch.cli.progress import follow, show
from flairsearch.core.errors import UsageError
from flairsearch.evaluate.box_datasets import BOX_FORMATS, PROMPT, check_prompt, read_boxes
from flairsearch.evaluate.caption_datasets import read_annotations

if TYPE_CHECKING:
    from flairsearch.evaluate.galleries import PlacedGallery
    from flairsearch.model.encoder import Encoder

RegionsOption = Annotated[
    bool,
    typer.Option(
        "--regions",
        help="Instead: how well places are found. Boxes: of --mosaics, --paste, or the annotations "
        f"({', '.join(BOX_FORMATS)}).",
    ),
]
SideOption = Annotated[int, typer.Option(min=1, max=8, help="Photos along a side of the mosaics.")]
PasteOption = Annotated[
    int, typer.Option(min=0, metavar="N", help="With --regions: N photos, each with another pasted on it.")
]
SegmentationOption = Annotated[
    bool, typer.Option("--segmentation", help="Instead: mean IoU of masks; ANNOTATIONS is a folder as VOC's.")
]
PromptOption = Annotated[str, typer.Option(help="The text for a class or category, {} its name.")]
ClassesOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="With --segmentation: names, one a line; default: VOC's 20.")
]
InstancesOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The boxes of refs; default: instances.json beside.")
]
SplitOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="The part of refs, or of a folder as VOC's; default: val.")
]


@dataclass(frozen=True)
class Places:
    """What is to be measured on."""

    annotations: Path
    photos: Path | None = None
    form: str | None = None
    views: str = "squash"  # a crop hides places
    mosaics: int = 0
    side: int = 2
    paste: int = 0
    prompt: str = PROMPT
    instances: Path | None = None
    split: str | None = None
    classes: Path | None = None


def show_regions(places: Places, model: str | None, device: str, json: bool) -> None:
    """The regions' table, its controls beside."""
    if places.mosaics and places.paste:
        raise UsageError("--mosaics and --paste are two kinds of pictures - ask for one at a time")
    if places.classes or ((places.mosaics or places.paste) and (places.instances or places.split)):
        raise UsageError("--classes is for --segmentation, --instances and --split for refs - leave them away")
    from flairsearch.evaluate import tables
    from flairsearch.evaluate.region_run import regions
    from flairsearch.evaluate.retrieval_run import encode_in_groups

    encoder, found = _open(places, model, device)
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{encoder.name}, {found.views:,} views, {len(found.texts):,} texts", err=True)
    texts = follow(encode_in_groups(encoder.encode_texts, found.texts), "texts", len(set(found.texts)), len)
    followed = replace(found, encoded=follow(found.encoded, "views", found.views, lambda piece: len(piece[1])))
    rows = regions(followed, texts, encoder.pool_weights, encoder.device)
    show(rows, tables.to_region_tables, json)


def _open(places: Places, model: str | None, device: str) -> tuple[Encoder, PlacedGallery]:
    """Files first: what is wrong with them shows before a model is loaded."""
    from flairsearch.core.settings import check_views

    views = check_views(places.views, tiles=False)
    file, photos, form = places.annotations, places.photos, places.form
    if not (places.mosaics or places.paste):
        boxed = read_boxes(file, photos, form, places.prompt, places.instances, places.split)
        from flairsearch.evaluate import galleries

        encoder = _load(model, device)
        return encoder, galleries.of_boxes(boxed, encoder.encode_pictures, views, encoder.config.image_size)
    notes = read_annotations(file, photos, form)
    from flairsearch.evaluate import galleries
    from flairsearch.evaluate.mosaics import Mosaics

    encoder = _load(model, device)
    encode, size = encoder.encode_pictures, encoder.config.image_size
    if places.paste:
        return encoder, galleries.of_pastes(notes, encode, views, size, places.paste)
    return encoder, galleries.of_mosaics(notes, encode, views, size, Mosaics(places.mosaics, places.side))


def show_segmentation(places: Places, model: str | None, device: str, json: bool) -> None:
    """IoU of each class, and their mean."""
    if places.photos or places.form or places.mosaics or places.paste or places.instances:
        raise UsageError("--segmentation needs no option of annotation files - give it a folder laid out as VOC's")
    from flairsearch.core.settings import check_views
    from flairsearch.evaluate import galleries, tables
    from flairsearch.evaluate.segmentation import read_voc, segmentation

    views = check_views(places.views, tiles=False)
    check_prompt(places.prompt)
    masked = read_voc(places.annotations, places.split or "val", places.classes)
    encoder = _load(model, device)
    typer.echo(f"{encoder.name}, {len(masked.photos):,} photos, {len(masked.classes):,} classes", err=True)
    texts = encoder.encode_texts([places.prompt.replace("{}", name) for name in masked.classes])
    pictures = galleries.load_pictures(masked.folder, masked.photos, views, encoder.config.image_size)
    pieces = galleries.encode_with_frames(encoder.encode_pictures, pictures)
    followed = follow(pieces, "photos", len(masked.photos), lambda piece: len(piece[1]))
    show([segmentation(followed, texts, masked)], tables.to_segmentation_table, json)


def _load(model: str | None, device: str) -> Encoder:
    from flairsearch.model import checkpoints
    from flairsearch.model.encoder import Encoder

    return Encoder(model or checkpoints.default_name(), device)
