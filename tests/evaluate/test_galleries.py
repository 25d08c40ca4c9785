"""Galleries: photos in the order of the annotations, mosaics, pasted photos, and views of an index."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flairsearch.core.errors import UsageError
from flairsearch.core.types import Frame
from flairsearch.evaluate import galleries
from flairsearch.evaluate.box_datasets import BoxDataset, LabelledBox
from flairsearch.evaluate.caption_datasets import CaptionDataset
from flairsearch.evaluate.mosaics import MosaicPlan, plan_mosaics, plan_pastes
from flairsearch.images.decoding import decode
from flairsearch.model.prompts import phrases
from tests.support.fake import COLOURS, SIZE, FakeEncoder, fake_engine, paint, paint_red

NAMES = ("red", "green", "blue", "white", "yellow")


@pytest.fixture
def dataset(tmp_path: Path) -> CaptionDataset:
    """Five photos of one colour with a black strip at the left; 1 to 5 captions each."""
    for name in NAMES:
        paint(tmp_path / f"{name}.png", [("black", (0, 0, 20, SIZE))], name, (2 * SIZE, SIZE))
    photos = tuple(f"{name}.png" for name in NAMES)
    owner = tuple(i for i in range(5) for _ in range(i + 1))
    return CaptionDataset(
        "flickr30k", tmp_path, photos, tuple(f"{NAMES[i]} {n}" for n, i in enumerate(owner)), owner, 2
    )


@pytest.mark.parametrize("policy", ["squash", "center"])
def test_photos_keep_the_order_of_annotations(dataset: CaptionDataset, policy: str) -> None:
    gallery = galleries.caption_gallery(dataset, FakeEncoder().encode_images, policy, SIZE)
    pictures = [decode((dataset.folder / photo).read_bytes(), policy, SIZE)[0] for photo in dataset.photos]
    expected = FakeEncoder().encode_images(pictures)
    joined = galleries.concatenate(gallery.encoded)
    assert (joined.tokens == expected.tokens).all()
    assert (joined.pooled == expected.pooled).all()
    assert (gallery.views, gallery.texts) == (5, list(dataset.captions))
    assert gallery.relevant is not None
    for i in range(5):
        assert np.flatnonzero(gallery.relevant[i]).tolist() == [
            t for t, text in enumerate(gallery.texts) if NAMES[i] in text
        ]
    assert gallery.notes == ("2 empty captions were left out",)


def test_pictures_are_encoded_a_batch_at_once(dataset: CaptionDataset) -> None:
    pictures = list(galleries.load_pictures(dataset.folder, dataset.photos, "squash", SIZE))
    pieces = list(galleries.encode_batches_with_frames(FakeEncoder().encode_images, pictures, batch=2))
    assert [len(encoded.tokens) for encoded, _ in pieces] == [2, 2, 1]
    assert [frame for _, frames in pieces for frame in frames] == [picture.frame for picture in pictures]
    joined = galleries.concatenate(galleries.encode_batches(FakeEncoder().encode_images, pictures, batch=2))
    assert (joined.tokens == FakeEncoder().encode_images(pictures).tokens).all()


def test_sampled_captions_are_the_first_of_evenly_chosen_photos(dataset: CaptionDataset) -> None:
    def texts(count: int) -> list[str]:
        return galleries.caption_gallery(dataset, FakeEncoder().encode_images, "squash", SIZE, max_texts=count).texts

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
    assert texts(15) == texts(1000) == list(dataset.captions)
    owner = tuple(i for i in range(509) for _ in range(5))  # The README quotes these numbers.
    many = CaptionDataset("flickr30k", dataset.folder, ("",) * 509, ("",) * 2545, owner, 0)
    assert (
        len(galleries.caption_gallery(many, FakeEncoder().encode_images, "squash", SIZE, max_texts=1500).texts) == 1527
    )


LABELS = (("red", "warm"), ("green", "cold"), ("blue", "cold"), ("white", "bright"), ("yellow", "warm"))


@pytest.fixture
def labelled(dataset: CaptionDataset) -> CaptionDataset:
    """The same photos with labels: yellow has two labels, and blue has the same label twice."""
    rows = [*LABELS, ("yellow", "bright"), ("blue", "cold")]
    owner = tuple(NAMES.index(name) for name, _ in rows)
    return CaptionDataset("labelled", dataset.folder, dataset.photos, tuple(label for _, label in rows), owner, 0)


def relevant_photos(dataset: CaptionDataset, label: str) -> set[int]:
    return {photo for photo, other in zip(dataset.photo_of_caption, dataset.captions, strict=True) if other == label}


@pytest.mark.parametrize("count", [None, 1, 2, 3, 5, 6])
def test_all_photos_of_a_label_are_relevant(labelled: CaptionDataset, count: int | None) -> None:
    """Photos are relevant even when their own line is not among the sampled texts."""
    gallery = galleries.caption_gallery(labelled, FakeEncoder().encode_images, "squash", SIZE, max_texts=count)
    assert gallery.relevant is not None
    assert gallery.relevant.dtype == np.bool_
    if count is None:
        assert gallery.texts == ["warm", "cold", "cold", "bright", "warm", "bright", "cold"]
    for text, column in zip(gallery.texts, gallery.relevant.T, strict=True):
        assert set(np.flatnonzero(column).tolist()) == relevant_photos(labelled, text)


def test_captions_of_other_formats_are_relevant_to_their_own_photo_only(labelled: CaptionDataset) -> None:
    """Two photos may have the same caption, but only the annotated photo is relevant."""
    other = replace(labelled, format="flickr30k")
    gallery = galleries.caption_gallery(other, FakeEncoder().encode_images, "squash", SIZE)
    assert gallery.relevant is not None
    assert [np.flatnonzero(column).tolist() for column in gallery.relevant.T] == [
        [n] for n in labelled.photo_of_caption
    ]


@pytest.mark.parametrize("count", [None, 2])
def test_mosaics_of_labels(labelled: CaptionDataset, count: int | None) -> None:
    """A mosaic is relevant when it shows any photo of the label."""
    gallery = galleries.caption_gallery(
        labelled, FakeEncoder().encode_images, "squash", SIZE, mosaics=MosaicPlan(9), max_texts=count
    )
    cells = galleries.assign_cells(5, 9, seed=0)
    assert gallery.relevant is not None
    for text, column in zip(gallery.texts, gallery.relevant.T, strict=True):
        assert column.tolist() == [bool(relevant_photos(labelled, text) & set(cells.tolist())) for cells in cells]
    assert not gallery.relevant.all()


def test_mosaics_show_four_photos_in_quarters(dataset: CaptionDataset) -> None:
    gallery = galleries.caption_gallery(dataset, FakeEncoder().encode_images, "squash", SIZE, mosaics=MosaicPlan(9))
    tokens = galleries.concatenate(gallery.encoded).tokens.reshape(9, 8, 8, -1)[..., :3].astype(int)
    right, cells = gallery.relevant, galleries.assign_cells(5, 9, seed=0)
    assert right is not None
    assert right.shape == (9, len(gallery.texts))
    counts = np.bincount(cells.ravel(), minlength=5)
    assert counts.max() - counts.min() <= 1  # All photos are used before any is used again.
    for mosaic in range(9):
        for cell in range(4):
            top, left = 4 * (cell // 2), 4 * (cell % 2)
            colour = tuple(round(c / 127.5) - 1 for c in COLOURS[NAMES[cells[mosaic, cell]]])
            assert (tokens[mosaic, top : top + 4, left + 1 : left + 4] == colour).all()
        visible = {NAMES[i] for i in cells[mosaic]}
        assert [text.split()[0] in visible for text in gallery.texts] == right[mosaic].tolist()


def test_mosaics_of_more_photos(dataset: CaptionDataset) -> None:
    gallery = galleries.caption_gallery(dataset, FakeEncoder().encode_images, "squash", SIZE, mosaics=MosaicPlan(3, 4))
    cells = galleries.assign_cells(5, 3, seed=0, side=4)
    assert gallery.relevant is not None
    for mosaic in range(3):
        visible = {NAMES[i] for i in cells[mosaic]}
        assert [text.split()[0] in visible for text in gallery.texts] == gallery.relevant[mosaic].tolist()
    assert galleries.concatenate(gallery.encoded).tokens.shape == (3, 64, 4)


def test_mosaics_without_relevant_photos(dataset: CaptionDataset) -> None:
    alone = CaptionDataset(
        "flickr30k", dataset.folder, dataset.photos, ("x",), (int(galleries.assign_cells(5, 2, 0)[1, 0]),), 0
    )
    assert alone.photo_of_caption[0] not in galleries.assign_cells(5, 1, seed=0)
    with pytest.raises(UsageError, match="make more: --mosaics"):
        galleries.caption_gallery(alone, FakeEncoder().encode_images, "squash", SIZE, mosaics=MosaicPlan(1))


def test_a_photo_that_cannot_be_read(dataset: CaptionDataset) -> None:
    (dataset.folder / "blue.png").write_bytes(b"no picture")
    gallery = galleries.caption_gallery(dataset, FakeEncoder().encode_images, "squash", SIZE)
    with pytest.raises(UsageError, match=r"blue\.png cannot be used \(not a picture in a known format\) - "):
        list(gallery.encoded)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for area in range(1, 24):
        paint_red(tmp_path / "photos" / f"{area:02d}.png", area)
    return tmp_path / "photos"


@pytest.mark.parametrize(("max_views", "kept"), [(None, 23), (23, 23), (99, 23), (10, 10), (15, 15), (1, 1)])
def test_views_of_an_index(tmp_path: Path, photos: Path, max_views: int | None, kept: int) -> None:
    with fake_engine(tmp_path / "index") as engine:
        engine.add(photos)
        gallery = galleries.index_gallery(engine.folder, engine.settings, max_views, 7, batch=4)
    pieces = list(gallery.encoded)
    assert max(len(piece.tokens) for piece in pieces) <= 4
    areas = (galleries.concatenate(pieces).tokens[..., 0] == 1).sum(1)
    assert gallery.views == kept == len(areas)
    assert areas.tolist() == [1 + i * 23 // kept for i in range(kept)]  # View ids follow the order of paths.
    assert (gallery.texts, gallery.relevant) == (phrases()[:7], None)
    assert gallery.notes == ((f"{kept} views of 23, evenly spaced",) if kept < 23 else ())
    assert galleries.index_gallery(engine.folder, engine.settings).texts == phrases()


def test_an_index_without_photos(tmp_path: Path) -> None:
    with fake_engine(tmp_path / "index") as engine, pytest.raises(UsageError, match="holds no photo"):
        galleries.index_gallery(engine.folder, engine.settings)


def test_a_lost_segment_is_noted(tmp_path: Path, photos: Path) -> None:
    with fake_engine(tmp_path / "index") as engine:
        engine.add(photos)
        paint_red(photos / "99.png", 40)
        engine.add(photos)
        next((tmp_path / "index" / "segments").glob("000001.tokens")).unlink()
        gallery = galleries.index_gallery(engine.folder, engine.settings)
    assert gallery.views == 1
    assert "is missing" in gallery.notes[0]


def cells_of(dataset: CaptionDataset, plan: MosaicPlan) -> list[tuple[int, int]]:
    """Return the photo and caption of each cell, mosaic by mosaic."""
    captions = [
        [i for i, photo in enumerate(dataset.photo_of_caption) if photo == number]
        for number in range(len(dataset.photos))
    ]
    cells, chosen = plan_mosaics([len(numbers) for numbers in captions], plan)
    return [(p, captions[p][n]) for p, n in zip(cells.ravel().tolist(), chosen.ravel().tolist(), strict=True)]


@pytest.mark.parametrize("plan", [MosaicPlan(5), MosaicPlan(3, side=4), MosaicPlan(4, side=2, factor=2)])
def test_truth_of_mosaics(dataset: CaptionDataset, plan: MosaicPlan) -> None:
    """Each cell has a caption. Its true boxes are all cells with its photo; it is annotated with its own mosaic."""
    gallery = galleries.mosaic_gallery(dataset, FakeEncoder().encode_images, "squash", SIZE, plan)
    cells, area = cells_of(dataset, plan), plan.side**2
    assert gallery.views == plan.count
    assert gallery.texts == [dataset.captions[caption] for _, caption in cells]
    assert gallery.truth.annotated.tolist() == [[i // area, i] for i in range(len(cells))]
    for text, (photo, _) in enumerate(cells):
        expected = [(i // area, i % area) for i, (other, _) in enumerate(cells) if other == photo]
        chosen = gallery.truth.label == gallery.truth.label_of_text[text]
        boxes = [
            (view, tuple(box))
            for view, box in zip(gallery.truth.view[chosen].tolist(), gallery.truth.box[chosen].tolist(), strict=True)
        ]
        edge = SIZE * plan.factor // plan.side
        corners = [(view, edge * (cell % plan.side), edge * (cell // plan.side)) for view, cell in expected]
        assert boxes == [(view, (left, top, left + edge, top + edge)) for view, left, top in corners]
    assert gallery.notes == ("2 empty captions were left out",)


def test_pictures_of_mosaics_show_what_the_truth_says(dataset: CaptionDataset) -> None:
    gallery = galleries.mosaic_gallery(dataset, FakeEncoder().encode_images, "squash", SIZE, MosaicPlan(40, seed=5))
    (pieces, frames) = zip(*gallery.encoded, strict=True)
    tokens = galleries.concatenate(pieces).tokens.reshape(40, 8, 8, -1)[..., :3].astype(int)
    assert {frame for batch in frames for frame in batch} == {Frame(SIZE, SIZE, 0, 0, SIZE, SIZE)}
    for (view, text), colour in zip(gallery.truth.annotated.tolist(), gallery.texts, strict=True):
        boxes = gallery.truth.box[
            (gallery.truth.view == view) & (gallery.truth.label == gallery.truth.label_of_text[text])
        ]
        for left, top, right, bottom in (boxes // 8).astype(int).tolist():
            seen = tokens[view, top:bottom, left + 1 : right]  # The first patch of a photo is half black.
            assert (seen == np.rint(np.array(COLOURS[colour.split()[0]]) / 127.5 - 1)).all()


def test_truth_of_pastes(dataset: CaptionDataset) -> None:
    gallery = galleries.paste_gallery(dataset, FakeEncoder().encode_images, "squash", SIZE, 30)
    plan = plan_pastes([1, 2, 3, 4, 5], 30, SIZE)
    assert (gallery.views, len(gallery.texts)) == (30, 30)
    assert (gallery.truth.box == plan.box).all()
    assert gallery.truth.annotated.tolist() == [[i, i] for i in range(30)]
    assert [NAMES.index(text.split()[0]) for text in gallery.texts] == plan.pasted.tolist()
    assert (gallery.truth.label_of_text == plan.pasted).all()
    assert (gallery.truth.label == plan.pasted).all()
    tokens = (
        galleries.concatenate(encoded for encoded, _ in gallery.encoded)
        .tokens.reshape(30, 8, 8, -1)[..., :3]
        .astype(int)
    )
    for view, (box, name) in enumerate(zip(plan.box.tolist(), gallery.texts, strict=True)):
        rows, left, right = slice(-(-box[1] // 8), box[3] // 8), box[0] + 0.2 * (box[2] - box[0]), box[2] // 8
        inside = tokens[view, rows, -int(-left // 8) : right]  # Whole patches to the right of the photo's black strip.
        assert (inside == np.rint(np.array(COLOURS[name.split()[0]]) / 127.5 - 1)).all()


def test_one_photo_cannot_be_pasted(dataset: CaptionDataset) -> None:
    alone = CaptionDataset("flickr30k", dataset.folder, dataset.photos[:1], ("red",), (0,), 0)
    with pytest.raises(UsageError, match="two photos at least"):
        galleries.paste_gallery(alone, FakeEncoder().encode_images, "squash", SIZE, 3)


def boxed(dataset: CaptionDataset, sizes: tuple[tuple[int, int], ...]) -> BoxDataset:
    places = (LabelledBox(1, 0, (5.5, 0, 64, 64)), LabelledBox(0, 1, (0, 0, 20, 64)), LabelledBox(0, 0, (1, 2, 3, 4)))
    words = ("something green", "the black part of the red")
    given = ((1, 0), (0, 1), (0, 2))
    return BoxDataset("mdetr", dataset.folder, dataset.photos[:2], sizes, words, places, (0, 1, 0), given, ("a note",))


def test_truth_of_boxes(dataset: CaptionDataset) -> None:
    gallery = galleries.box_gallery(boxed(dataset, ((128, 64), (128, 64))), FakeEncoder().encode_images, "squash", SIZE)
    assert (gallery.views, gallery.notes) == (2, ("a note",))
    assert gallery.texts == ["something green", "the black part of the red", "something green"]
    assert gallery.truth.view.tolist() == [1, 0, 0]
    assert gallery.truth.label.tolist() == [0, 1, 0]
    assert gallery.truth.label_of_text.tolist() == [0, 1, 0]
    assert gallery.truth.box[0].tolist() == [5.5, 0, 64, 64]
    assert gallery.truth.annotated.tolist() == [[1, 0], [0, 1], [0, 2]]
    ((encoded, frames),) = gallery.encoded
    assert frames == [Frame(128, 64, 0, 0, 128, 64)] * 2
    pictures = [decode((dataset.folder / photo).read_bytes(), "squash", SIZE)[0] for photo in dataset.photos[:2]]
    assert (encoded.tokens == FakeEncoder().encode_images(pictures).tokens).all()


def test_boxes_of_other_photos(dataset: CaptionDataset) -> None:
    """Photos that were resized or rotated after they were annotated are refused."""
    for size in ((64, 128), (256, 128)):
        gallery = galleries.box_gallery(boxed(dataset, ((128, 64), size)), FakeEncoder().encode_images, "squash", SIZE)
        with pytest.raises(UsageError, match=r"green\.png has 128 x 64 pixels upright, its boxes are in"):
            list(gallery.encoded)
