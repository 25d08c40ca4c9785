"""The rows of each format of boxes (evaluate/box_datasets.py): which photo, which texts, which box."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from flairsearch.evaluate.annotation_files import (
    Broken,
    as_list,
    check_path,
    check_text,
    field,
    id_of,
    parse,
)

LARGEST = 1 << 20  # side of a photo, pixels
CROWDS = "crowds"  # what a row is, instead of a box; such rows are counted


class BoxedImage(NamedTuple):
    """A photo, its sides in pixels, and its words where it has words of its own."""

    path: str
    width: int
    height: int
    words: str = ""


class BoxRow(NamedTuple):
    """What an annotation says."""

    image: BoxedImage
    texts: list[str]
    box: Any


OpenedRows = tuple[list[Any], Callable[[Any], BoxRow | str | None]]  # rows of a parsed file, how to read one


def recognise(data: Any) -> str:
    """The format of a parsed file. Raises Broken when it is none."""
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


def pixels_of(value: Any) -> float:
    """A number in a box. Raises Broken when it is none."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:
        pass
    raise Broken(f"{str(value)[:50]!r} in 'bbox' is no number of pixels")


def _images(data: Any, words: bool = False) -> dict[int | str, BoxedImage]:
    found = {}
    for row in field(data, "images", list):
        path, width, height = field(row, "file_name", str), field(row, "width", int), field(row, "height", int)
        check_path(path)
        if not (0 < width <= LARGEST and 0 < height <= LARGEST):
            raise Broken(f"{path[:200]!r} of {str(width)[:20]} x {str(height)[:20]} pixels")
        found[id_of(row, "id")] = BoxedImage(
            path, width, height, check_text(field(row, "caption", str)) if words else ""
        )
    return found


def _image(row: Any, images: dict[int | str, BoxedImage]) -> BoxedImage:
    if (number := id_of(row, "image_id")) not in images:
        raise Broken(f"image_id {number!r} is none of the images")
    return images[number]


def _open_instances(data: Any, prompt: str) -> OpenedRows:
    images = _images(data)
    names = {id_of(row, "id"): check_text(field(row, "name", str)) for row in field(data, "categories", list)}

    def read(row: Any) -> BoxRow | str:
        if isinstance(row, dict) and row.get("iscrowd"):
            return CROWDS
        if (category := id_of(row, "category_id")) not in names:
            raise Broken(f"category_id {category!r} is none of the categories")
        return BoxRow(_image(row, images), [prompt.replace("{}", names[category])], row.get("bbox"))

    return field(data, "annotations", list), read


def _open_mdetr(data: Any, _: str) -> OpenedRows:
    images = _images(data, words=True)

    def read(row: Any) -> BoxRow:
        image = _image(row, images)
        return BoxRow(image, [image.words], row.get("bbox"))

    return field(data, "annotations", list), read


def _open_labelled(data: Any, prompt: str) -> OpenedRows:
    rows = []
    for row in as_list(data):
        path, size = field(row, "image", str), field(row, "size", list)
        check_path(path)
        if len(size) != 2 or not all(type(side) is int and 0 < side <= LARGEST for side in size):
            raise Broken(f"{path[:200]!r} of {str(size)[:40]} pixels")
        image = BoxedImage(path, *size)
        rows += [(image, one) for one in (field(row, "boxes", list) if "boxes" in row else [])]

    def read(placed: tuple[BoxedImage, Any]) -> BoxRow:
        image, one = placed
        box = field(one, "box", list)
        if len(box) != 4:
            raise Broken("'box' is no list of four numbers")
        left, top, right, bottom = (pixels_of(value) for value in box)
        name = check_text(field(one, "label", str))
        return BoxRow(image, [prompt.replace("{}", name)], [left, top, right - left, bottom - top])

    return rows, read


OPENERS = {"instances": _open_instances, "mdetr": _open_mdetr, "labelled": _open_labelled}


def open_refs(data: Any, file: Path, split: str) -> OpenedRows:
    """Rows of one part of RefCOCO's own list; file: where its boxes are."""
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

    def read(ref: Any) -> BoxRow | None:
        if splits and field(ref, "split", str) != split:
            return None
        if (number := id_of(ref, "ann_id")) not in rows:
            raise Broken(f"ann_id {number!r} is none of {file.name}'s annotations")
        sentences = [_sentence(one) for one in field(ref, "sentences", list)]
        return BoxRow(_image(ref, images), sentences, rows[number].get("bbox"))

    return refs, read


def _sentence(row: Any) -> str:
    """As the set itself uses it: cleaned, where that was done."""
    return check_text(field(row, "sent" if isinstance(row, dict) and "sent" in row else "raw", str))
