"""Measure zero-shot segmentation: the mean IoU of classes assigned by patch similarity, on masks in VOC's layout.

    JPEGImages/NAME.jpg  SegmentationClass/NAME.png  ImageSets/Segmentation/val.txt, with one NAME per line

A pixel of a mask is the number of its class, from 1; 0 is background and 255 void. Both are ignored, as in the protocol
known as VOC20. Every other pixel is assigned the class whose text is most similar to the pixel's patch.
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

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor"),
)
MAX_CLASSES = 254  # A mask has one byte per pixel, of which 0 and 255 are taken.
MAX_FILE_BYTES = 1 << 26  # A larger list of names, or a larger mask, is refused.
_BAND_VALUES = 1 << 22  # Similarities computed at once when pixels are assigned classes: 16 MB.
_PHOTO_PATH = "JPEGImages/{}.jpg"
_MASK_PATH = "SegmentationClass/{}.png"

Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class MaskDataset:
    """Photos with one mask each. The first class has the number 1 in the masks."""

    folder: Path
    photos: tuple[str, ...]  # Paths below the folder.
    masks: tuple[str, ...]  # Paths below the folder, in the order of the photos.
    classes: tuple[str, ...]


def read_voc(folder: Path, split: str = "val", classes: Path | None = None) -> MaskDataset:
    """Read a split. classes: a file with one name per line; VOC's own 20 classes when None.

    Raises UsageError when the folder has another layout, or a photo or its mask is missing.
    """
    if PurePath(split).name != split:
        raise UsageError(
            f"--split {split!r} is not a name - give the name of a file in ImageSets/Segmentation, such as val"
        )
    names = _read_lines(folder / "ImageSets" / "Segmentation" / f"{split}.txt")
    class_names = VOC_CLASSES if classes is None else _read_lines(classes)
    if len(class_names) > MAX_CLASSES:
        raise UsageError(f"{classes} names {len(class_names):,} classes - a mask can tell {MAX_CLASSES}: give fewer")
    if invalid := next((name for name in names if PurePath(name).name != name or "\0" in name), None):
        raise UsageError(
            f"{folder}: {invalid[:200]!r} is not a photo's name - repair ImageSets/Segmentation/{split}.txt"
        )
    photos, masks = (tuple(path.format(name) for name in names) for path in (_PHOTO_PATH, _MASK_PATH))
    missing = [path for path in (*photos, *masks) if not os.path.isfile(folder / path)]
    if missing:
        raise UsageError(
            f"{len(missing):,} photos and masks are missing, the first is {folder / missing[0]} - "
            "give a folder laid out as VOC's: JPEGImages, SegmentationClass, ImageSets"
        )
    return MaskDataset(folder, photos, masks, class_names)


def _read_lines(file: Path) -> tuple[str, ...]:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(
                f"{file} is larger than {MAX_FILE_BYTES >> 20} MiB - give a text file with one name per line"
            )
        lines = tuple(line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, ValueError) as error:  # ValueError stands for bad UTF-8.
        raise UsageError(f"{file} cannot be read ({error}) - it should hold one name per line") from None
    if not lines or not all(lines):
        raise UsageError(f"{file} has {'an empty line' if lines else 'no line'} - it should hold one name per line")
    return lines


def read_mask(file: Path, frame: Frame, classes: int) -> Mask:
    """Read class numbers u8[height, width] from a PNG with a palette or in grey.

    Raises UsageError when the mask is damaged, has another size than the photo, or a number without a class.
    """
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise OSError(f"larger than {MAX_FILE_BYTES >> 20} MiB")
        with Image.open(file, formats=("PNG",)) as picture:
            if picture.size != (frame.width, frame.height):
                width, height = picture.size
                raise OSError(f"{width} x {height} pixels of a photo of {frame.width} x {frame.height}")
            if picture.mode not in ("P", "L"):
                raise OSError(f"{picture.mode} pixels instead of class numbers")
            mask: Mask = np.asarray(picture)
    except (OSError, ValueError, SyntaxError, MemoryError, zlib.error, Image.DecompressionBombError) as error:
        text = (str(error).splitlines() or [""])[0][:120]
        raise UsageError(f"{file} is not a usable mask ({text}) - give VOC's own") from None
    if (unknown := mask[(mask > classes) & (mask != 255)]).size:
        raise UsageError(f"{file} has a pixel of class {unknown[0]}, of {classes} - name them all: --classes FILE")
    return mask


def label_pixels(similarity: NDArray[np.float32], frame: Frame) -> Iterator[tuple[slice, Mask]]:
    """Yield the photo's rows in bands, with the most similar class of each pixel, u8[rows, width], from 0.

    similarity: f32[C, G, G], of each class and patch of the view. It is interpolated bilinearly between the centres of
    patches; outside the outermost centres, and outside a cropped view, the value at the edge is continued.
    """
    classes, grid, _ = similarity.shape
    stretched = similarity @ _interpolation_weights(frame.width, frame.left, frame.right, grid).T  # [C, G, width]
    step = max(1, _BAND_VALUES // (classes * frame.width))
    row_weights = _interpolation_weights(frame.height, frame.top, frame.bottom, grid)
    for start in range(0, frame.height, step):
        rows = slice(start, min(start + step, frame.height))
        yield rows, (row_weights[rows] @ stretched).argmax(0).astype(np.uint8)


def _interpolation_weights(pixels: int, start: float, stop: float, grid: int) -> NDArray[np.float32]:
    """Return the weight of each patch along one side in each pixel of the photo, f32[pixels, G].

    The view covers the photo's pixels from `start` to `stop`.
    """
    position = (np.arange(pixels) + 0.5 - start) / (stop - start) * grid - 0.5
    position = np.clip(position, 0, grid - 1)
    patch = np.minimum(position.astype(np.int64), max(grid - 2, 0))
    weights = np.zeros((pixels, grid), np.float32)
    pixel = np.arange(pixels)
    weights[pixel, patch] = 1 - (position - patch)
    weights[pixel, np.minimum(patch + 1, grid - 1)] += position - patch
    return weights


class ConfusionMatrix:
    """Counts of pixels by true class and assigned class."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = classes
        self._counts = np.zeros((len(classes), len(classes)), np.int64)

    def add(self, mask: Mask, assigned: Mask) -> None:
        """Count pixels. mask: u8[h, w], class numbers from 1. assigned: u8[h, w], classes from 0."""
        is_counted = (mask > 0) & (mask != 255)
        pair = (mask[is_counted].astype(np.int64) - 1) * len(self._classes) + assigned[is_counted]
        self._counts += np.bincount(pair, minlength=self._counts.size).reshape(self._counts.shape)

    def row(self) -> SegmentationRow:
        """Return the IoU of each class and their mean. A class that never occurs has no IoU.

        Raises UsageError when no pixel was counted.
        """
        intersection = self._counts.diagonal()
        union = self._counts.sum(0) + self._counts.sum(1) - intersection
        iou = {name: float(intersection[i] / union[i]) if union[i] else None for i, name in enumerate(self._classes)}
        known = [value for value in iou.values() if value is not None]
        total = int(self._counts.sum())
        if not total:
            raise UsageError("the masks hold no pixel of any class - give masks of the classes that are asked for")
        return SegmentationRow(float(np.mean(known)), float(intersection.sum() / total), iou)


def evaluate_segmentation(
    batches: Iterable[tuple[EncodedViews, list[Frame]]], texts: Sequence[EncodedText], dataset: MaskDataset
) -> SegmentationRow:
    """Measure the segmentation of the data set's photos.

    batches: the views of the photos, in order. texts: one for each class. Raises UsageError when a mask is unusable.
    """
    vectors = np.stack([text.vector for text in texts])
    confusion = ConfusionMatrix(dataset.classes)
    masks = iter(dataset.masks)
    for encoded, frames in batches:
        similarities = patch_cosine(encoded.tokens, encoded.shift, vectors)
        grid = round(similarities.shape[2] ** 0.5)
        for similarity, frame in zip(similarities, frames, strict=True):
            mask = read_mask(dataset.folder / next(masks), frame, len(dataset.classes))
            for rows, assigned in label_pixels(similarity.reshape(-1, grid, grid), frame):
                confusion.add(mask[rows], assigned)
    return confusion.row()
