"""Annotation files with boxes -> photos, what is in them, and where; told by their content.

    instances  {images, annotations, categories} of COCO: a text for each category, all its boxes in a photo are right
    mdetr      finetune_refcoco_val.json and the like: {images, annotations}, each image a photo and one expression
    refs       RefCOCO's own list [{ann_id, image_id, split, sentences}] as JSON; the boxes are in instances.json beside
    labelled   a .jsonl file, one photo a line: {image, size: [width, height], boxes: [{label, box}]}; a text for each
               label, all its boxes in a photo are right; here a box is [left, top, right, bottom]

Other boxes are [left, top, width, height] in pixels of the photo. They are clipped to it; what has no area then is left
out and counted, and so are crowds. The same words in several photos are one thing with several places: nobody could
tell which one was meant. Photos are those with a box, as the annotations name them first; they are looked for below the
root (--photos, or the file's folder or the one above it) in images/SPLIT, SPLIT, and right there, SPLIT as val2017.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from flairsearch.core.errors import UsageError
from flairsearch.evaluate.annotation_files import (
    Broken,
    find_photos,
    parse,
    parse_lines,
)
from flairsearch.evaluate.box_formats import CROWDS, OPENERS, BoxedImage, BoxRow, open_refs, pixels_of, recognise

BOX_FORMATS = ("instances", "mdetr", "refs", "labelled")
_OF_CLASSES = ("instances", "labelled")  # formats with a text for each class, whatever photo it is in
PROMPT = "a photo of a {}"
_PICKLES = (".p", ".pkl", ".pickle")
_SPLIT = re.compile(r"(?:train|val|test)\d{4}")

Box = tuple[float, float, float, float]


class Place(NamedTuple):
    """Where a thing is: left, top, right, bottom in pixels of the photo, half-open."""

    photo: int
    thing: int
    box: Box


@dataclass(frozen=True)
class BoxAnnotations:
    """Photos, things, their places; and T texts, each of which speaks of a thing."""

    format: str
    folder: Path  # that the photos' paths start from
    photos: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]  # width, height of each photo, pixels
    things: tuple[str, ...]  # the words for each
    places: tuple[Place, ...]
    asked: tuple[int, ...]  # the thing of each text
    given: tuple[tuple[int, int], ...]  # photo, text: what was annotated together
    notes: tuple[str, ...]  # what was left out


class _Collected:
    """Rows, one after the other."""

    def __init__(self) -> None:
        self.photos: dict[str, int] = {}
        self.sizes: list[tuple[int, int]] = []
        self.things: dict[str, int] = {}
        self.places: list[Place] = []
        self.rows: list[tuple[int, int]] = []  # photo, thing
        self.left_out = {CROWDS: 0, "boxes without area inside their photo": 0, "empty expressions": 0}

    def add(self, row: BoxRow | str | None) -> None:
        """A row; or what it is instead, which is counted; or nothing."""
        if row is None:
            return
        if isinstance(row, str):
            self.left_out[row] += 1
            return
        box = _clip(row.box, row.image)
        said = [text for text in row.texts if text.strip()]
        self.left_out["empty expressions"] += len(row.texts) - len(said)
        if box is None:
            self.left_out["boxes without area inside their photo"] += 1
        elif said:
            path, size = row.image.path, (row.image.width, row.image.height)
            photo = self.photos.setdefault(path, len(self.photos))
            if photo == len(self.sizes):
                self.sizes.append(size)
            elif self.sizes[photo] != size:
                raise Broken(f"{path!r} is {self.sizes[photo]} before, {size} here")
            for text in said:
                thing = self.things.setdefault(text, len(self.things))
                self.places.append(Place(photo, thing, box))
                self.rows.append((photo, thing))


def read_boxes(
    file: Path,
    photos: Path | None = None,
    form: str | None = None,
    prompt: str = PROMPT,
    instances: Path | None = None,
    split: str | None = None,
) -> BoxAnnotations:
    """Every box, and what is said of it.

    prompt: what is asked for a category, {} its name. instances: the boxes of refs; split: the part of refs that
    counts, val when none is named. Raises UsageError when the file is none of these formats, or damaged, or names a
    photo that is missing or outside.
    """
    if form is not None and form not in BOX_FORMATS:
        raise UsageError(f"no format of boxes named {form!r} - use one of {', '.join(BOX_FORMATS)}")
    check_prompt(prompt)
    collected, number = _Collected(), 0
    try:
        data = _open(file)
        form = form or recognise(data)
        if form != "refs" and (instances or split):
            raise Broken(f"is {form}, which has its boxes and no parts: --instances and --split belong to refs")
        if form == "refs":
            rows, read = open_refs(data, instances or file.with_name("instances.json"), split or "val")
        else:
            rows, read = OPENERS[form](data, prompt)
        for number, row in enumerate(rows, 1):  # noqa: B007 - the number is for the error
            collected.add(read(row))
    except Broken as error:
        where = f"{file}, row {number} of its annotations" if number else str(file)
        raise UsageError(
            f"{where}: {error} - repair it, or name its format: --format {'|'.join(BOX_FORMATS)}"
        ) from None
    if not collected.places:
        raise UsageError(f"{file} holds no box - give a file of photos with boxes")
    return _finish(file, photos, form, collected)


def check_prompt(prompt: str) -> None:
    """Raises UsageError when there is no place for a name in it."""
    if prompt.count("{}") != 1:
        raise UsageError(f"--prompt {prompt[:200]!r} has no place for a name - put {{}} there, once")


def _finish(file: Path, photos: Path | None, form: str, collected: _Collected) -> BoxAnnotations:
    rows = collected.rows
    asked = [thing for _, thing in rows]
    given = [(photo, text) for text, (photo, _) in enumerate(rows)]
    if form in _OF_CLASSES:
        asked, given = list(range(len(collected.things))), list(dict.fromkeys(rows))
    paths = tuple(collected.photos)
    return BoxAnnotations(
        form,
        find_photos(_folders(file, photos, paths[0]), paths),
        paths,
        tuple(collected.sizes),
        tuple(collected.things),
        tuple(dict.fromkeys(collected.places)),
        tuple(asked),
        tuple(given),
        tuple(f"left out: {number:,} {what}" for what, number in collected.left_out.items() if number),
    )


def _folders(file: Path, photos: Path | None, path: str) -> list[Path]:
    """Where photos may be, the likeliest place first."""
    above = Path(os.path.abspath(file)).parents
    roots = [photos] if photos else [above[min(1, len(above) - 1)], above[0]]
    found = _SPLIT.search(path) or _SPLIT.search(file.stem)
    split = found[0] if found else "val2017"
    return [root / below for root in roots for below in (f"images/{split}", split, "")]


# -- the file


def _open(file: Path) -> Any:
    if not os.path.isfile(file):
        raise UsageError(f"{file} is {'no file' if file.is_dir() else 'not there'} - give a JSON file of boxes")
    if file.suffix.lower() == ".jsonl":
        return parse_lines(file)
    with file.open("rb") as stream:
        if stream.read(1) == b"\x80" or file.suffix.lower() in _PICKLES:
            raise UsageError(
                f"{file} is a pickle, which can run any program that is hidden in it - convert it where you trust it: "
                "the same list of {ann_id, image_id, split, sentences}, as JSON"
            )
    return parse(file)


def _clip(values: Any, image: BoxedImage) -> Box | None:
    """[left, top, width, height] -> what of it is inside; None where nothing is."""
    if not isinstance(values, list) or len(values) != 4:
        raise Broken("'bbox' is no list of four numbers")
    left, top, width, height = (pixels_of(value) for value in values)
    if width < 0 or height < 0:
        raise Broken(f"a box of {width:g} x {height:g} pixels")
    right, bottom = min(left + width, image.width), min(top + height, image.height)
    left, top = max(left, 0.0), max(top, 0.0)
    return (left, top, right, bottom) if left < right and top < bottom else None
