"""Annotation files -> photos and their captions: the seven sets that FLAIR is measured on, and labels.

The format is told by the content:

    set         annotation file                     photos, below the root
    coco        annotations/captions_val2017.json   images/val2017/<file_name>
    flickr30k   flickr30k_val.json                  <image>; the root is the parent of the file's folder
    docci       annotations/test_annotations.json   images/<image>
    iiw         test_annotations.json               <image>
    urban1k     annotations/annotations.json        images/<image>
    sharegpt4v  share4v_sam_10k.json                <image> without "/images"
    dci         splits.json, annotations/<name>     photos/<image>; the root is the folder of splits.json
    labelled    NAME.jsonl: {image, label} a line   <image>; a label is asked for alone, its photos are all right

The root is --photos, or follows from where the annotation file lies.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from flairsearch.core.errors import UsageError
from flairsearch.evaluate.annotation_files import (
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

LABELLED = "labelled"  # the format in which all photos of a text are right
_ENDS = re.compile(r"\n|</s>|\.")

_Row = tuple[int | str, str, list[str]]  # what names the photo, its path as the set has it, captions
_Open = Callable[[Any, Path], tuple[list[Any], Callable[[Any], _Row]]]  # parsed file, its path -> rows, how to read one


@dataclass(frozen=True)
class Annotations:
    """Photos in the order in which captions name them first; one that nothing is said of is none of them."""

    format: str
    folder: Path  # that the photos' paths start from
    photos: tuple[str, ...]
    captions: tuple[str, ...]
    owner: tuple[int, ...]  # of each caption: the number of its photo
    empty: int  # captions that were left out


class _Format(NamedTuple):
    open: _Open
    photos: str  # folder below the root
    up: int  # levels from the file's folder to the root


def read_annotations(file: Path, photos: Path | None = None, form: str | None = None) -> Annotations:
    """Every caption and its photo. `form` names the format where the content cannot tell.

    Photos are looked for where the set has them; right below the root, where the first one is not there.
    Raises UsageError when the file is none of these formats, or damaged, or names a photo that is missing or outside.
    """
    if form is not None and form not in FORMATS:
        raise UsageError(f"no annotation format named {form!r} - use one of {', '.join(FORMATS)}")
    if not os.path.isfile(file):
        raise UsageError(f"{file} is {'no file' if file.is_dir() else 'not there'} - give a JSON file of captions")
    row = 0
    try:
        data = parse_lines(file) if file.suffix.lower() == ".jsonl" else parse(file)
        form = form or _recognise(data)
        rows, read = FORMATS[form].open(data, file)
        collected = _Collected()
        for row, one in enumerate(rows, 1):  # noqa: B007 - the number is for the error
            collected.add(*read(one))
    except Broken as error:
        where = f"{file}, row {row} of its captions" if row else str(file)
        raise UsageError(f"{where}: {error} - repair it, or name its format: --format {'|'.join(FORMATS)}") from None
    if not collected.captions:
        raise UsageError(f"{file} holds no caption - give a file of photos with captions")
    return Annotations(
        form,
        _find_folder(file, photos, form, collected.paths),
        tuple(collected.paths),
        tuple(collected.captions),
        tuple(collected.owner),
        collected.empty,
    )


class _Collected:
    """Rows, one after the other."""

    def __init__(self) -> None:
        self._numbers: dict[int | str, int] = {}
        self.paths: list[str] = []
        self.captions: list[str] = []
        self.owner: list[int] = []
        self.empty = 0

    def add(self, key: int | str, path: str, captions: Sequence[str]) -> None:
        check_path(path)
        said = [caption for caption in map(check_text, captions) if caption.strip()]
        self.empty += len(captions) - len(said)
        if not said:
            return
        number = self._numbers.setdefault(key, len(self.paths))
        if number == len(self.paths):
            self.paths.append(path)
        elif self.paths[number] != path:
            raise Broken(f"{key!r} is {self.paths[number]!r} before, {path!r} here")
        self.captions += said
        self.owner += [number] * len(said)


# -- the file


def _recognise(data: Any) -> str:
    if isinstance(data, list) and data and isinstance(data[0], dict):
        if "conversations" in data[0]:
            return "sharegpt4v"
        if "label" in data[0]:
            return LABELLED
        if "caption" in data[0]:
            return "flickr30k"
    if isinstance(data, dict) and isinstance(rows := data.get("annotations"), list):
        if "images" in data:
            return "coco"
        if any(isinstance(row, dict) and "caption_id" in row for row in rows):
            return "iiw"
        images = [str(row.get("image")) for row in rows if isinstance(row, dict)]
        return "urban1k" if len(set(images)) == len(images) else "docci"  # one caption a photo; both have one layout
    if isinstance(data, dict) and data and all(isinstance(names, list) for names in data.values()):
        return "dci"
    raise Broken("holds nothing that any known format has")


def _find_folder(file: Path, photos: Path | None, form: str, paths: Sequence[str]) -> Path:
    above = Path(os.path.abspath(file)).parents
    roots = [photos] if photos else [above[min(FORMATS[form].up, len(above) - 1)], above[0]]
    split = file.stem.removeprefix("captions_") if file.stem.startswith("captions_") else "val2017"
    below = FORMATS[form].photos.format(split=split)
    return find_photos([*(root / below for root in roots), *roots], paths)


def join_sentences(text: str) -> str:
    """Split on newline, "</s>" and "."; strip; drop empty ones; join with ". "."""
    return ". ".join(part for part in map(str.strip, _ENDS.split(text)) if part)


# -- the formats


def _open_coco(data: Any, _: Path) -> tuple[list[Any], Callable[[Any], _Row]]:
    names = {id_of(image, "id"): field(image, "file_name", str) for image in field(data, "images", list)}

    def read(row: Any) -> _Row:
        key = id_of(row, "image_id")
        if key not in names:
            raise Broken(f"image_id {key!r} is none of the images")
        return key, names[key], [field(row, "caption", str)]

    return field(data, "annotations", list), read


def _open_flickr30k(data: Any, _: Path) -> tuple[list[Any], Callable[[Any], _Row]]:
    def read(row: Any) -> _Row:
        image = field(row, "image", str)
        return image, image, field(row, "caption", list)

    return as_list(data), read


def _open_labelled(data: Any, _: Path) -> tuple[list[Any], Callable[[Any], _Row]]:
    def read(row: Any) -> _Row:
        image = field(row, "image", str)
        return image, image, [field(row, "label", str)]

    return as_list(data), read


def _open_sentences(data: Any, _: Path) -> tuple[list[Any], Callable[[Any], _Row]]:
    """DOCCI-FG, IIW-FG and Urban1k: a caption a row."""

    def read(row: Any) -> _Row:
        return id_of(row, "image_id"), field(row, "image", str), [field(row, "caption", str)]

    return field(data, "annotations", list), read


def _open_sharegpt4v(data: Any, _: Path) -> tuple[list[Any], Callable[[Any], _Row]]:
    def read(row: Any) -> _Row:
        turns = field(row, "conversations", list)
        if len(turns) < 2:
            raise Broken("'conversations' has no second turn")
        image = field(row, "image", str).replace("/images", "")
        return image, image, [join_sentences(field(turns[1], "value", str))]

    return as_list(data), read


def _open_dci(data: Any, file: Path) -> tuple[list[Any], Callable[[Any], _Row]]:
    """The photos of all splits, a file each."""

    def read(name: Any) -> _Row:
        if not isinstance(name, str):
            raise Broken(f"the name of an annotation file is no text but {type(name).__name__}")
        check_path(name)
        try:
            row = parse(file.parent / "annotations" / name)
            text = "\n".join(field(row, key, str) for key in ("short_caption", "extra_caption"))
            return name, field(row, "image", str), [join_sentences(text)]
        except Broken as error:
            raise Broken(f"annotations/{name}: {error}") from None

    return [name for split in data for name in field(data, split, list)] if isinstance(data, dict) else as_list(
        data
    ), read


FORMATS = {
    "coco": _Format(_open_coco, "images/{split}", 1),
    "flickr30k": _Format(_open_flickr30k, "", 1),
    "docci": _Format(_open_sentences, "images", 1),
    "iiw": _Format(_open_sentences, "", 0),
    "urban1k": _Format(_open_sentences, "images", 1),
    "sharegpt4v": _Format(_open_sharegpt4v, "", 0),
    "dci": _Format(_open_dci, "photos", 0),
    LABELLED: _Format(_open_labelled, "", 0),
}
