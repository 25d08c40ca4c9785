"""Zero-shot segmentation: photos with masks in VOC's layout, similarity of patches and class texts, mean IoU.

    JPEGImages/NAME.jpg  SegmentationClass/NAME.png  ImageSets/Segmentation/val.txt: a NAME a line

A mask's pixel is the number of its class, from 1; 0 is background, 255 void. Both are left out, as in the protocol
known as VOC20: each other pixel gets the class, of all classes, whose text its patch is most similar to.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flairsearch.core.errors import UsageError
from flairsearch.core.types import EncodedText, EncodedViews, Frame
from flairsearch.evaluate.results import SegmentationRow
from flairsearch.regions.locator import patch_cosine

VOC = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor"),
)
MOST = 254  # classes: a mask's pixel is a byte
MAX_BYTES = 1 << 26  # of a list of names, and of a mask
_BAND = 1 << 22  # similarities at once, when a photo's pixels get their classes
_PHOTOS, _MASKS = "JPEGImages/{}.jpg", "SegmentationClass/{}.png"

Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class MaskedPhotos:
    """Photos, a mask each, and what the masks' numbers are called: the first one is 1."""

    folder: Path
    photos: tuple[str, ...]  # paths below the folder
    masks: tuple[str, ...]
    classes: tuple[str, ...]


def read_voc(folder: Path, split: str = "val", classes: Path | None = None) -> MaskedPhotos:
    """The photos of a split. classes: a file with a name a line; VOC's own 20 without.

    Raises UsageError when the folder is not laid out so, or a photo or its mask is missing.
    """
    if PurePath(split).name != split:
        raise UsageError(f"--split {split!r} is no name - give that of a file in ImageSets/Segmentation, as val")
    names = _read_lines(folder / "ImageSets" / "Segmentation" / f"{split}.txt")
    called = VOC if classes is None else _read_lines(classes)
    if len(called) > MOST:
        raise UsageError(f"{classes} names {len(called):,} classes - a mask can tell {MOST}: give fewer")
    if strange := next((name for name in names if PurePath(name).name != name or "\0" in name), None):
        raise UsageError(f"{folder}: {strange[:200]!r} is no photo's name - repair ImageSets/Segmentation/{split}.txt")
    photos, masks = (tuple(form.format(name) for name in names) for form in (_PHOTOS, _MASKS))
    missing = [path for path in (*photos, *masks) if not os.path.isfile(folder / path)]
    if missing:
        raise UsageError(
            f"{len(missing):,} photos and masks are missing, the first is {folder / missing[0]} - "
            "give a folder laid out as VOC's: JPEGImages, SegmentationClass, ImageSets"
        )
    return MaskedPhotos(folder, photos, masks, called)


def _read_lines(file: Path) -> tuple[str, ...]:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UsageError(f"{file} is larger than {MAX_BYTES >> 20} MiB - give a text file, a name a line")
        lines = tuple(line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, ValueError) as error:  # ValueError: no UTF-8
        raise UsageError(f"{file} cannot be read ({error}) - it should hold a name a line") from None
    if not lines or not all(lines):
        raise UsageError(f"{file} has {'an empty line' if lines else 'no line'} - it should hold a name a line")
    return lines


def read_mask(file: Path, frame: Frame, classes: int) -> Mask:
    """Numbers u8[height, width] of a PNG with a palette, or in grey.

    Raises UsageError when it is damaged, of another size than the photo, or has a number that is no class.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise OSError(f"larger than {MAX_BYTES >> 20} MiB")
        with Image.open(file, formats=("PNG",)) as picture:
            if picture.size != (frame.width, frame.height):
                wide, high = picture.size
                raise OSError(f"{wide} x {high} pixels of a photo of {frame.width} x {frame.height}")
            if picture.mode not in ("P", "L"):
                raise OSError(f"{picture.mode} pixels, no numbers of classes")
            mask: Mask = np.asarray(picture)
    except (OSError, ValueError, SyntaxError, MemoryError, zlib.error, Image.DecompressionBombError) as error:
        text = (str(error).splitlines() or [""])[0][:120]
        raise UsageError(f"{file} is no mask ({text}) - give VOC's own") from None
    if (strange := mask[(mask > classes) & (mask != 255)]).size:
        raise UsageError(f"{file} has a pixel of class {strange[0]}, of {classes} - name them all: --classes FILE")
    return mask


def label(similarity: NDArray[np.float32], frame: Frame) -> Iterator[tuple[slice, Mask]]:
    """Similarity f32[C, G, G] of a view's patches -> each pixel's class u8, from 0, in bands of the photo's rows.

    Bilinear between the patches' middles; beyond the outermost ones, and where a crop did not reach, as on the edge.
    """
    classes, grid, _ = similarity.shape
    across = _weights(frame.width, frame.left, frame.right, grid)
    wide = similarity @ across.T  # [C, G, width]
    step = max(1, _BAND // (classes * frame.width))
    down = _weights(frame.height, frame.top, frame.bottom, grid)
    for start in range(0, frame.height, step):
        rows = slice(start, min(start + step, frame.height))
        yield rows, (down[rows] @ wide).argmax(0).astype(np.uint8)


def _weights(pixels: int, start: float, stop: float, grid: int) -> NDArray[np.float32]:
    """f32[pixels, G]: how much of each patch along a side of the view is in each of the photo's pixels."""
    place = (np.arange(pixels) + 0.5 - start) / (stop - start) * grid - 0.5
    place = np.clip(place, 0, grid - 1)
    below = np.minimum(place.astype(np.int64), max(grid - 2, 0))
    weights = np.zeros((pixels, grid), np.float32)
    each = np.arange(pixels)
    weights[each, below] = 1 - (place - below)
    weights[each, np.minimum(below + 1, grid - 1)] += place - below
    return weights


class Confusion:
    """Pixels by what they are and what they were taken for."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = classes
        self._counts = np.zeros((len(classes), len(classes)), np.int64)

    def add(self, mask: Mask, found: Mask) -> None:
        """Numbers in the mask u8[h, w], and classes from 0, u8[h, w]."""
        counted = (mask > 0) & (mask != 255)
        pair = (mask[counted].astype(np.int64) - 1) * len(self._classes) + found[counted]
        self._counts += np.bincount(pair, minlength=self._counts.size).reshape(self._counts.shape)

    def row(self) -> SegmentationRow:
        """IoU of a class: pixels that are both, of those that are either. One that is neither does not count."""
        both = self._counts.diagonal()
        either = self._counts.sum(0) + self._counts.sum(1) - both
        iou = {name: float(both[i] / either[i]) if either[i] else None for i, name in enumerate(self._classes)}
        seen = [value for value in iou.values() if value is not None]
        total = int(self._counts.sum())
        if not total:
            raise UsageError("the masks hold no pixel of any class - give masks of the classes that are asked for")
        return SegmentationRow(float(np.mean(seen)), float(both.sum() / total), iou)


def segmentation(
    pieces: Iterable[tuple[EncodedViews, list[Frame]]], texts: Sequence[EncodedText], masked: MaskedPhotos
) -> SegmentationRow:
    """Views of the photos, in order, and a text for each class -> one row.

    Raises UsageError when a mask cannot be used.
    """
    vectors = np.stack([text.vector for text in texts])
    confusion = Confusion(masked.classes)
    masks = iter(masked.masks)
    for encoded, frames in pieces:
        similarity = patch_cosine(encoded.tokens, encoded.shift, vectors)
        grid = round(similarity.shape[2] ** 0.5)
        for one, frame in zip(similarity, frames, strict=True):
            mask = read_mask(masked.folder / next(masks), frame, len(masked.classes))
            for rows, found in label(one.reshape(-1, grid, grid), frame):
                confusion.add(mask[rows], found)
    return confusion.row()
