"""The eight formats of annotation files, and files that have none of them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from flairsearch.core.errors import UsageError
from flairsearch.evaluate.caption_datasets import FORMATS, CaptionDataset, join_sentences, read_caption_dataset

LONG = "A dog.  It runs.\n\nGrass </s> sky..\n"

# For each format: annotation file, its content, paths of the photos from the common root, captions of each photo.
SETS: dict[str, tuple[str, Any, list[str], list[list[str]]]] = {
    "coco": (
        "coco/annotations/captions_val2017.json",
        {
            "images": [{"id": n, "file_name": f"{n}.jpg"} for n in (1, 2, 3)],
            "annotations": [
                {"image_id": 3, "id": 1, "caption": "three"},
                {"image_id": 1, "id": 2, "caption": " one "},
                {"image_id": 3, "id": 3, "caption": "three again"},
            ],
        },
        ["coco/images/val2017/3.jpg", "coco/images/val2017/1.jpg"],
        [["three", "three again"], [" one "]],
    ),
    "flickr30k": (
        "flickr/flickr30k-images/flickr30k_val.json",
        [
            {"image": "flickr30k-images/b.jpg", "caption": ["a", "b"]},
            {"image": "flickr30k-images/a.jpg", "caption": []},
            {"image": "flickr30k-images/c.jpg", "caption": ["a"]},
        ],
        ["flickr/flickr30k-images/b.jpg", "flickr/flickr30k-images/c.jpg"],
        [["a", "b"], ["a"]],
    ),
    "docci": (
        "docci/annotations/test_annotations.json",
        {
            "annotations": [
                {"image_id": "t1", "image": "t1.jpg", "caption": "One."},
                {"image_id": "t0", "image": "t0.jpg", "caption": "Zero."},
                {"image_id": "t1", "image": "t1.jpg", "caption": "Two."},
            ]
        },
        ["docci/images/t1.jpg", "docci/images/t0.jpg"],
        [["One.", "Two."], ["Zero."]],
    ),
    "iiw": (
        "iiw/test_annotations.json",
        {"annotations": [{"image_id": 7, "caption_id": 0, "image": "aar/x.jpg", "caption": "X."}]},
        ["iiw/aar/x.jpg"],
        [["X."]],
    ),
    "urban1k": (
        "urban/annotations/annotations.json",
        {"annotations": [{"image_id": n, "image": f"{n}.jpg", "caption": LONG} for n in (2, 1)]},
        ["urban/images/2.jpg", "urban/images/1.jpg"],
        [[LONG], [LONG]],
    ),
    "sharegpt4v": (
        "sv/share4v_sam_10k.json",
        [
            {
                "id": "1",
                "image": "sam/images/sa_1.jpg",
                "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": LONG}],
            }
        ],
        ["sv/sam/sa_1.jpg"],
        [["A dog. It runs. Grass. sky"]],
    ),
    "dci": (
        "dci/densely_captioned_images/splits.json",
        {"train": ["b.json"], "test": ["a.json"]},
        ["dci/densely_captioned_images/photos/b.jpg", "dci/densely_captioned_images/photos/a.jpg"],
        [["Short. It goes on"], ["Short"]],
    ),
    "labelled": (
        "lab/held.jsonl",
        "".join(
            json.dumps({"image": image, "label": label}) + "\n"
            for image, label in (("b/1.jpg", "dog"), ("a/2.jpg", " Cat "), ("b/1.jpg", "lead"), ("c.jpg", "dog"))
        ),
        ["lab/b/1.jpg", "lab/a/2.jpg", "lab/c.jpg"],
        [["dog", "lead"], [" Cat "], ["dog"]],
    ),
}
DCI = {
    "a.json": {"image": "a.jpg", "short_caption": "Short.", "extra_caption": "\n"},
    "b.json": {"image": "b.jpg", "short_caption": "Short", "extra_caption": "It goes on.", "mask_data": {}},
}


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def make_set(folder: Path, name: str) -> Path:
    """Write a data set in its own layout and return its annotation file."""
    file, content, photos, _ = SETS[name]
    for photo in photos:
        write(folder / photo, "a photo")
    for annotation, row in DCI.items() if name == "dci" else ():
        write((folder / file).parent / "annotations" / annotation, row)
    return write(folder / file, content)


def captions_by_photo(dataset: CaptionDataset) -> list[list[str]]:
    captions: list[list[str]] = [[] for _ in dataset.photos]
    for caption, number in zip(dataset.captions, dataset.photo_of_caption, strict=True):
        captions[number].append(caption)
    return captions


def test_each_data_set_in_its_own_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    for number, (name, (_, _, photos, captions)) in enumerate(SETS.items()):
        with subtests.test(name), monkeypatch.context() as patch:
            folder = tmp_path / str(number)
            file = make_set(folder, name)
            dataset = read_caption_dataset(file)
            assert dataset.format == name
            assert [dataset.folder / photo for photo in dataset.photos] == [folder / photo for photo in photos]
            assert captions_by_photo(dataset) == captions
            assert read_caption_dataset(file, format_name=name) == dataset
            patch.chdir(file.parent)  # The file is given without a folder.
            assert read_caption_dataset(Path(file.name)) == dataset


def test_photos_in_another_folder(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """--photos is either the root of the data set or the folder of the photos themselves."""
    for number, name in enumerate(SETS):
        with subtests.test(name):
            folder = tmp_path / str(number)
            file = make_set(folder / "set", name)
            dataset = read_caption_dataset(file)
            root = folder / "root"
            below = FORMATS[name].photos.format(split="val2017")
            for photo in dataset.photos:
                write(root / below / photo, "a photo")
            assert read_caption_dataset(file, root).folder == root / below
            assert read_caption_dataset(file, root / below).folder == root / below
            (root / below / dataset.photos[-1]).unlink()
            if len(dataset.photos) > 1:
                with pytest.raises(
                    UsageError, match=r"1 of [23] annotated photos are missing, the first is .*--photos DIR"
                ):
                    read_caption_dataset(file, root)


def test_photos_beside_the_file(tmp_path: Path) -> None:
    write(tmp_path / "images" / "x.jpg", "a photo")
    file = write(tmp_path / "val.json", [{"image": "images/x.jpg", "caption": ["a"]}])
    assert read_caption_dataset(file).folder == tmp_path


def test_coco_of_another_split(tmp_path: Path) -> None:
    content = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "caption": "a"}]}
    for name, folder in (("captions_train2017", "train2017"), ("some", "val2017")):
        file = write(tmp_path / name / "annotations" / f"{name}.json", content)
        photo = write(tmp_path / name / "images" / folder / "1.jpg", "a photo")
        assert read_caption_dataset(file).folder == photo.parent


def test_empty_captions(tmp_path: Path) -> None:
    """Empty captions are skipped and counted, and so are photos without other captions."""
    for name in "abc":
        write(tmp_path / f"{name}.jpg", "a photo")
    rows = [("a", ["", "x", " \n"]), ("b", [" "]), ("c", ["y"])]
    file = write(tmp_path / "v.json", [{"image": f"{name}.jpg", "caption": captions} for name, captions in rows])
    dataset = read_caption_dataset(file, tmp_path)
    assert (dataset.photos, dataset.captions, dataset.photo_of_caption, dataset.empty_captions) == (
        ("a.jpg", "c.jpg"),
        ("x", "y"),
        (0, 1),
        3,
    )


def test_duplicates(tmp_path: Path) -> None:
    """A photo in two rows is one photo; equal captions are kept; two ids of one file are two photos."""
    write(tmp_path / "a.jpg", "a photo")
    file = write(tmp_path / "v.json", [{"image": "a.jpg", "caption": ["x", "x"]}, {"image": "a.jpg", "caption": ["x"]}])
    dataset = read_caption_dataset(file, tmp_path)
    assert (dataset.photos, dataset.captions, dataset.photo_of_caption) == (("a.jpg",), ("x", "x", "x"), (0, 0, 0))
    rows = [{"image_id": n, "caption_id": 0, "image": "a.jpg", "caption": "x"} for n in (1, 2, 1)]
    dataset = read_caption_dataset(write(tmp_path / "i.json", {"annotations": rows}), tmp_path)
    assert (dataset.photos, dataset.photo_of_caption) == (("a.jpg", "a.jpg"), (0, 1, 0))


def lines(*rows: object) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


DOG, CAT = {"image": "a.jpg", "label": "dog"}, {"image": "b.jpg", "label": "cat"}


LINES = {
    "no last newline": lines(DOG, CAT),
    "lines": lines(DOG, CAT) + "\n",
    "empty lines": "\n" + lines(DOG, {}, CAT).replace("{}", " \t") + "\n\n\n",
    "a mark of its bytes' order": "\ufeff" + lines(DOG, CAT),
    "CRLF": lines(DOG, CAT).replace("\n", "\r\n") + "\r\n",
    "spaces": lines(DOG, CAT).replace(",", " , ").replace("{", "  { "),
    "more fields": lines({**DOG, "seen": [1]}, {**CAT, "label": "cat", "score": None}),
}


def test_one_label_per_line(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for photo in ("a.jpg", "b.jpg"):
        write(tmp_path / photo, "a photo")
    expected = CaptionDataset("labelled", tmp_path, ("a.jpg", "b.jpg"), ("dog", "cat"), (0, 1), empty_captions=0)
    for (name, content), file in itertools.product(LINES.items(), (tmp_path / "v.jsonl", tmp_path / "V.JSONL")):
        with subtests.test(f"{name} in {file.name}"):
            file.write_bytes(content.encode())
            assert read_caption_dataset(file) == expected
            file.unlink()


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85", "\x7f"])
def test_only_a_newline_ends_a_line(tmp_path: Path, end: str) -> None:
    """JSON may contain these characters, at which str.splitlines would split."""
    write(tmp_path / "a.jpg", "a photo")
    file = write(tmp_path / "v.jsonl", lines({"image": "a.jpg", "label": f"a{end}dog"}, DOG))
    assert read_caption_dataset(file).captions == (f"a{end}dog", "dog")


def test_other_formats_with_one_value_per_line(tmp_path: Path) -> None:
    """A JSON list and one value per line are equivalent, for every format."""
    for photo in ("a.jpg", "b.jpg"):
        write(tmp_path / photo, "a photo")
    rows = [{"image": "b.jpg", "caption": ["x", "y"]}, {"image": "a.jpg", "caption": ["z"]}]
    found = [
        read_caption_dataset(write(tmp_path / f"v.{end}", made))
        for end, made in (("json", rows), ("jsonl", lines(*rows)))
    ]
    assert found[0] == found[1]
    assert found[0].format == "flickr30k"
    labels = [
        read_caption_dataset(write(tmp_path / f"w.{end}", made))
        for end, made in (("json", [DOG, CAT]), ("jsonl", lines(DOG, CAT)))
    ]
    assert labels[0] == labels[1]
    assert labels[0].format == "labelled"


HOSTILE_LINES = {
    "half a line": (lines(DOG, CAT)[:-5], "cannot be read as JSON"),
    "no JSON between": (f"{lines(DOG)}\nno\n{lines(CAT)}", "cannot be read as JSON"),
    "two values in a line": (f"{lines(DOG)} {lines(CAT)}", "cannot be read as JSON"),
    "a list": (json.dumps([DOG, CAT]), "nothing that any known format has"),
    "a value over several lines": (json.dumps(DOG, indent=1), "cannot be read as JSON"),
    "nothing": ("\n \n", "nothing that any known format has"),
    "deep": (f"{lines(DOG)}\n{'[' * 100_000}", "cannot be read as JSON"),
    "a number": (lines(DOG, 5), "row 2 .*'image' is missing"),
    "no label": (lines(DOG, {"image": "a.jpg"}), "row 2 .*'label' is missing"),
    "a label of numbers": (lines(DOG, {"image": "a.jpg", "label": 5}), "row 2 .*'label' is not of type str"),
    "several labels": (lines(DOG, {"image": "a.jpg", "label": ["a"]}), "row 2 .*'label' is not of type str"),
    "no photo": (lines(DOG, {"label": "cat"}), "row 2 .*'image' is missing"),
    "up": (lines(DOG, {"image": "../a.jpg", "label": "cat"}), "row 2 .*leads out"),
    "absolute": (lines(DOG, {"image": "/etc/passwd", "label": "cat"}), "row 2 .*leads out"),
    "no Unicode": (json.dumps({"image": "a.jpg", "label": "\ud800"}), "row 1 .*not valid Unicode"),
    "only empty labels": (lines({"image": "a.jpg", "label": " "}), "holds no caption"),
    "a photo that is not there": (lines({"image": "gone.jpg", "label": "cat"}), "1 of 1 annotated photos are missing"),
}


def test_hostile_lines_give_one_line_errors(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for photo in ("a.jpg", "b.jpg"):
        write(tmp_path / photo, "a photo")
    for name, (content, expected) in HOSTILE_LINES.items():
        with subtests.test(name):
            with pytest.raises(UsageError, match=expected) as caught:
                read_caption_dataset(write(tmp_path / "hostile.jsonl", content))
            assert len(str(caught.value).splitlines()) == 1
            assert " - " in str(caught.value)


def test_split_and_join() -> None:
    assert join_sentences("a. b\n c</s>d.e") == "a. b. c. d. e"
    assert join_sentences(" ..\n</s> ") == ""


def flickr(image: object = "a.jpg", caption: object = ("a",)) -> list[dict[str, object]]:
    return [{"image": "a.jpg", "caption": ["first"]}, {"image": image, "caption": caption}]


HOSTILE: dict[str, tuple[object, str]] = {
    "no JSON": ("{", "cannot be read as JSON"),
    "no Unicode": ('[{"image": "\\ud800.jpg", "caption": ["a"]}]', "not valid Unicode"),
    "no Unicode in a caption": (flickr(caption=["\ud800"]), "row 2 .*not valid Unicode"),
    "nested": ("[" * 100_000 + "]" * 100_000, "cannot be read as JSON"),
    "a number": ("1" * 10_000, "cannot be read as JSON"),
    "nothing": ("", "cannot be read as JSON"),
    "empty list": ([], "nothing that any known format has"),
    "empty object": ({}, "nothing that any known format has"),
    "list of numbers": ([1, 2], "nothing that any known format has"),
    "another object": ({"images": []}, "holds no caption"),
    "absolute": (flickr("/etc/passwd"), "row 2 .*'/etc/passwd' leads out of the photos' folder"),
    "up": (flickr("../a.jpg"), "leads out"),
    "up inside": (flickr("x/../../a.jpg"), "leads out"),
    "NUL": (flickr("a\0.jpg"), "is not a photo's path"),
    "no name": (flickr(""), "is not a photo's path"),
    "no name but a place": (flickr("."), "is not a photo's path"),
    "path of numbers": (flickr(5), "row 2 .*'image' is not of type str"),
    "no path": ([{"caption": ["a"]}], "row 1 .*'image' is missing"),
    "one caption alone": (flickr(caption="a dog"), "row 2 .*'caption' is not of type list"),
    "caption of numbers": (flickr(caption=[5]), "row 2 .*not a text but int"),
    "row of numbers": ([*flickr(), 5], "row 3 .*'image' is missing"),
    "only empty captions": ([{"image": "a.jpg", "caption": [""]}], "holds no caption"),
    "COCO without its image": (
        {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 2, "caption": "a"}]},
        "row 1 .*image_id 2 is not among the images",
    ),
    "COCO up": (
        {"images": [{"id": 1, "file_name": "../a.jpg"}], "annotations": [{"image_id": 1, "caption": "a"}]},
        "leads out",
    ),
    "COCO with a list as an id": (
        {"images": [{"id": [], "file_name": "a.jpg"}], "annotations": []},
        "'id' is not of type int",
    ),
    "COCO's images": ({"images": {}, "annotations": []}, "'images' is not of type list"),
    "one id, two photos": (
        {"annotations": [{"image_id": 1, "image": name, "caption": "a"} for name in ("a.jpg", "b.jpg")]},
        "row 2 .*1 is 'a.jpg' before, 'b.jpg' here",
    ),
    "one turn": ([{"image": "a.jpg", "conversations": [{"value": "?"}]}], "no second turn"),
    "up by what is taken away": (
        [{"image": "./images./images/passwd", "conversations": [{}, {"value": "a"}]}],
        "leads out",
    ),
    "splits of numbers": ({"train": [1]}, "row 1 .*not a text but int"),
    "splits that lead out": ({"train": ["../../secret.json"]}, "leads out"),
    "splits of nothing": ({"train": ["gone.json"]}, "annotations/gone.json: is not there"),
}


def test_hostile_files_give_one_line_errors(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, (name, (content, expected)) in enumerate(HOSTILE.items()):
        with subtests.test(name):
            folder = tmp_path / str(number)
            write(folder / "a.jpg", "a photo")
            write(tmp_path / "secret.json", {"image": "a.jpg", "short_caption": "a", "extra_caption": "b"})
            file = write(folder / "hostile.json", content)
            with pytest.raises(UsageError, match=expected) as caught:
                read_caption_dataset(file, folder)
            assert len(str(caught.value).splitlines()) == 1
            assert str(caught.value).startswith(str(file))
            assert " - " in str(caught.value)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not there"):
        read_caption_dataset(tmp_path / "gone.json")
    with pytest.raises(UsageError, match="is not a file"):
        read_caption_dataset(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'[{"image": "\xe9.jpg", "caption": ["a"]}]')
    with pytest.raises(UsageError, match="cannot be read as JSON"):
        read_caption_dataset(tmp_path / "latin.json")


def test_a_format_that_does_not_fit_the_content(tmp_path: Path) -> None:
    file = write(tmp_path / "v.json", flickr())
    write(tmp_path / "a.jpg", "a photo")
    for form in set(FORMATS) - {"flickr30k"}:
        with pytest.raises(UsageError, match="--format"):
            read_caption_dataset(file, tmp_path, form)
    with pytest.raises(UsageError, match="no annotation format named 'xml' - use one of coco, "):
        read_caption_dataset(file, tmp_path, "xml")


def test_a_format_that_cannot_be_detected_can_be_named(tmp_path: Path) -> None:
    """IIW without its caption ids looks like Urban1k."""
    file = write(tmp_path / "t.json", {"annotations": [{"image_id": 1, "image": "x.jpg", "caption": "a"}]})
    write(tmp_path / "x.jpg", "a photo")
    write(tmp_path / "images" / "x.jpg", "another")
    assert read_caption_dataset(file, tmp_path).folder == tmp_path / "images"
    assert read_caption_dataset(file, tmp_path, "iiw").folder == tmp_path


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    """A pickle is not JSON."""
    mark = tmp_path / "executed"
    file = tmp_path / "v.json"
    file.write_bytes(b"cposix\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR.")
    with pytest.raises(UsageError, match="cannot be read as JSON"):
        read_caption_dataset(file)
    assert not mark.exists()
