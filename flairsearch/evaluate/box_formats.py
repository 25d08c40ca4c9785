"""Parse the rows of each box format (evaluate/box_datasets.py) into photos, texts and boxes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from flairsearch.evaluate.annotation_files import (
    FormatError,
    check_path,
    check_text,
    read_json,
    require_field,
    require_id,
    require_list,
)

MAX_SIDE_PX = 1 << 20  # A photo with a longer side is taken for a damaged annotation.
CROWDS = "crowds"  # A row reader returns this name for a crowd of objects; such rows are skipped and counted.


class BoxedImage(NamedTuple):
    """An annotated photo: its path, its sides in pixels, and its own expression where the format has one."""

    path: str
    width: int
    height: int
    expression: str = ""


class BoxRow(NamedTuple):
    """One annotation: a photo, the texts that describe the box, and the box as the file has it."""

    image: BoxedImage
    texts: list[str]
    box: Any


ReadRow = Callable[[Any], BoxRow | str | None]
OpenedRows = tuple[list[Any], ReadRow]  # The rows of a parsed file and the function that reads one of them.


def detect_format(data: Any) -> str:
    """Return the format of a parsed file. Raises FormatError when it is none of the known ones."""
    if isinstance(data, list) and data and isinstance(data[0], dict) and "boxes" in data[0]:
        return "labelled"
    if isinstance(data, list) and data and isinstance(data[0], dict) and "sentences" in data[0]:
        return "refs"
    if isinstance(data, dict) and isinstance(images := data.get("images"), list):
        if images and isinstance(images[0], dict) and "caption" in images[0]:
            return "mdetr"
        if "categories" in data:
            return "instances"
    raise FormatError("holds no boxes in any known format (boxes can be made as well: --mosaics N, --pasted N)")


def parse_pixels(value: Any) -> float:
    """Return one coordinate of a box, in pixels. Raises FormatError when it is not a finite number."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:
        pass
    raise FormatError(f"{str(value)[:50]!r} in 'bbox' is not a number of pixels")


def _read_images(data: Any, has_expressions: bool = False) -> dict[int | str, BoxedImage]:
    images = {}
    for row in require_field(data, "images", list):
        path = require_field(row, "file_name", str)
        width, height = require_field(row, "width", int), require_field(row, "height", int)
        check_path(path)
        if not (0 < width <= MAX_SIDE_PX and 0 < height <= MAX_SIDE_PX):
            raise FormatError(f"{path[:200]!r} of {str(width)[:20]} x {str(height)[:20]} pixels")
        expression = check_text(require_field(row, "caption", str)) if has_expressions else ""
        images[require_id(row, "id")] = BoxedImage(path, width, height, expression)
    return images


def _find_image(row: Any, images: dict[int | str, BoxedImage]) -> BoxedImage:
    if (image_id := require_id(row, "image_id")) not in images:
        raise FormatError(f"image_id {image_id!r} is not among the images")
    return images[image_id]


def _open_instances(data: Any, prompt: str) -> OpenedRows:
    images = _read_images(data)
    names = {
        require_id(row, "id"): check_text(require_field(row, "name", str))
        for row in require_field(data, "categories", list)
    }

    def read_row(row: Any) -> BoxRow | str:
        if isinstance(row, dict) and row.get("iscrowd"):
            return CROWDS
        if (category := require_id(row, "category_id")) not in names:
            raise FormatError(f"category_id {category!r} is not among the categories")
        return BoxRow(_find_image(row, images), [prompt.replace("{}", names[category])], row.get("bbox"))

    return require_field(data, "annotations", list), read_row


def _open_mdetr(data: Any, _: str) -> OpenedRows:
    images = _read_images(data, has_expressions=True)

    def read_row(row: Any) -> BoxRow:
        image = _find_image(row, images)
        return BoxRow(image, [image.expression], row.get("bbox"))

    return require_field(data, "annotations", list), read_row


def _open_labelled(data: Any, prompt: str) -> OpenedRows:
    rows = []
    for row in require_list(data):
        path, size = require_field(row, "image", str), require_field(row, "size", list)
        check_path(path)
        if len(size) != 2 or not all(type(side) is int and 0 < side <= MAX_SIDE_PX for side in size):
            raise FormatError(f"{path[:200]!r} of {str(size)[:40]} pixels")
        image = BoxedImage(path, *size)
        rows += [(image, labelled) for labelled in (require_field(row, "boxes", list) if "boxes" in row else [])]

    def read_row(row: tuple[BoxedImage, Any]) -> BoxRow:
        image, labelled = row
        box = require_field(labelled, "box", list)
        if len(box) != 4:
            raise FormatError("'box' is not a list of four numbers")
        left, top, right, bottom = (parse_pixels(value) for value in box)
        name = check_text(require_field(labelled, "label", str))
        return BoxRow(image, [prompt.replace("{}", name)], [left, top, right - left, bottom - top])

    return rows, read_row


OPENERS = {"instances": _open_instances, "mdetr": _open_mdetr, "labelled": _open_labelled}


def open_refs(data: Any, instances_file: Path, split: str) -> OpenedRows:
    """Open one split of RefCOCO's own list; its boxes are in `instances_file`. Raises FormatError."""
    refs = require_list(data)
    splits = {require_field(ref, "split", str) for ref in refs if isinstance(ref, dict) and "split" in ref}
    if splits and split not in splits:
        raise FormatError(f"has no part {split!r} but {', '.join(sorted(splits)[:8])[:200]!r}: --split NAME")
    try:
        instances = read_json(instances_file)
        images = _read_images(instances)
        boxes = {require_id(row, "id"): row for row in require_field(instances, "annotations", list)}
    except FormatError as error:
        raise FormatError(
            f"its boxes should be in {instances_file}, but: {error}; name another file: --instances FILE"
        ) from None

    def read_row(ref: Any) -> BoxRow | None:
        if splits and require_field(ref, "split", str) != split:
            return None
        if (annotation_id := require_id(ref, "ann_id")) not in boxes:
            raise FormatError(f"ann_id {annotation_id!r} is not among {instances_file.name}'s annotations")
        sentences = [_read_sentence(sentence) for sentence in require_field(ref, "sentences", list)]
        return BoxRow(_find_image(ref, images), sentences, boxes[annotation_id].get("bbox"))

    return refs, read_row


def _read_sentence(row: Any) -> str:
    """Return the cleaned sentence ("sent") where the file has it, else the raw one."""
    return check_text(require_field(row, "sent" if isinstance(row, dict) and "sent" in row else "raw", str))
