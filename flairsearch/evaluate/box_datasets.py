"""Read annotation files with boxes.

The format is detected from the content:

    instances  COCO's {images, annotations, categories}: one text per category; every box of it in a photo is correct
    mdetr      finetune_refcoco_val.json and the like, {images, annotations}: each image is a photo and one expression
    refs       RefCOCO's own list [{ann_id, image_id, split, sentences}] as JSON; its boxes are in instances.json beside
    labelled   a .jsonl file, one photo per line: {image, size: [width, height], boxes: [{label, box}]}; one text per
               label, every box of it in a photo is correct; here a box is [left, top, right, bottom]

All other boxes are [left, top, width, height] in pixels of the photo. Boxes are clipped to the photo. Crowds, and boxes
without area after clipping, are skipped and counted. The same text in several photos is one label with several boxes,
because the text alone cannot tell them apart. Photos are numbered in the order in which annotations first name them.
They are searched below the root (--photos, or the file's folder or its parent) in images/SPLIT, in SPLIT and in the
root itself, where SPLIT is a name such as val2017.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from flairsearch.core.errors import UsageError
from flairsearch.evaluate.annotation_files import FormatError, find_photo_folder, read_json, read_json_lines
from flairsearch.evaluate.box_formats import (
    CROWDS,
    OPENERS,
    BoxedImage,
    BoxRow,
    detect_format,
    open_refs,
    parse_pixels,
)

BOX_FORMATS = ("instances", "mdetr", "refs", "labelled")
DEFAULT_PROMPT = "a photo of a {}"
_CLASS_FORMATS = ("instances", "labelled")  # In these formats each class has one text, shared by all photos.
_PICKLE_SUFFIXES = (".p", ".pkl", ".pickle")
_SPLIT_NAME = re.compile(r"(?:train|val|test)\d{4}")
_EMPTY_BOXES = "boxes without area inside their photo"
_EMPTY_EXPRESSIONS = "empty expressions"

Box = tuple[float, float, float, float]


class LabelledBox(NamedTuple):
    """A box of one label in one photo: (left, top, right, bottom) in pixels of the photo, half-open."""

    photo: int
    label: int
    box: Box


@dataclass(frozen=True)
class BoxDataset:
    """Photos, labels and their boxes; and T texts, each of which names one label."""

    format: str
    folder: Path  # The photos' paths start from this folder.
    photos: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]  # Width and height of each photo in pixels.
    labels: tuple[str, ...]  # The text of each label.
    boxes: tuple[LabelledBox, ...]
    label_of_text: tuple[int, ...]  # The label of each of the T texts.
    annotated_pairs: tuple[tuple[int, int], ...]  # Pairs (photo, text) that were annotated together.
    notes: tuple[str, ...]  # One line per kind of annotation that was skipped.


class _Collector:
    """Collects rows one by one and numbers their photos and labels."""

    def __init__(self) -> None:
        self.photos: dict[str, int] = {}
        self.sizes: list[tuple[int, int]] = []
        self.labels: dict[str, int] = {}
        self.boxes: list[LabelledBox] = []
        self.rows: list[tuple[int, int]] = []  # Pairs (photo, label), one per text.
        self.skipped = {CROWDS: 0, _EMPTY_BOXES: 0, _EMPTY_EXPRESSIONS: 0}

    def add(self, row: BoxRow | str | None) -> None:
        """Add a row. A name in place of a row counts as skipped; None is ignored. Raises FormatError."""
        if row is None:
            return
        if isinstance(row, str):
            self.skipped[row] += 1
            return
        box = _clip_box(row.box, row.image)
        texts = [text for text in row.texts if text.strip()]
        self.skipped[_EMPTY_EXPRESSIONS] += len(row.texts) - len(texts)
        if box is None:
            self.skipped[_EMPTY_BOXES] += 1
        elif texts:
            photo = self._add_photo(row.image)
            for text in texts:
                label = self.labels.setdefault(text, len(self.labels))
                self.boxes.append(LabelledBox(photo, label, box))
                self.rows.append((photo, label))

    def _add_photo(self, image: BoxedImage) -> int:
        """Return the number of the photo. Raises FormatError when it had another size before."""
        size = (image.width, image.height)
        photo = self.photos.setdefault(image.path, len(self.photos))
        if photo == len(self.sizes):
            self.sizes.append(size)
        elif self.sizes[photo] != size:
            raise FormatError(f"{image.path!r} is {self.sizes[photo]} before, {size} here")
        return photo


def read_box_dataset(
    file: Path,
    photos: Path | None = None,
    format_name: str | None = None,
    prompt: str = DEFAULT_PROMPT,
    instances: Path | None = None,
    split: str | None = None,
) -> BoxDataset:
    """Read every box and its texts.

    photos: root of the photos. format_name: one of BOX_FORMATS, detected when None. prompt: text for a category, with
    {} in place of its name. instances: file with the boxes of refs. split: part of refs to read, by default val.
    Raises UsageError when the file is of no known format, is damaged, or names a photo that is missing or outside.
    """
    if format_name is not None and format_name not in BOX_FORMATS:
        raise UsageError(f"no format of boxes named {format_name!r} - use one of {', '.join(BOX_FORMATS)}")
    check_prompt(prompt)
    collector, number = _Collector(), 0
    try:
        data = _read_file(file)
        format_name = format_name or detect_format(data)
        if format_name != "refs" and (instances or split):
            raise FormatError(
                f"is {format_name}, which has its boxes and no parts: --instances and --split belong to refs"
            )
        if format_name == "refs":
            rows, read_row = open_refs(data, instances or file.with_name("instances.json"), split or "val")
        else:
            rows, read_row = OPENERS[format_name](data, prompt)
        for number, row in enumerate(rows, 1):  # noqa: B007 - The error below names the row.
            collector.add(read_row(row))
    except FormatError as error:
        where = f"{file}, row {number} of its annotations" if number else str(file)
        raise UsageError(
            f"{where}: {error} - repair it, or name its format: --format {'|'.join(BOX_FORMATS)}"
        ) from None
    if not collector.boxes:
        raise UsageError(f"{file} holds no box - give a file of photos with boxes")
    return _build_dataset(file, photos, format_name, collector)


def check_prompt(prompt: str) -> None:
    """Raise UsageError unless the prompt has exactly one {} for the name."""
    if prompt.count("{}") != 1:
        raise UsageError(f"--prompt {prompt[:200]!r} has no place for a name - put {{}} there, once")


def _build_dataset(file: Path, photos: Path | None, format_name: str, collector: _Collector) -> BoxDataset:
    label_of_text = [label for _, label in collector.rows]
    pairs = [(photo, text) for text, (photo, _) in enumerate(collector.rows)]
    if format_name in _CLASS_FORMATS:
        label_of_text, pairs = list(range(len(collector.labels))), list(dict.fromkeys(collector.rows))
    paths = tuple(collector.photos)
    return BoxDataset(
        format_name,
        find_photo_folder(_candidate_folders(file, photos, paths[0]), paths),
        paths,
        tuple(collector.sizes),
        tuple(collector.labels),
        tuple(dict.fromkeys(collector.boxes)),
        tuple(label_of_text),
        tuple(pairs),
        tuple(f"left out: {count:,} {kind}" for kind, count in collector.skipped.items() if count),
    )


def _candidate_folders(file: Path, photos: Path | None, path: str) -> list[Path]:
    """Return the folders that may hold the photos, the likeliest first."""
    parents = Path(os.path.abspath(file)).parents
    roots = [photos] if photos else [parents[min(1, len(parents) - 1)], parents[0]]
    match = _SPLIT_NAME.search(path) or _SPLIT_NAME.search(file.stem)
    split = match[0] if match else "val2017"
    return [root / subfolder for root in roots for subfolder in (f"images/{split}", split, "")]


def _read_file(file: Path) -> Any:
    if not os.path.isfile(file):
        raise UsageError(f"{file} is {'not a file' if file.is_dir() else 'not there'} - give a JSON file of boxes")
    if file.suffix.lower() == ".jsonl":
        return read_json_lines(file)
    with file.open("rb") as stream:
        if stream.read(1) == b"\x80" or file.suffix.lower() in _PICKLE_SUFFIXES:
            raise UsageError(
                f"{file} is a pickle, which can run any program that is hidden in it - convert it where you trust it: "
                "the same list of {ann_id, image_id, split, sentences}, as JSON"
            )
    return read_json(file)


def _clip_box(values: Any, image: BoxedImage) -> Box | None:
    """Convert [left, top, width, height] to a Box clipped to the photo; None when nothing of it is inside."""
    if not isinstance(values, list) or len(values) != 4:
        raise FormatError("'bbox' is not a list of four numbers")
    left, top, width, height = (parse_pixels(value) for value in values)
    if width < 0 or height < 0:
        raise FormatError(f"a box of {width:g} x {height:g} pixels")
    right, bottom = min(left + width, image.width), min(top + height, image.height)
    left, top = max(left, 0.0), max(top, 0.0)
    return (left, top, right, bottom) if left < right and top < bottom else None
