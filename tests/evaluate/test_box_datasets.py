"""The four formats of files with boxes, and files that have none of them."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flairsearch.core.errors import UsageError
from flairsearch.evaluate.box_datasets import BOX_FORMATS, BoxDataset, LabelledBox, read_box_dataset

IMAGES = [
    {"id": 7, "file_name": "COCO_train2014_7.jpg", "width": 100, "height": 80},
    {"id": 8, "file_name": "COCO_train2014_8.jpg", "width": 60, "height": 60},
    {"id": 9, "file_name": "COCO_train2014_9.jpg", "width": 50, "height": 50},
]
INSTANCES: dict[str, Any] = {
    "info": {},
    "images": IMAGES,
    "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}, {"id": 90, "name": "toothbrush"}],
    "annotations": [
        {"id": 11, "image_id": 8, "category_id": 18, "bbox": [10, 20, 30, 25.5], "iscrowd": 0},
        {"id": 12, "image_id": 7, "category_id": 1, "bbox": [0.0, 0.0, 50.25, 80.0], "iscrowd": 0},
        {"id": 13, "image_id": 7, "category_id": 18, "bbox": [90, 70, 20, 20], "iscrowd": 0},
        {"id": 14, "image_id": 7, "category_id": 18, "bbox": [1, 2, 3, 4]},
        {"id": 15, "image_id": 7, "category_id": 1, "bbox": [0, 0, 100, 80], "iscrowd": 1},
        {"id": 16, "image_id": 8, "category_id": 90, "bbox": [5, 5, 0, 10], "iscrowd": 0},
        {"id": 17, "image_id": 8, "category_id": 90, "bbox": [60, 5, 10, 10], "iscrowd": 0},
    ],
}
MDETR: dict[str, Any] = {
    "images": [
        {**IMAGES[0], "id": 0, "caption": "left man", "original_id": 7, "dataset_name": "refcoco"},
        {**IMAGES[0], "id": 1, "caption": "the dog", "original_id": 7, "dataset_name": "refcoco"},
        {**IMAGES[1], "id": 2, "caption": "left man", "original_id": 8, "dataset_name": "refcoco"},
        {**IMAGES[1], "id": 3, "caption": " ", "original_id": 8, "dataset_name": "refcoco"},
    ],
    "annotations": [{"image_id": n, "bbox": [n, n, 10, 20], "id": n, "iscrowd": 0} for n in (1, 0, 2, 3)],
    "categories": [],
}
REFS: list[dict[str, Any]] = [
    {"ref_id": 1, "ann_id": 12, "image_id": 7, "split": "val", "file_name": "COCO_train2014_7_1.jpg"},
    {"ref_id": 2, "ann_id": 13, "image_id": 7, "split": "train", "sentences": [{"raw": "no"}]},
    {"ref_id": 3, "ann_id": 11, "image_id": 8, "split": "val", "sentences": [{"sent": "the man", "raw": "The Man!"}]},
]
REFS[0]["sentences"] = [{"raw": "The man.", "sent": "the man", "tokens": ["the", "man"]}, {"raw": "Him"}]
SETS = {"instances": INSTANCES, "mdetr": MDETR, "refs": REFS}
LABELLED: list[dict[str, Any]] = [
    {
        "image": "COCO_train2014_8.jpg",
        "size": [60, 60],
        "boxes": [
            {"label": "dog", "box": [10, 20, 40, 45.5]},
            {"label": "toothbrush", "box": [5, 5, 5, 15]},
            {"label": "toothbrush", "box": [60, 5, 70, 15]},
        ],
    },
    {"image": "COCO_train2014_9.jpg", "size": [50, 50], "boxes": []},
    {
        "image": "COCO_train2014_7.jpg",
        "size": [100, 80],
        "boxes": [
            {"label": "person", "box": [0.0, 0.0, 50.25, 80.0]},
            {"label": "dog", "box": [90, 70, 110, 90]},
            {"label": "dog", "box": [1, 2, 4, 6]},
        ],
    },
    {"image": "COCO_train2014_9.jpg", "size": [50, 50]},
]


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def write_boxes(tmp_path: Path) -> Callable[[object], Path]:
    """Write a file of annotations beside COCO's photos and instances."""
    for image in IMAGES:
        write(tmp_path / "images" / "train2014" / str(image["file_name"]), "a photo")
    write(tmp_path / "annotations" / "instances.json", INSTANCES)
    return lambda content: write(tmp_path / "annotations" / "boxes.json", content)


def test_instances(write_boxes: Callable[[object], Path], tmp_path: Path) -> None:
    """Each category has one text; photos and categories are numbered by first use; crowds are skipped."""
    dataset = read_box_dataset(write_boxes(INSTANCES))
    assert dataset == BoxDataset(
        "instances",
        tmp_path / "images" / "train2014",
        ("COCO_train2014_8.jpg", "COCO_train2014_7.jpg"),
        ((60, 60), (100, 80)),
        ("a photo of a dog", "a photo of a person"),
        (
            LabelledBox(0, 0, (10, 20, 40, 45.5)),
            LabelledBox(1, 1, (0, 0, 50.25, 80)),
            LabelledBox(1, 0, (90, 70, 100, 80)),  # This box is clipped to the photo.
            LabelledBox(1, 0, (1, 2, 4, 6)),
        ),
        (0, 1),
        ((0, 0), (1, 1), (1, 0)),
        ("left out: 1 crowds", "left out: 2 boxes without area inside their photo"),
    )
    assert read_box_dataset(write_boxes(INSTANCES), prompt="{}").labels == ("dog", "person")


def to_lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def write_lines(write_boxes: Callable[[object], Path], tmp_path: Path) -> Callable[[object], Path]:
    """Write a file with one line per photo beside COCO's photos."""
    return lambda content: write(
        tmp_path / "annotations" / "boxes.jsonl", to_lines(content) if isinstance(content, list) else content
    )


def test_labelled(write_boxes: Callable[[object], Path], write_lines: Callable[[object], Path]) -> None:
    """The lines give the same data set as the instances, whose boxes have a size in place of the far corner."""
    dataset = read_box_dataset(write_lines(LABELLED))
    assert dataset.format == "labelled"
    plain = {**INSTANCES, "annotations": [row for row in INSTANCES["annotations"] if not row.get("iscrowd")]}
    assert replace(dataset, format="instances") == read_box_dataset(write_boxes(plain))
    assert dataset.boxes[0] == LabelledBox(0, 0, (10, 20, 40, 45.5))
    assert dataset.notes == ("left out: 2 boxes without area inside their photo",)
    assert read_box_dataset(write_lines(LABELLED), prompt="{}").labels == ("dog", "person")
    assert read_box_dataset(write_lines(LABELLED), prompt="one {} there").labels == (
        "one dog there",
        "one person there",
    )


def test_labelled_boxes_of_one_photo_in_two_lines(write_lines: Callable[[object], Path]) -> None:
    """Boxes of both lines are joined; equal boxes count once; a label has one text for all photos."""
    first, last = LABELLED[0], LABELLED[2]
    dataset = read_box_dataset(write_lines([first, last, first, {**first, "boxes": last["boxes"][:1]}]), prompt="{}")
    assert dataset.photos == (first["image"], last["image"])
    assert dataset.labels == ("dog", "person")
    assert dataset.label_of_text == (0, 1)
    assert dataset.annotated_pairs == ((0, 0), (1, 1), (1, 0), (0, 1))
    assert len(dataset.boxes) == len(set(dataset.boxes)) == 5
    with pytest.raises(UsageError, match=r"row \d+ .*\(60, 60\) before, \(60, 61\) here"):
        read_box_dataset(write_lines([first, {**first, "size": [60, 61]}]))


def test_labelled_is_detected_by_its_fields(write_lines: Callable[[object], Path], tmp_path: Path) -> None:
    file = write_lines(LABELLED)
    assert read_box_dataset(file, format_name="labelled") == read_box_dataset(file)
    for other in ("instances", "mdetr", "refs"):
        with pytest.raises(UsageError, match=r"--format instances\|mdetr\|refs\|labelled"):
            read_box_dataset(file, format_name=other)
    listed = write(file.with_name("boxes.json"), LABELLED)  # The same values in one list.
    assert read_box_dataset(listed) == read_box_dataset(file)
    upper = file.rename(file.with_name("BOXES.JSONL"))
    assert read_box_dataset(upper) == read_box_dataset(listed)
    for options in ({"split": "val"}, {"instances": listed}):
        with pytest.raises(UsageError, match="--instances and --split belong to refs"):
            read_box_dataset(upper, **options)


def with_box(box: object = (1, 2, 3, 4), **changes: object) -> list[Any]:
    """Return a valid line and a changed one. changes: fields of the line, or the label of its box."""
    labelled = {"label": "dog", "box": list(box) if isinstance(box, tuple) else box}
    labelled |= {key: value for key, value in changes.items() if key == "label"}
    line_changes = {key: value for key, value in changes.items() if key != "label"}
    row = {"image": "COCO_train2014_7.jpg", "size": [100, 80], "boxes": [labelled], **line_changes}
    return [LABELLED[0], row]


HOSTILE_LINES: dict[str, tuple[object, str]] = {
    "no JSON": ("{", "cannot be read as JSON"),
    "half a line": (to_lines(LABELLED)[:-5], "cannot be read as JSON"),
    "a list": (json.dumps(LABELLED), "no boxes in any known format"),
    "nothing": ("", "no boxes in any known format"),
    "deep": (to_lines(LABELLED) + "[" * 100_000, "cannot be read as JSON"),
    "labels without boxes": ([{"image": "a.jpg", "label": "dog"}], "no boxes in any known format"),
    "no box at all": ([LABELLED[1]], "holds no box - give"),
    "only empty boxes": (with_box((5, 5, 5, 9))[1:], "holds no box - give"),
    "a line of numbers": ([LABELLED[0], 5], "'image' is missing"),
    "boxes of text": (with_box(boxes="x"), "'boxes' is not of type list"),
    "boxes that are null": (with_box(boxes=None), "'boxes' is missing"),
    "boxes of lists": (with_box(boxes=[[1, 2, 3, 4]]), "row 4 .*'box' is missing"),
    "no label": (with_box(boxes=[{"box": [1, 2, 3, 4]}]), "row 4 .*'label' is missing"),
    "a label of numbers": (with_box(label=5), "row 4 .*'label' is not of type str"),
    "no Unicode": (with_box(label="\ud800"), "row 4 .*not valid Unicode"),
    "no box": (with_box(None), "row 4 .*'box' is missing"),
    "three numbers": (with_box((1, 2, 3)), "row 4 .*'box' is not a list of four numbers"),
    "five numbers": (with_box((1, 2, 3, 4, 5)), "row 4 .*'box' is not a list of four numbers"),
    "text in a box": (with_box((1, 2, "3", 4)), "row 4 .*'3' in 'bbox' is not a number"),
    "truth in a box": (with_box((1, 2, True, 4)), "row 4 .*'True' in 'bbox' is not a number"),
    "NaN": (with_box((1, float("nan"), 3, 4)), "row 4 .*'nan' in 'bbox' is not a number"),
    "endless": (with_box((1, 2, float("inf"), 4)), "row 4 .*'inf' in 'bbox' is not a number"),
    "too large for a float": (with_box((1, 2, 10**400, 4)), "row 4 .*'1000.*' in 'bbox' is not a number"),
    "corners swapped": (with_box((5, 5, 2, 9)), "row 4 .*a box of -3 x 4 pixels"),
    "no size": (with_box(size=None), "'size' is missing"),
    "a size of one": (with_box(size=[100]), "pixels"),
    "a size of three": (with_box(size=[100, 80, 3]), "pixels"),
    "a size of text": (with_box(size=["100", "80"]), "pixels"),
    "a size of fractions": (with_box(size=[100.0, 80]), "pixels"),
    "a size of 0": (with_box(size=[0, 80]), r"of \[0, 80\] pixels"),
    "a negative size": (with_box(size=[100, -80]), r"of \[100, -80\] pixels"),
    "an endless size": (with_box(size=[10**30, 80]), "pixels"),
    "a size of truth": (with_box(size=[True, 80]), "pixels"),
    "absolute": (with_box(image="/etc/passwd"), "leads out"),
    "up": (with_box(image="../a.jpg"), "leads out"),
    "an image of numbers": (with_box(image=5), "'image' is not of type str"),
}


def test_hostile_lines_give_one_line_errors(write_lines: Callable[[object], Path], subtests: pytest.Subtests) -> None:
    for name, (content, expected) in HOSTILE_LINES.items():
        with subtests.test(name):
            file = write_lines(content)
            with pytest.raises(UsageError, match=expected) as caught:
                read_box_dataset(file)
            assert len(str(caught.value).splitlines()) == 1
            assert str(caught.value).startswith(str(file))
            assert " - " in str(caught.value)


def test_the_line_that_hostile_ones_change_is_valid(write_lines: Callable[[object], Path]) -> None:
    assert read_box_dataset(write_lines(with_box())).boxes[-1] == LabelledBox(1, 0, (1, 2, 3, 4))


def test_expressions_of_mdetr(write_boxes: Callable[[object], Path]) -> None:
    """Each row has a text; the same text in two photos is one label with two boxes."""
    dataset = read_box_dataset(write_boxes(MDETR))
    assert dataset.photos == ("COCO_train2014_7.jpg", "COCO_train2014_8.jpg")
    assert dataset.labels == ("the dog", "left man")
    assert dataset.boxes == (
        LabelledBox(0, 0, (1, 1, 11, 21)),
        LabelledBox(0, 1, (0, 0, 10, 20)),
        LabelledBox(1, 1, (2, 2, 12, 22)),
    )
    assert (dataset.label_of_text, dataset.annotated_pairs) == ((0, 1, 1), ((0, 0), (0, 1), (1, 2)))
    assert dataset.notes == ("left out: 1 empty expressions",)


def test_refs(write_boxes: Callable[[object], Path], tmp_path: Path) -> None:
    dataset = read_box_dataset(write_boxes(REFS))
    assert dataset.photos == ("COCO_train2014_7.jpg", "COCO_train2014_8.jpg")  # The names come from the instances.
    assert dataset.labels == ("the man", "Him")
    man = (0.0, 0.0, 50.25, 80.0)
    assert dataset.boxes == (LabelledBox(0, 0, man), LabelledBox(0, 1, man), LabelledBox(1, 0, (10, 20, 40, 45.5)))
    assert (dataset.label_of_text, dataset.annotated_pairs) == ((0, 1, 0), ((0, 0), (0, 1), (1, 2)))
    assert read_box_dataset(write_boxes(REFS), split="train").boxes == (LabelledBox(0, 0, (90, 70, 100, 80)),)
    other = write(tmp_path / "other.json", INSTANCES)
    (tmp_path / "annotations" / "instances.json").unlink()
    assert read_box_dataset(write_boxes(REFS), instances=other) == dataset
    parts = [{key: value for key, value in ref.items() if key != "split"} for ref in REFS]
    assert (
        len(read_box_dataset(write_boxes(parts), instances=other).label_of_text) == 4
    )  # Without splits, all refs are read.
    with pytest.raises(UsageError, match=r"has no part 'testA' but 'train, val': --split NAME"):
        read_box_dataset(write_boxes(REFS), instances=other, split="testA")
    with pytest.raises(UsageError, match=r"its boxes should be in .*gone\.json, but: is not there; .*--instances FILE"):
        read_box_dataset(write_boxes(REFS), instances=tmp_path / "gone.json")


@pytest.mark.parametrize("below", ["images/train2014", "train2014", "."])
def test_photos_in_another_folder(write_boxes: Callable[[object], Path], tmp_path: Path, below: str) -> None:
    root = tmp_path / "root"
    for image in IMAGES[:2]:
        write(root / below / str(image["file_name"]), "a photo")
    for content in SETS.values():
        assert read_box_dataset(write_boxes(content), root).folder == root / below
    (root / below / str(IMAGES[1]["file_name"])).unlink()
    with pytest.raises(
        UsageError, match=r"1 of 2 annotated photos are missing, the first is .*--photos DIR|.*is missing"
    ):
        read_box_dataset(write_boxes(REFS), root)


def test_the_split_is_detected_in_the_file_name(tmp_path: Path) -> None:
    content = {**INSTANCES, "images": [{**image, "file_name": f"{image['id']}.jpg"} for image in IMAGES]}
    for name in ("7", "8"):
        write(tmp_path / "val2017" / f"{name}.jpg", "a photo")
    assert (
        read_box_dataset(write(tmp_path / "annotations" / "instances_val2017.json", content)).folder
        == tmp_path / "val2017"
    )


def test_formats_can_be_named(write_boxes: Callable[[object], Path]) -> None:
    for name, content in SETS.items():
        file = write_boxes(content)
        assert read_box_dataset(file, format_name=name) == read_box_dataset(file)
        for other in set(BOX_FORMATS) - {name}:
            with pytest.raises(UsageError, match="--format instances"):
                read_box_dataset(file, format_name=other)
    with pytest.raises(
        UsageError, match="no format of boxes named 'coco' - use one of instances, mdetr, refs, labelled"
    ):
        read_box_dataset(file, format_name="coco")


def changed(name: str, *path: object, value: object) -> Any:
    """Return a data set with one value changed."""
    data = copy.deepcopy(SETS[name])
    parent: Any = data
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    return data


BOX = ("annotations", 1, "bbox")
HOSTILE: dict[str, tuple[object, str]] = {
    "no JSON": ("{", "cannot be read as JSON"),
    "nested": ("[" * 100_000 + "]" * 100_000, "cannot be read as JSON"),
    "nothing": ("", "cannot be read as JSON"),
    "empty list": ([], "no boxes in any known format"),
    "a list of numbers": ([1], "no boxes in any known format"),
    "captions": ([{"image": "a.jpg", "caption": ["a"]}], r"no boxes in any known format.*--mosaics N"),
    "captions of COCO": ({"images": IMAGES, "annotations": []}, "no boxes in any known format"),
    "no annotation": (changed("instances", "annotations", value=[]), "holds no box - give"),
    "annotations of text": (changed("instances", "annotations", value="x"), "'annotations' is not of type list"),
    "no box": (changed("instances", *BOX, value=None), "row 2 .*'bbox' is not a list of four numbers"),
    "three numbers": (changed("mdetr", *BOX, value=[1, 2, 3]), "row 2 .*not a list of four numbers"),
    "text in a box": (changed("instances", *BOX, value=[1, 2, "3", 4]), "row 2 .*'3' in 'bbox' is not a number"),
    "truth in a box": (changed("instances", *BOX, value=[1, 2, True, 4]), "'True' in 'bbox' is not a number"),
    "NaN": (changed("instances", *BOX, value=[1, float("nan"), 3, 4]), "row 2 .*'nan' in 'bbox' is not a number"),
    "endless": (changed("instances", *BOX, value=[1, 2, float("inf"), 4]), "'inf' in 'bbox' is not a number"),
    "too large for a float": (
        changed("instances", *BOX, value=[1, 2, 10**400, 4]),
        "'1000.*' in 'bbox' is not a number",
    ),
    "negative": (changed("instances", *BOX, value=[5, 5, -3, 4]), "row 2 .*a box of -3 x 4 pixels"),
    "no image": (
        changed("instances", "annotations", 1, "image_id", value=5),
        "row 2 .*image_id 5 is not among the images",
    ),
    "no category": (
        changed("instances", "annotations", 1, "category_id", value=5),
        "row 2 .*category_id 5 is not among",
    ),
    "an id of lists": (
        changed("instances", "annotations", 1, "image_id", value=[]),
        "row 2 .*'image_id' is not of type int",
    ),
    "a row of numbers": (changed("instances", "annotations", 1, value=5), "row 2 .*'category_id' is missing"),
    "no width": (changed("instances", "images", 0, "width", value=None), "'width' is missing"),
    "width of 0": (changed("instances", "images", 0, "width", value=0), "of 0 x 80 pixels"),
    "endless width": (changed("instances", "images", 0, "width", value=10**30), "of 10*(0)? x 80 pixels"),
    "width of text": (changed("instances", "images", 0, "width", value="1"), "'width' is not of type int"),
    "absolute": (changed("instances", "images", 0, "file_name", value="/etc/passwd"), "leads out"),
    "up": (changed("mdetr", "images", 0, "file_name", value="../a.jpg"), "leads out"),
    "no Unicode": (changed("mdetr", "images", 0, "caption", value="\ud800"), "not valid Unicode"),
    "caption of numbers": (changed("mdetr", "images", 1, "caption", value=5), "'caption' is not of type str"),
    "category of numbers": (changed("instances", "categories", 0, "name", value=5), "'name' is not of type str"),
    "two sizes": (changed("mdetr", "images", 1, "width", value=50), r"row 2 .*\(50, 80\) before, \(100, 80\) here"),
    "no boxes of a ref": (changed("refs", 2, "ann_id", value=99), "row 3 .*ann_id 99 is not among instances.json's"),
    "sentences of text": (changed("refs", 2, "sentences", value="x"), "row 3 .*'sentences' is not of type list"),
    "a sentence of numbers": (changed("refs", 2, "sentences", value=[5]), "row 3 .*'raw' is missing"),
    "a sentence without words": (
        changed("refs", 2, "sentences", value=[{"sent": 5}]),
        "row 3 .*'sent' is not of type str",
    ),
    "a split of numbers": (changed("refs", 2, "split", value=5), "'split' is not of type str"),
}


def test_hostile_files_give_one_line_errors(write_boxes: Callable[[object], Path], subtests: pytest.Subtests) -> None:
    for name, (content, expected) in HOSTILE.items():
        with subtests.test(name):
            file = write_boxes(content)
            with pytest.raises(UsageError, match=expected) as caught:
                read_box_dataset(file)
            assert len(str(caught.value).splitlines()) == 1
            assert str(caught.value).startswith(str(file))
            assert " - " in str(caught.value)


@pytest.mark.parametrize("name", ["refs(unc).p", "refs.json"])
def test_a_pickle_is_refused(tmp_path: Path, name: str) -> None:
    """RefCOCO's own pickle is recognised by its name or first byte, and never loaded."""
    mark = tmp_path / "executed"

    class Hidden:
        def __reduce__(self) -> tuple[Any, ...]:
            return mark.touch, ()

    (tmp_path / name).write_bytes(pickle.dumps([Hidden()]))
    with pytest.raises(UsageError, match=r"is a pickle, .* - convert it where you trust it: .* as JSON"):
        read_box_dataset(tmp_path / name)
    assert not mark.exists()
    old = tmp_path / "old.p"
    old.write_bytes(pickle.dumps([Hidden()], protocol=0))
    with pytest.raises(UsageError, match="is a pickle"):
        read_box_dataset(old)


def test_missing_files(tmp_path: Path) -> None:
    for file, reason in ((tmp_path / "gone.json", "is not there"), (tmp_path, "is not a file")):
        with pytest.raises(UsageError, match=f"{reason} - give a JSON file of boxes"):
            read_box_dataset(file)


def test_options_of_other_formats(write_boxes: Callable[[object], Path], tmp_path: Path) -> None:
    for options in ({"split": "val"}, {"instances": tmp_path / "x.json"}):
        with pytest.raises(UsageError, match="--instances and --split belong to refs"):
            read_box_dataset(write_boxes(INSTANCES), **options)
    for prompt in ("a photo", "{} and {}"):
        with pytest.raises(UsageError, match="has no place for a name"):
            read_box_dataset(write_boxes(INSTANCES), prompt=prompt)
