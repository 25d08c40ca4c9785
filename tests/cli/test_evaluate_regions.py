"""`flairsearch eval --regions` and `--segmentation` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.command import Done, RunCommand, settle
from tests.support.random_flair import random_flair, random_pictures, save_flair

SOURCES = [
    *("regions", "of a wrong text", "of attention alone", "of patch cosine alone"),
    *("centre", "everything", "a half", "a quadrant", "best of 3 x 3"),
]
SMALL = ("--model", "small.safetensors", "--device", "cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make six photos of 96 x 48 pixels with captions, boxes in four formats and masks, and a small model."""
    work = tmp_path_factory.mktemp("regions") / "work"
    pixels = random_pictures(12, 48).reshape(6, 2, 48, 48, 3)
    images, rows, boxes = [], [], []
    for folder in ("images", "voc/JPEGImages", "voc/SegmentationClass", "voc/ImageSets/Segmentation"):
        (work / folder).mkdir(parents=True)
    for i, pair in enumerate(pixels):
        photo = Image.fromarray(np.concatenate(list(pair), 1))
        photo.save(work / "images" / f"{i}.png")
        photo.save(work / "voc" / "JPEGImages" / f"{i}.jpg")
        Image.fromarray(np.full((48, 96), i % 3, np.uint8)).save(work / "voc" / "SegmentationClass" / f"{i}.png")
        rows.append({"image": f"images/{i}.png", "caption": [f"a dog number {i}", "a red ball"]})
        images.append({"id": i, "file_name": f"images/{i}.png", "width": 96, "height": 48, "caption": f"dog {i}"})
        boxes.append({"id": i, "image_id": i, "category_id": i % 2, "bbox": [10 * i, 5, 30, 30], "iscrowd": i == 5})
    (work / "voc" / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(map(str, range(6))))
    categories = [{"id": 0, "name": "dog"}, {"id": 1, "name": "cat"}]
    refs = [
        {"ann_id": i, "image_id": i, "split": "val" if i < 3 else "test", "sentences": [{"sent": f"animal {i}"}]}
        for i in range(6)
    ]
    plain = [{key: value for key, value in image.items() if key != "caption"} for image in images]
    files = {
        "val.json": rows,
        "instances.json": {"images": plain, "annotations": boxes, "categories": categories},
        "mdetr.json": {"images": images, "annotations": boxes},
        "refs.json": refs,
    }
    for name, content in files.items():
        (work / name).write_text(json.dumps(content))
    labelled = [
        {
            "image": image["file_name"],
            "size": [96, 48],
            "boxes": [{"label": categories[i % 2]["name"], "box": [10 * i, 5, 10 * i + 30, 35]}] if i < 5 else [],
        }
        for i, image in enumerate(images)
    ]
    (work / "boxes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled))
    save_flair(random_flair(), work / "small.safetensors")
    return work


@pytest.fixture
def evaluate(made: Path, run: RunCommand, monkeypatch: pytest.MonkeyPatch) -> RunCommand:
    settle(made, monkeypatch)
    return lambda *arguments: run("eval", *arguments)


def sources(done: Done) -> list[str]:
    assert done.code == 0, done.err
    return [json.loads(line)["source"] for line in done.out.splitlines()]


SOURCES_OF_BOXES = [
    (("val.json", "--mosaics", 4), "4 views, 16 texts"),
    (("val.json", "--mosaics", 2, "--side", 3), "2 views, 18 texts"),
    (("val.json", "--pasted", 5), "5 views, 5 texts"),
    (("mdetr.json",), "6 views, 6 texts"),
    (("boxes.jsonl",), "5 views, 2 texts"),
    (("refs.json",), "3 views, 3 texts"),
    (("refs.json", "--split", "test", "--instances", "mdetr.json"), "3 views, 3 texts"),
    (("mdetr.json", "--views", "center"), "6 views, 6 texts"),
]


def test_every_source_of_boxes(evaluate: RunCommand, subtests: pytest.Subtests) -> None:
    for arguments, summary in SOURCES_OF_BOXES:
        with subtests.test(" ".join(map(str, arguments))):
            done = evaluate(*arguments, "--regions", "--json", *SMALL)
            assert done.err == f"small, {summary}\n"
            no_text_is_wrong = "18" in summary  # A mosaic of nine photos shows all six.
            assert sources(done) == [
                source for source in SOURCES if source != "of a wrong text" or not no_text_is_wrong
            ]


def test_instances(evaluate: RunCommand) -> None:
    done = evaluate("instances.json", "--photos", ".", "--regions", "--prompt", "the {}", "--json", *SMALL)
    assert done.err == "note: left out: 1 crowds\nsmall, 5 views, 2 texts\n"
    assert sources(done) == SOURCES
    labelled = evaluate("boxes.jsonl", "--regions", "--prompt", "the {}", "--json", *SMALL)
    assert labelled.out == done.out  # Both files have the same boxes of the same photos.


def test_tables(evaluate: RunCommand) -> None:
    done = evaluate("val.json", "--pasted", 5, "--regions", *SMALL)
    lines = done.out.splitlines()
    assert lines[0].startswith("right view and box, IoU")
    assert lines[1].startswith("any box")
    assert [line.split("  ")[0] for line in lines[2:11]] == SOURCES
    assert lines[12].startswith("given the right view")
    assert [line.split("  ")[0] for line in lines[13:22]] == SOURCES
    assert lines[23].startswith("right views among the first 20")
    assert [line.split("  ")[0] for line in lines[24:33]] == SOURCES
    found = [
        json.loads(line) for line in evaluate("val.json", "--pasted", 5, "--regions", "--json", *SMALL).out.splitlines()
    ]
    for line, row in zip(lines[24:33], found, strict=True):
        assert line.split()[-3:] == [f"{row[name]:.1%}" for name in ("precision", "hits_reached", "hits_centred")]
        assert 1 / 20 <= row["precision"] <= 5 / 20  # The five views fill 5 of 20 places, and 1 to 5 are relevant.


def test_results_are_reproducible(evaluate: RunCommand) -> None:
    first, again = (evaluate("val.json", "--mosaics", 4, "--regions", "--json", *SMALL).out for _ in range(2))
    assert first == again


def test_segmentation(evaluate: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("dog\ncat\n")
    done = evaluate("voc", "--segmentation", "--classes", tmp_path / "names.txt", "--json", *SMALL)
    assert (done.code, done.err) == (0, "small, 6 photos, 2 classes\n")
    found = json.loads(done.out)
    assert list(found["iou"]) == ["dog", "cat"]
    assert 0 <= found["accuracy"] <= 1
    done = evaluate("voc", "--segmentation", *SMALL)
    lines = done.out.splitlines()
    assert (lines[0].split(), len(lines)) == (["class", "IoU"], 1 + 20 + 2 + 1)
    assert lines[1].startswith("aeroplane")


USAGE = {
    "pasted without regions": ("val.json", "--pasted", 3),
    "split without regions": ("val.json", "--split", "val"),
    "pasted and mosaics": ("val.json", "--regions", "--pasted", 3, "--mosaics", 3),
    "regions of an index": ("--regions",),
    "regions and codecs": ("val.json", "--mosaics", 3, "--regions", "--codecs"),
    "regions and segmentation": ("voc", "--regions", "--segmentation"),
    "captions without boxes": ("val.json", "--regions"),
    "mosaics of refs": ("refs.json", "--regions", "--mosaics", 3),
    "instances of mosaics": ("val.json", "--regions", "--mosaics", 3, "--instances", "instances.json"),
    "a split of instances": ("instances.json", "--regions", "--split", "val"),
    "a split that is not there": ("refs.json", "--regions", "--split", "none"),
    "classes of regions": ("mdetr.json", "--regions", "--classes", "val.json"),
    "a prompt without a name": ("instances.json", "--regions", "--prompt", "a photo"),
    "a prompt of masks": ("voc", "--segmentation", "--prompt", "a photo"),
    "tiles": ("mdetr.json", "--regions", "--views", "tiles:4"),
    "masks and photos": ("voc", "--segmentation", "--photos", "."),
    "masks of a file": ("val.json", "--segmentation"),
    "masks of nothing": ("images", "--segmentation"),
    "no file": ("gone.json", "--regions"),
}


def test_usage_errors_give_one_line(evaluate: RunCommand, subtests: pytest.Subtests) -> None:
    for name, arguments in USAGE.items():
        with subtests.test(name):
            done = evaluate(*arguments, *SMALL)
            assert (done.code, done.out) == (2, "")
            assert " - " in done.message
