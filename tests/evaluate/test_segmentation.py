"""Masks in VOC's layout, labels of pixels against a loop, and mean IoU by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flairsearch.core.errors import UsageError
from flairsearch.core.types import Frame
from flairsearch.evaluate import galleries, segmentation
from flairsearch.evaluate.segmentation import (
    VOC_CLASSES,
    ConfusionMatrix,
    evaluate_segmentation,
    label_pixels,
    read_mask,
    read_voc,
)
from tests.support.fake import COLOURS, GRID, SIZE, FakeEncoder

CLASSES = ("red", "green", "blue")
FRAME = Frame(SIZE, SIZE, 0, 0, SIZE, SIZE)


def save_mask(path: Path, mask: np.ndarray, palette: bool = True) -> Path:
    """Write a mask as VOC does: one byte per pixel, with a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask.astype(np.uint8), "L")
    if palette:
        picture.putpalette(np.random.default_rng(0).integers(256, size=768, dtype=np.uint8).tobytes())
    picture.save(path)
    return path


def add_photo(folder: Path, name: str, pixels: np.ndarray, mask: np.ndarray) -> None:
    (folder / "JPEGImages").mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(folder / "JPEGImages" / f"{name}.jpg", quality=100, subsampling=0)
    save_mask(folder / "SegmentationClass" / f"{name}.png", mask)
    listed = folder / "ImageSets" / "Segmentation" / "val.txt"
    listed.parent.mkdir(parents=True, exist_ok=True)
    with listed.open("a") as stream:
        stream.write(f"{name}\n")


def stripes(numbers: list[int], width: int = SIZE, height: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels and mask with one stripe per class number. Stripes end between patches, so edges stay sharp."""
    mask = np.tile(np.repeat(numbers, width // len(numbers)), (height, 1))
    return np.array([COLOURS["black"], *(COLOURS[name] for name in CLASSES)])[mask], mask


def make_voc(folder: Path) -> Path:
    """Write two photos. The second mask contradicts the pixels in one stripe and ignores some blue pixels."""
    add_photo(folder, "2007_1", *stripes([1, 2, 1, 1]))
    pixels, mask = stripes([2, 3, 3, 3])
    mask[:, :16] = 1  # This stripe is green in the photo but red in the mask.
    mask[:, 16:32], mask[:, 32:40] = 0, 255
    add_photo(folder, "2007_2", pixels, mask)
    (folder / "names.txt").write_text("red\ngreen\n blue \n")
    return folder


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return make_voc(tmp_path)


def evaluate_folder(folder: Path, views: str = "squash", **options: object):
    masked = read_voc(folder, classes=folder / "names.txt", **options)
    encoder = FakeEncoder()
    pictures = galleries.load_pictures(masked.folder, masked.photos, views, SIZE)
    pieces = galleries.encode_batches_with_frames(encoder.encode_images, pictures)
    return evaluate_segmentation(pieces, encoder.encode_texts(masked.classes), masked)


def test_mean_iou_by_hand(voc: Path) -> None:
    """In stripes: red has three correct and one missed, green one correct and one false, blue all correct."""
    row = evaluate_folder(voc)
    assert row.iou == {"red": 3 / 4, "green": 1 / 2, "blue": 1.0}
    assert row.mean_iou == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)
    assert row.accuracy == pytest.approx(5.5 / 6.5)


def test_photos_of_any_shape(tmp_path: Path) -> None:
    """A squashed view is stretched back to the photo's shape; a centre crop hides the margins."""
    pixels, mask = stripes([1, 2, 3, 1], 256, 64)
    add_photo(tmp_path, "wide", pixels, mask)
    (tmp_path / "names.txt").write_text("red\ngreen\nblue")
    assert evaluate_folder(tmp_path).mean_iou == 1
    cropped = evaluate_folder(tmp_path, "center")  # The crop shows pixels 96 to 160, and its edge values continue.
    assert cropped.iou == {"red": 0.0, "green": 0.5, "blue": 0.5}


def test_a_class_that_never_occurs_does_not_count(tmp_path: Path) -> None:
    add_photo(tmp_path, "one", *stripes([1, 1, 2, 2]))
    (tmp_path / "names.txt").write_text("red\ngreen\nblue")
    row = evaluate_folder(tmp_path)
    assert row.iou == {"red": 1.0, "green": 1.0, "blue": None}
    assert (row.mean_iou, row.accuracy) == (1.0, 1.0)


def test_masks_without_classes(tmp_path: Path) -> None:
    pixels, mask = stripes([1, 2])
    add_photo(tmp_path, "one", pixels, mask * 0)
    (tmp_path / "names.txt").write_text("red\ngreen\nblue")
    with pytest.raises(UsageError, match="no pixel of any class"):
        evaluate_folder(tmp_path)


def test_confusion_matrix_equals_a_loop() -> None:
    rng = np.random.default_rng(0)
    mask = rng.choice([0, 1, 2, 3, 4, 255], size=(40, 30)).astype(np.uint8)
    found = rng.integers(0, 3, size=(40, 30)).astype(np.uint8)  # No pixel is assigned the fourth class.
    confusion = ConfusionMatrix(("a", "b", "c", "d"))
    for rows in (slice(0, 7), slice(7, 40)):
        confusion.add(mask[rows], found[rows])
    row = confusion.row()
    pairs = [
        (m - 1, f) for m, f in zip(mask.ravel().tolist(), found.ravel().tolist(), strict=True) if m not in (0, 255)
    ]
    for i, name in enumerate("abcd"):
        both = sum(m == f == i for m, f in pairs)
        assert row.iou[name] == both / sum(i in pair for pair in pairs)
    assert row.mean_iou == pytest.approx(np.mean(list(row.iou.values())))
    assert row.accuracy == sum(m == f for m, f in pairs) / len(pairs)


FRAMES = [Frame(7, 5, 0, 0, 7, 5), Frame(20, 9, 5.5, 0, 14.5, 9), Frame(4, 50, 0, 23, 4, 27), Frame(1, 1, 0, 0, 1, 1)]


def test_labels_equal_a_loop(monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests) -> None:
    """Each pixel is interpolated bilinearly between the centres of patches."""
    for frame, grid in itertools.product(FRAMES, (1, 2, 6)):
        with subtests.test(f"{frame}, grid of {grid}"):
            similarity = np.random.default_rng(grid).normal(size=(5, grid, grid)).astype(np.float32)

            def interpolate(values: np.ndarray, position: float, grid: int = grid) -> np.ndarray:
                """Interpolate along the last axis, whose centres are at 0.5, 1.5, ..."""
                position = min(max(position - 0.5, 0), grid - 1)
                low = int(position)
                return values[..., low] * (1 - position + low) + values[..., min(low + 1, grid - 1)] * (position - low)

            expected = np.empty((frame.height, frame.width), int)
            for y in range(frame.height):
                for x in range(frame.width):
                    across = (x + 0.5 - frame.left) / (frame.right - frame.left) * grid
                    down = (y + 0.5 - frame.top) / (frame.bottom - frame.top) * grid
                    expected[y, x] = interpolate(interpolate(similarity, across), down).argmax()
            whole = np.concatenate([found for _, found in label_pixels(similarity, frame)])
            assert (whole == expected).all()
            with monkeypatch.context() as patch:
                patch.setattr(segmentation, "_BAND_VALUES", 1)
                bands = list(label_pixels(similarity, frame))
            assert [rows.start for rows, _ in bands] == list(range(frame.height))
            assert (np.concatenate([found for _, found in bands]) == whole).all()


def test_default_classes_are_vocs(voc: Path) -> None:
    masked = read_voc(voc)
    assert masked.classes == VOC_CLASSES
    assert len(VOC_CLASSES) == len(set(VOC_CLASSES)) == 20
    assert (VOC_CLASSES[0], VOC_CLASSES[14], VOC_CLASSES[19]) == ("aeroplane", "person", "tv monitor")
    assert masked.photos == ("JPEGImages/2007_1.jpg", "JPEGImages/2007_2.jpg")
    assert masked.masks[1] == "SegmentationClass/2007_2.png"
    (voc / "ImageSets" / "Segmentation" / "mini.txt").write_text("2007_2\n")
    assert read_voc(voc, "mini").photos == ("JPEGImages/2007_2.jpg",)


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no list": (lambda voc: (voc / "ImageSets/Segmentation/val.txt").unlink(), r"val\.txt cannot be read"),
    "an empty list": (lambda voc: (voc / "ImageSets/Segmentation/val.txt").write_text(""), "has no line"),
    "an empty line": (lambda voc: (voc / "names.txt").write_text("red\n\nblue"), "has an empty line"),
    "no Unicode": (lambda voc: (voc / "names.txt").write_bytes(b"\xff\xfe\xfa"), "cannot be read"),
    "too many names": (lambda voc: (voc / "names.txt").write_text("x\n" * 255), "names 255 classes"),
    "up": (lambda voc: (voc / "ImageSets/Segmentation/val.txt").write_text("../x"), "is not a photo's name"),
    "a NUL": (lambda voc: (voc / "ImageSets/Segmentation/val.txt").write_text("a\0b"), "is not a photo's name"),
    "no mask": (lambda voc: (voc / "SegmentationClass/2007_2.png").unlink(), "1 photos and masks are missing"),
}


def test_hostile_folders(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, (name, (spoil, expected)) in enumerate(HOSTILE.items()):
        with subtests.test(name):
            voc = make_voc(tmp_path / str(number))
            spoil(voc)
            with pytest.raises(UsageError, match=expected) as caught:
                read_voc(voc, classes=voc / "names.txt")
            assert len(str(caught.value).splitlines()) == 1
            assert " - " in str(caught.value)


def test_split_is_a_name(voc: Path) -> None:
    for split in ("../val", "/val", "a/b"):
        with pytest.raises(UsageError, match="is not a name"):
            read_voc(voc, split)


def test_unusable_masks(tmp_path: Path) -> None:
    mask = np.zeros((SIZE, SIZE), int)
    whole = save_mask(tmp_path / "whole.png", mask).read_bytes()
    assert (read_mask(tmp_path / "whole.png", FRAME, 3) == 0).all()
    assert (read_mask(save_mask(tmp_path / "grey.png", mask + 255, palette=False), FRAME, 3) == 255).all()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(mask.astype(np.uint8)).convert("RGB").save(tmp_path / "colours.png")
    Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "really.jpg")
    (tmp_path / "really.jpg").rename(tmp_path / "jpeg.png")
    save_mask(tmp_path / "small.png", mask[:, :-1])
    save_mask(tmp_path / "four.png", mask + 4)
    for name, expected in {
        "cut": "is not a usable mask",
        "text": "is not a usable mask",
        "jpeg": "is not a usable mask",
        "gone": "is not a usable mask",
        "colours": "RGB pixels instead of class numbers",
        "small": "63 x 64 pixels of a photo of 64 x 64",
        "four": "a pixel of class 4, of 3 - name them all: --classes FILE",
    }.items():
        with pytest.raises(UsageError, match=expected) as caught:
            read_mask(tmp_path / f"{name}.png", FRAME, 3)
        assert len(str(caught.value).splitlines()) == 1
        assert f"{name}.png" in str(caught.value)


def test_the_fake_encoder_has_the_expected_grid() -> None:
    assert (SIZE, GRID) == (64, 8)  # The stripes above assume this grid, so that their edges lie between patches.
