"""What is measured on: photos in the order of the annotations, mosaics, views of an index."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flairsearch.core.errors import UsageError
from flairsearch.core.types import Frame
from flairsearch.evaluate import galleries
from flairsearch.evaluate.box_datasets import BoxAnnotations, Place
from flairsearch.evaluate.caption_datasets import Annotations
from flairsearch.evaluate.mosaics import Mosaics, plan_mosaics, plan_pastes
from flairsearch.images.decoding import decode
from flairsearch.model.prompts import phrases
from tests.support.fake import COLOURS, SIZE, FakeEncoder, fake_engine, paint, paint_red

NAMES = ("red", "green", "blue", "white", "yellow")


@pytest.fixture
def notes(tmp_path: Path) -> Annotations:
    """Photos of one colour, the middle square of another; 1 to 5 captions each."""
    for name in NAMES:
        paint(tmp_path / f"{name}.png", [("black", (0, 0, 20, SIZE))], name, (2 * SIZE, SIZE))
    photos = tuple(f"{name}.png" for name in NAMES)
    owner = tuple(i for i in range(5) for _ in range(i + 1))
    return Annotations("flickr30k", tmp_path, photos, tuple(f"{NAMES[i]} {n}" for n, i in enumerate(owner)), owner, 2)


@pytest.mark.parametrize("policy", ["squash", "center"])
def test_photos_in_order(notes: Annotations, policy: str) -> None:
    found = galleries.of_photos(notes, FakeEncoder().encode_pictures, policy, SIZE)
    pictures = [decode((notes.folder / photo).read_bytes(), policy, SIZE)[0] for photo in notes.photos]
    expected = FakeEncoder().encode_pictures(pictures)
    joined = galleries.join(found.encoded)
    assert (joined.tokens == expected.tokens).all()
    assert (joined.pooled == expected.pooled).all()
    assert (found.views, found.texts) == (5, list(notes.captions))
    assert found.right is not None
    for i in range(5):
        assert np.flatnonzero(found.right[i]).tolist() == [t for t, text in enumerate(found.texts) if NAMES[i] in text]
    assert found.notes == ("2 empty captions were left out",)


def test_pictures_are_encoded_a_batch_at_once(notes: Annotations) -> None:
    pictures = list(galleries.load_pictures(notes.folder, notes.photos, "squash", SIZE))
    pieces = list(galleries.encode_with_frames(FakeEncoder().encode_pictures, pictures, batch=2))
    assert [len(encoded.tokens) for encoded, _ in pieces] == [2, 2, 1]
    assert [frame for _, frames in pieces for frame in frames] == [picture.frame for picture in pictures]
    joined = galleries.join(galleries.encode_in_pieces(FakeEncoder().encode_pictures, pictures, batch=2))
    assert (joined.tokens == FakeEncoder().encode_pictures(pictures).tokens).all()


def test_fewer_captions_are_the_first_of_some_photos(notes: Annotations) -> None:
    def texts(count: int) -> list[str]:
        return galleries.of_photos(notes, FakeEncoder().encode_pictures, "squash", SIZE, count=count).texts

    assert texts(5) == ["red 0", "green 1", "blue 3", "white 6", "yellow 10"]
    assert texts(2) == ["red 0", "blue 3", "yellow 10"]
    assert texts(7) == [
        "red 0",
        "green 1",
        "green 2",
        "blue 3",
        "blue 4",
        "white 6",
        "white 7",
        "yellow 10",
        "yellow 11",
    ]
    assert texts(15) == texts(1000) == list(notes.captions)
    owner = tuple(i for i in range(509) for _ in range(5))  # the figures of the README
    many = Annotations("flickr30k", notes.folder, ("",) * 509, ("",) * 2545, owner, 0)
    assert len(galleries.of_photos(many, FakeEncoder().encode_pictures, "squash", SIZE, count=1500).texts) == 1527


LABELS = (("red", "warm"), ("green", "cold"), ("blue", "cold"), ("white", "bright"), ("yellow", "warm"))


@pytest.fixture
def labelled(notes: Annotations) -> Annotations:
    """The same photos, each with a label; yellow has two, and the second line of blue says the same again."""
    rows = [*LABELS, ("yellow", "bright"), ("blue", "cold")]
    owner = tuple(NAMES.index(name) for name, _ in rows)
    return Annotations("labelled", notes.folder, notes.photos, tuple(label for _, label in rows), owner, 0)


def right_photos(notes: Annotations, label: str) -> set[int]:
    return {photo for photo, said in zip(notes.owner, notes.captions, strict=True) if said == label}


@pytest.mark.parametrize("count", [None, 1, 2, 3, 5, 6])
def test_all_photos_of_a_label_are_right(labelled: Annotations, count: int | None) -> None:
    """Also those whose own line is not asked."""
    found = galleries.of_photos(labelled, FakeEncoder().encode_pictures, "squash", SIZE, count=count)
    assert found.right is not None
    assert found.right.dtype == np.bool_
    if count is None:
        assert found.texts == ["warm", "cold", "cold", "bright", "warm", "bright", "cold"]
    for text, column in zip(found.texts, found.right.T, strict=True):
        assert set(np.flatnonzero(column).tolist()) == right_photos(labelled, text)


def test_captions_of_other_formats_are_their_photos_alone(labelled: Annotations) -> None:
    """The same words of two photos: nobody could tell which one is meant, and the annotations say one."""
    other = replace(labelled, format="flickr30k")
    found = galleries.of_photos(other, FakeEncoder().encode_pictures, "squash", SIZE)
    assert found.right is not None
    assert [np.flatnonzero(column).tolist() for column in found.right.T] == [[n] for n in labelled.owner]


@pytest.mark.parametrize("count", [None, 2])
def test_mosaics_of_labels(labelled: Annotations, count: int | None) -> None:
    """Right is each that shows any photo of the label."""
    found = galleries.of_photos(
        labelled, FakeEncoder().encode_pictures, "squash", SIZE, mosaics=Mosaics(9), count=count
    )
    shown = galleries.shuffle(5, 9, seed=0)
    assert found.right is not None
    for text, column in zip(found.texts, found.right.T, strict=True):
        assert column.tolist() == [bool(right_photos(labelled, text) & set(cells.tolist())) for cells in shown]
    assert not found.right.all()


def test_mosaics_show_four_photos_in_quarters(notes: Annotations) -> None:
    found = galleries.of_photos(notes, FakeEncoder().encode_pictures, "squash", SIZE, mosaics=Mosaics(9))
    tokens = galleries.join(found.encoded).tokens.reshape(9, 8, 8, -1)[..., :3].astype(int)
    right, shown = found.right, galleries.shuffle(5, 9, seed=0)
    assert right is not None
    assert right.shape == (9, len(found.texts))
    counts = np.bincount(shown.ravel(), minlength=5)
    assert counts.max() - counts.min() <= 1  # all are used up before any is used again
    for mosaic in range(9):
        for cell in range(4):
            top, left = 4 * (cell // 2), 4 * (cell % 2)
            colour = tuple(round(c / 127.5) - 1 for c in COLOURS[NAMES[shown[mosaic, cell]]])
            assert (tokens[mosaic, top : top + 4, left + 1 : left + 4] == colour).all()
        visible = {NAMES[i] for i in shown[mosaic]}
        assert [text.split()[0] in visible for text in found.texts] == right[mosaic].tolist()


def test_mosaics_of_more_photos(notes: Annotations) -> None:
    found = galleries.of_photos(notes, FakeEncoder().encode_pictures, "squash", SIZE, mosaics=Mosaics(3, 4))
    shown = galleries.shuffle(5, 3, seed=0, side=4)
    assert found.right is not None
    for mosaic in range(3):
        visible = {NAMES[i] for i in shown[mosaic]}
        assert [text.split()[0] in visible for text in found.texts] == found.right[mosaic].tolist()
    assert galleries.join(found.encoded).tokens.shape == (3, 64, 4)


def test_mosaics_that_show_nothing_asked_for(notes: Annotations) -> None:
    alone = Annotations("flickr30k", notes.folder, notes.photos, ("x",), (int(galleries.shuffle(5, 2, 0)[1, 0]),), 0)
    assert alone.owner[0] not in galleries.shuffle(5, 1, seed=0)
    with pytest.raises(UsageError, match="make more: --mosaics"):
        galleries.of_photos(alone, FakeEncoder().encode_pictures, "squash", SIZE, mosaics=Mosaics(1))


def test_a_photo_that_cannot_be_read(notes: Annotations) -> None:
    (notes.folder / "blue.png").write_bytes(b"no picture")
    found = galleries.of_photos(notes, FakeEncoder().encode_pictures, "squash", SIZE)
    with pytest.raises(UsageError, match=r"blue\.png cannot be used \(not a picture in a known format\) - "):
        list(found.encoded)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for area in range(1, 24):
        paint_red(tmp_path / "photos" / f"{area:02d}.png", area)
    return tmp_path / "photos"


@pytest.mark.parametrize(("most", "kept"), [(None, 23), (23, 23), (99, 23), (10, 10), (15, 15), (1, 1)])
def test_views_of_an_index(tmp_path: Path, photos: Path, most: int | None, kept: int) -> None:
    with fake_engine(tmp_path / "index") as engine:
        engine.add(photos)
        found = galleries.of_index(engine.folder, engine.settings, most, 7, piece=4)
    pieces = list(found.encoded)
    assert max(len(piece.tokens) for piece in pieces) <= 4
    areas = (galleries.join(pieces).tokens[..., 0] == 1).sum(1)
    assert found.views == kept == len(areas)
    assert areas.tolist() == [1 + i * 23 // kept for i in range(kept)]  # ids go by path
    assert (found.texts, found.right) == (phrases()[:7], None)
    assert found.notes == ((f"{kept} views of 23, evenly spaced",) if kept < 23 else ())
    assert galleries.of_index(engine.folder, engine.settings).texts == phrases()


def test_an_index_without_photos(tmp_path: Path) -> None:
    with fake_engine(tmp_path / "index") as engine, pytest.raises(UsageError, match="holds no photo"):
        galleries.of_index(engine.folder, engine.settings)


def test_a_lost_segment_is_noted(tmp_path: Path, photos: Path) -> None:
    with fake_engine(tmp_path / "index") as engine:
        engine.add(photos)
        paint_red(photos / "99.png", 40)
        engine.add(photos)
        next((tmp_path / "index" / "segments").glob("000001.tokens")).unlink()
        found = galleries.of_index(engine.folder, engine.settings)
    assert found.views == 1
    assert "is missing" in found.notes[0]


def cells_of(notes: Annotations, plan: Mosaics) -> list[tuple[int, int]]:
    """Photo and caption of each cell, one mosaic after the other."""
    captions = [[i for i, photo in enumerate(notes.owner) if photo == number] for number in range(len(notes.photos))]
    shown, said = plan_mosaics([len(several) for several in captions], plan)
    return [(p, captions[p][n]) for p, n in zip(shown.ravel().tolist(), said.ravel().tolist(), strict=True)]


@pytest.mark.parametrize("plan", [Mosaics(5), Mosaics(3, side=4), Mosaics(4, side=2, factor=2)])
def test_truth_of_mosaics(notes: Annotations, plan: Mosaics) -> None:
    """A caption a cell; right is every cell that shows its photo, in any mosaic; maps are measured in its own."""
    found = galleries.of_mosaics(notes, FakeEncoder().encode_pictures, "squash", SIZE, plan)
    cells, area = cells_of(notes, plan), plan.side**2
    assert found.views == plan.count
    assert found.texts == [notes.captions[caption] for _, caption in cells]
    assert found.truth.given.tolist() == [[i // area, i] for i in range(len(cells))]
    for text, (photo, _) in enumerate(cells):
        expected = [(i // area, i % area) for i, (other, _) in enumerate(cells) if other == photo]
        chosen = found.truth.thing == found.truth.asked[text]
        boxes = [
            (view, tuple(box))
            for view, box in zip(found.truth.view[chosen].tolist(), found.truth.box[chosen].tolist(), strict=True)
        ]
        edge = SIZE * plan.factor // plan.side
        corners = [(view, edge * (cell % plan.side), edge * (cell // plan.side)) for view, cell in expected]
        assert boxes == [(view, (left, top, left + edge, top + edge)) for view, left, top in corners]
    assert found.notes == ("2 empty captions were left out",)


def test_pictures_of_mosaics_show_what_the_truth_says(notes: Annotations) -> None:
    found = galleries.of_mosaics(notes, FakeEncoder().encode_pictures, "squash", SIZE, Mosaics(40, seed=5))
    (pieces, frames) = zip(*found.encoded, strict=True)
    tokens = galleries.join(pieces).tokens.reshape(40, 8, 8, -1)[..., :3].astype(int)
    assert {frame for some in frames for frame in some} == {Frame(SIZE, SIZE, 0, 0, SIZE, SIZE)}
    for (view, text), colour in zip(found.truth.given.tolist(), found.texts, strict=True):
        boxes = found.truth.box[(found.truth.view == view) & (found.truth.thing == found.truth.asked[text])]
        for left, top, right, bottom in (boxes // 8).astype(int).tolist():
            seen = tokens[view, top:bottom, left + 1 : right]  # the first patch of a photo is half black
            assert (seen == np.rint(np.array(COLOURS[colour.split()[0]]) / 127.5 - 1)).all()


def test_truth_of_pastes(notes: Annotations) -> None:
    found = galleries.of_pastes(notes, FakeEncoder().encode_pictures, "squash", SIZE, 30)
    plan = plan_pastes([1, 2, 3, 4, 5], 30, SIZE)
    assert (found.views, len(found.texts)) == (30, 30)
    assert (found.truth.box == plan.box).all()
    assert found.truth.given.tolist() == [[i, i] for i in range(30)]
    assert [NAMES.index(text.split()[0]) for text in found.texts] == plan.pasted.tolist()
    assert (found.truth.asked == plan.pasted).all()
    assert (found.truth.thing == plan.pasted).all()
    tokens = galleries.join(encoded for encoded, _ in found.encoded).tokens.reshape(30, 8, 8, -1)[..., :3].astype(int)
    for view, (box, name) in enumerate(zip(plan.box.tolist(), found.texts, strict=True)):
        rows, left, right = slice(-(-box[1] // 8), box[3] // 8), box[0] + 0.2 * (box[2] - box[0]), box[2] // 8
        inside = tokens[view, rows, -int(-left // 8) : right]  # whole patches, right of the photo's black part
        assert (inside == np.rint(np.array(COLOURS[name.split()[0]]) / 127.5 - 1)).all()


def test_one_photo_cannot_be_pasted(notes: Annotations) -> None:
    alone = Annotations("flickr30k", notes.folder, notes.photos[:1], ("red",), (0,), 0)
    with pytest.raises(UsageError, match="two photos at least"):
        galleries.of_pastes(alone, FakeEncoder().encode_pictures, "squash", SIZE, 3)


def boxed(notes: Annotations, sizes: tuple[tuple[int, int], ...]) -> BoxAnnotations:
    places = (Place(1, 0, (5.5, 0, 64, 64)), Place(0, 1, (0, 0, 20, 64)), Place(0, 0, (1, 2, 3, 4)))
    words = ("something green", "the black part of the red")
    given = ((1, 0), (0, 1), (0, 2))
    return BoxAnnotations("mdetr", notes.folder, notes.photos[:2], sizes, words, places, (0, 1, 0), given, ("a note",))


def test_truth_of_boxes(notes: Annotations) -> None:
    found = galleries.of_boxes(boxed(notes, ((128, 64), (128, 64))), FakeEncoder().encode_pictures, "squash", SIZE)
    assert (found.views, found.notes) == (2, ("a note",))
    assert found.texts == ["something green", "the black part of the red", "something green"]
    assert found.truth.view.tolist() == [1, 0, 0]
    assert found.truth.thing.tolist() == [0, 1, 0]
    assert found.truth.asked.tolist() == [0, 1, 0]
    assert found.truth.box[0].tolist() == [5.5, 0, 64, 64]
    assert found.truth.given.tolist() == [[1, 0], [0, 1], [0, 2]]
    ((encoded, frames),) = found.encoded
    assert frames == [Frame(128, 64, 0, 0, 128, 64)] * 2
    pictures = [decode((notes.folder / photo).read_bytes(), "squash", SIZE)[0] for photo in notes.photos[:2]]
    assert (encoded.tokens == FakeEncoder().encode_pictures(pictures).tokens).all()


def test_boxes_of_other_photos(notes: Annotations) -> None:
    """Photos that were resized or turned since they were annotated."""
    for size in ((64, 128), (256, 128)):
        found = galleries.of_boxes(boxed(notes, ((128, 64), size)), FakeEncoder().encode_pictures, "squash", SIZE)
        with pytest.raises(UsageError, match=r"green\.png has 128 x 64 pixels upright, its boxes are in"):
            list(found.encoded)
