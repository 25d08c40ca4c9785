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

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from flairsearch.annotations import (
    Broken,
    as_list,
    check_path,
    check_text,
    field,
    find_photos,
    id_of,
    parse,
    parse_lines,
)
from flairsearch.errors import UsageError

BOX_FORMATS = ("instances", "mdetr", "refs", "labelled")
_OF_CLASSES = ("instances", "labelled")  # formats with a text for each class, whatever photo it is in
PROMPT = "a photo of a {}"
LARGEST = 1 << 20  # side of a photo, pixels
_PICKLES = (".p", ".pkl", ".pickle")
_CROWDS = "crowds"
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


class _Image(NamedTuple):
    path: str
    width: int
    height: int
    words: str = ""


class _Row(NamedTuple):
    """What an annotation says."""

    image: _Image
    texts: list[str]
    box: Any


_Opened = tuple[list[Any], Callable[[Any], _Row | str | None]]  # rows of a parsed file, how to read one


class _Collected:
    """Rows, one after the other."""

    def __init__(self) -> None:
        self.photos: dict[str, int] = {}
        self.sizes: list[tuple[int, int]] = []
        self.things: dict[str, int] = {}
        self.places: list[Place] = []
        self.rows: list[tuple[int, int]] = []  # photo, thing
        self.left_out = {_CROWDS: 0, "boxes without area inside their photo": 0, "empty expressions": 0}

    def add(self, row: _Row | str | None) -> None:
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
        form = form or _recognise(data)
        if form != "refs" and (instances or split):
            raise Broken(f"is {form}, which has its boxes and no parts: --instances and --split belong to refs")
        if form == "refs":
            rows, read = _open_refs(data, instances or file.with_name("instances.json"), split or "val")
        else:
            rows, read = _OPENERS[form](data, prompt)
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


def _recognise(data: Any) -> str:
    if isinstance(data, list) and data and isinstance(data[0], dict) and "boxes" in data[0]:
        return "labelled"
    if isinstance(data, list) and data and isinstance(data[0], dict) and "sentences" in data[0]:
        return "refs"
    if isinstance(data, dict) and isinstance(images := data.get("images"), list):
        if images and isinstance(images[0], dict) and "caption" in images[0]:
            return "mdetr"
        if "categories" in data:
            return "instances"
    raise Broken("holds no boxes in any known format (boxes can be made as well: --mosaics N, --paste N)")


# -- what a row may hold


def _clip(values: Any, image: _Image) -> Box | None:
    """[left, top, width, height] -> what of it is inside; None where nothing is."""
    if not isinstance(values, list) or len(values) != 4:
        raise Broken("'bbox' is no list of four numbers")
    left, top, width, height = (_number(value) for value in values)
    if width < 0 or height < 0:
        raise Broken(f"a box of {width:g} x {height:g} pixels")
    right, bottom = min(left + width, image.width), min(top + height, image.height)
    left, top = max(left, 0.0), max(top, 0.0)
    return (left, top, right, bottom) if left < right and top < bottom else None


def _number(value: Any) -> float:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:
        pass
    raise Broken(f"{str(value)[:50]!r} in 'bbox' is no number of pixels")


def _images(data: Any, words: bool = False) -> dict[int | str, _Image]:
    found = {}
    for row in field(data, "images", list):
        path, width, height = field(row, "file_name", str), field(row, "width", int), field(row, "height", int)
        check_path(path)
        if not (0 < width <= LARGEST and 0 < height <= LARGEST):
            raise Broken(f"{path[:200]!r} of {str(width)[:20]} x {str(height)[:20]} pixels")
        found[id_of(row, "id")] = _Image(path, width, height, check_text(field(row, "caption", str)) if words else "")
    return found


def _image(row: Any, images: dict[int | str, _Image]) -> _Image:
    if (number := id_of(row, "image_id")) not in images:
        raise Broken(f"image_id {number!r} is none of the images")
    return images[number]


# -- the formats


def _open_instances(data: Any, prompt: str) -> _Opened:
    images = _images(data)
    names = {id_of(row, "id"): check_text(field(row, "name", str)) for row in field(data, "categories", list)}

    def read(row: Any) -> _Row | str:
        if isinstance(row, dict) and row.get("iscrowd"):
            return _CROWDS
        if (category := id_of(row, "category_id")) not in names:
            raise Broken(f"category_id {category!r} is none of the categories")
        return _Row(_image(row, images), [prompt.replace("{}", names[category])], row.get("bbox"))

    return field(data, "annotations", list), read


def _open_mdetr(data: Any, _: str) -> _Opened:
    images = _images(data, words=True)

    def read(row: Any) -> _Row:
        image = _image(row, images)
        return _Row(image, [image.words], row.get("bbox"))

    return field(data, "annotations", list), read


def _open_labelled(data: Any, prompt: str) -> _Opened:
    rows = []
    for row in as_list(data):
        path, size = field(row, "image", str), field(row, "size", list)
        check_path(path)
        if len(size) != 2 or not all(type(side) is int and 0 < side <= LARGEST for side in size):
            raise Broken(f"{path[:200]!r} of {str(size)[:40]} pixels")
        image = _Image(path, *size)
        rows += [(image, one) for one in (field(row, "boxes", list) if "boxes" in row else [])]

    def read(placed: tuple[_Image, Any]) -> _Row:
        image, one = placed
        box = field(one, "box", list)
        if len(box) != 4:
            raise Broken("'box' is no list of four numbers")
        left, top, right, bottom = (_number(value) for value in box)
        name = check_text(field(one, "label", str))
        return _Row(image, [prompt.replace("{}", name)], [left, top, right - left, bottom - top])

    return rows, read


_OPENERS = {"instances": _open_instances, "mdetr": _open_mdetr, "labelled": _open_labelled}


def _open_refs(data: Any, file: Path, split: str) -> _Opened:
    refs = as_list(data)
    splits = {field(ref, "split", str) for ref in refs if isinstance(ref, dict) and "split" in ref}
    if splits and split not in splits:
        raise Broken(f"has no part {split!r} but {', '.join(sorted(splits)[:8])[:200]!r}: --split NAME")
    try:
        boxes = parse(file)
        images = _images(boxes)
        rows = {id_of(row, "id"): row for row in field(boxes, "annotations", list)}
    except Broken as error:
        raise Broken(f"its boxes should be in {file}, but: {error}; name another file: --instances FILE") from None

    def read(ref: Any) -> _Row | None:
        if splits and field(ref, "split", str) != split:
            return None
        if (number := id_of(ref, "ann_id")) not in rows:
            raise Broken(f"ann_id {number!r} is none of {file.name}'s annotations")
        sentences = [_sentence(one) for one in field(ref, "sentences", list)]
        return _Row(_image(ref, images), sentences, rows[number].get("bbox"))

    return refs, read


def _sentence(row: Any) -> str:
    """As the set itself uses it: cleaned, where that was done."""
    return check_text(field(row, "sent" if isinstance(row, dict) and "sent" in row else "raw", str))
