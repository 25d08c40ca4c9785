"""Read annotation files with captions: the seven data sets that FLAIR is measured on, and labels.

The format is detected from the content:

    data set    annotation file                     photos, below the root
    coco        annotations/captions_val2017.json   images/val2017/<file_name>
    flickr30k   flickr30k_val.json                  <image>; the root is the parent of the file's folder
    docci       annotations/test_annotations.json   images/<image>
    iiw         test_annotations.json               <image>
    urban1k     annotations/annotations.json        images/<image>
    sharegpt4v  share4v_sam_10k.json                <image> without "/images"
    dci         splits.json, annotations/<name>     photos/<image>; the root is the folder of splits.json
    labelled    NAME.jsonl, {image, label} per line <image>; a label is a query, and all its photos are relevant

The root is --photos, or follows from the place of the annotation file.
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
    FormatError,
    check_path,
    check_text,
    find_photo_folder,
    read_json,
    read_json_lines,
    require_field,
    require_id,
    require_list,
)

LABELLED = "labelled"  # In this format every photo with the same label is relevant to it.
_SENTENCE_END = re.compile(r"\n|</s>|\.")

_Row = tuple[int | str, str, list[str]]  # Identifier of the photo, its path in the data set, its captions.
_ReadRow = Callable[[Any], _Row]
_OpenRows = Callable[[Any, Path], tuple[list[Any], _ReadRow]]  # Takes the parsed file and its path.


@dataclass(frozen=True)
class CaptionDataset:
    """Photos with captions, in the order in which captions first name them. Photos without captions are left out."""

    format: str
    folder: Path  # The photos' paths start from this folder.
    photos: tuple[str, ...]
    captions: tuple[str, ...]
    photo_of_caption: tuple[int, ...]  # The photo's number for each caption.
    empty_captions: int  # Number of empty captions that were skipped.


class _Format(NamedTuple):
    open_rows: _OpenRows
    photos: str  # Folder of the photos below the root.
    root_level: int  # Number of levels from the file's folder up to the root.


def read_caption_dataset(file: Path, photos: Path | None = None, format_name: str | None = None) -> CaptionDataset:
    """Read every caption and its photo.

    photos: root of the photos; they may also lie directly in it. format_name: one of FORMATS, for content that several
    formats share; detected when None.
    Raises UsageError when the file is of no known format, is damaged, or names a photo that is missing or outside.
    """
    if format_name is not None and format_name not in FORMATS:
        raise UsageError(f"no annotation format named {format_name!r} - use one of {', '.join(FORMATS)}")
    if not os.path.isfile(file):
        raise UsageError(f"{file} is {'not a file' if file.is_dir() else 'not there'} - give a JSON file of captions")
    number = 0
    try:
        data = read_json_lines(file) if file.suffix.lower() == ".jsonl" else read_json(file)
        format_name = format_name or _detect_format(data)
        rows, read_row = FORMATS[format_name].open_rows(data, file)
        collector = _Collector()
        for number, row in enumerate(rows, 1):  # noqa: B007 - The error below names the row.
            collector.add(*read_row(row))
    except FormatError as error:
        where = f"{file}, row {number} of its captions" if number else str(file)
        raise UsageError(f"{where}: {error} - repair it, or name its format: --format {'|'.join(FORMATS)}") from None
    if not collector.captions:
        raise UsageError(f"{file} holds no caption - give a file of photos with captions")
    return CaptionDataset(
        format_name,
        _find_folder(file, photos, format_name, collector.paths),
        tuple(collector.paths),
        tuple(collector.captions),
        tuple(collector.photo_of_caption),
        collector.empty_captions,
    )


class _Collector:
    """Collects rows one by one and numbers their photos."""

    def __init__(self) -> None:
        self._numbers: dict[int | str, int] = {}
        self.paths: list[str] = []
        self.captions: list[str] = []
        self.photo_of_caption: list[int] = []
        self.empty_captions = 0

    def add(self, key: int | str, path: str, captions: Sequence[str]) -> None:
        """Add the captions of a photo. Raises FormatError when the photo had another path before."""
        check_path(path)
        kept = [caption for caption in map(check_text, captions) if caption.strip()]
        self.empty_captions += len(captions) - len(kept)
        if not kept:
            return
        number = self._numbers.setdefault(key, len(self.paths))
        if number == len(self.paths):
            self.paths.append(path)
        elif self.paths[number] != path:
            raise FormatError(f"{key!r} is {self.paths[number]!r} before, {path!r} here")
        self.captions += kept
        self.photo_of_caption += [number] * len(kept)


def _detect_format(data: Any) -> str:
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
        # Both formats have the same layout, but Urban1k has exactly one caption per photo.
        return "urban1k" if len(set(images)) == len(images) else "docci"
    if isinstance(data, dict) and data and all(isinstance(names, list) for names in data.values()):
        return "dci"
    raise FormatError("holds nothing that any known format has")


def _find_folder(file: Path, photos: Path | None, format_name: str, paths: Sequence[str]) -> Path:
    parents = Path(os.path.abspath(file)).parents
    roots = [photos] if photos else [parents[min(FORMATS[format_name].root_level, len(parents) - 1)], parents[0]]
    split = file.stem.removeprefix("captions_") if file.stem.startswith("captions_") else "val2017"
    subfolder = FORMATS[format_name].photos.format(split=split)
    return find_photo_folder([*(root / subfolder for root in roots), *roots], paths)


def join_sentences(text: str) -> str:
    """Split at newline, "</s>" and "."; strip the parts, drop empty ones, and join them with ". "."""
    return ". ".join(part for part in map(str.strip, _SENTENCE_END.split(text)) if part)


def _open_coco(data: Any, _: Path) -> tuple[list[Any], _ReadRow]:
    names = {
        require_id(image, "id"): require_field(image, "file_name", str) for image in require_field(data, "images", list)
    }

    def read_row(row: Any) -> _Row:
        key = require_id(row, "image_id")
        if key not in names:
            raise FormatError(f"image_id {key!r} is not among the images")
        return key, names[key], [require_field(row, "caption", str)]

    return require_field(data, "annotations", list), read_row


def _open_flickr30k(data: Any, _: Path) -> tuple[list[Any], _ReadRow]:
    def read_row(row: Any) -> _Row:
        image = require_field(row, "image", str)
        return image, image, require_field(row, "caption", list)

    return require_list(data), read_row


def _open_labelled(data: Any, _: Path) -> tuple[list[Any], _ReadRow]:
    def read_row(row: Any) -> _Row:
        image = require_field(row, "image", str)
        return image, image, [require_field(row, "label", str)]

    return require_list(data), read_row


def _open_caption_rows(data: Any, _: Path) -> tuple[list[Any], _ReadRow]:
    """Open DOCCI-FG, IIW-FG or Urban1k, which have one caption per row."""

    def read_row(row: Any) -> _Row:
        return require_id(row, "image_id"), require_field(row, "image", str), [require_field(row, "caption", str)]

    return require_field(data, "annotations", list), read_row


def _open_sharegpt4v(data: Any, _: Path) -> tuple[list[Any], _ReadRow]:
    def read_row(row: Any) -> _Row:
        turns = require_field(row, "conversations", list)
        if len(turns) < 2:
            raise FormatError("'conversations' has no second turn")
        image = require_field(row, "image", str).replace("/images", "")
        return image, image, [join_sentences(require_field(turns[1], "value", str))]

    return require_list(data), read_row


def _open_dci(data: Any, file: Path) -> tuple[list[Any], _ReadRow]:
    """Open the photos of all splits; each photo has its own annotation file."""

    def read_row(name: Any) -> _Row:
        if not isinstance(name, str):
            raise FormatError(f"the name of an annotation file is not a text but {type(name).__name__}")
        check_path(name)
        try:
            row = read_json(file.parent / "annotations" / name)
            text = "\n".join(require_field(row, key, str) for key in ("short_caption", "extra_caption"))
            return name, require_field(row, "image", str), [join_sentences(text)]
        except FormatError as error:
            raise FormatError(f"annotations/{name}: {error}") from None

    if not isinstance(data, dict):
        return require_list(data), read_row
    return [name for split in data for name in require_field(data, split, list)], read_row


FORMATS = {
    "coco": _Format(_open_coco, "images/{split}", 1),
    "flickr30k": _Format(_open_flickr30k, "", 1),
    "docci": _Format(_open_caption_rows, "images", 1),
    "iiw": _Format(_open_caption_rows, "", 0),
    "urban1k": _Format(_open_caption_rows, "images", 1),
    "sharegpt4v": _Format(_open_sharegpt4v, "", 0),
    "dci": _Format(_open_dci, "photos", 0),
    LABELLED: _Format(_open_labelled, "", 0),
}
