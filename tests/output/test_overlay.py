"""What is drawn on a photo, pixel by pixel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flairsearch.core.errors import FlairSearchError
from flairsearch.core.hits import Hit, PhraseMatch, Region
from flairsearch.core.types import Box, Frame
from flairsearch.output import overlay

BLUE = (20, 30, 140)
SIZE = (500, 375)
Pixels = NDArray[np.int64]


def phrase(text: str, *boxes: Box, score: float = 0.3123) -> PhraseMatch:
    regions = tuple(Region(box, 0.4 - 0.1 * i) for i, box in enumerate(boxes))
    return PhraseMatch(text, score, regions, np.zeros((4, 4), np.float32), Frame(*SIZE, 0, 0, *SIZE))


def make_hit(*phrases: PhraseMatch, size: tuple[int, int] = SIZE) -> Hit:
    regions = tuple(region for one in phrases for region in one.regions)
    return Hit(1, "/photos/1.jpg", 0.3, 0.2, *size, regions, phrases)


def paint(hit: Hit, size: tuple[int, int] = SIZE, heat: bool = False, colour: tuple[int, int, int] = BLUE) -> Pixels:
    """The drawn picture, i64[H, W, 3], and that the photo itself is left alone."""
    photo = Image.new("RGB", size, colour)
    drawn = overlay.draw_overlay(hit, photo, heat)
    assert drawn.mode == "RGB"
    assert drawn is not photo
    assert photo.getcolors() == [(size[0] * size[1], colour)]
    return np.asarray(drawn).astype(np.int64)


def is_colour(pixels: Pixels, colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    return (pixels == colour).all(-1)


def tag_box(pixels: Pixels, colour: tuple[int, int, int]) -> Box:
    """Around the plain parts of a label of that colour: where 3 x 9 pixels have it; lines are thinner."""
    whole = np.lib.stride_tricks.sliding_window_view(is_colour(pixels, colour), (9, 3)).all((-1, -2))
    rows, columns = np.nonzero(whole)
    assert len(rows), "no label"
    return int(columns.min()), int(rows.min()), int(columns.max()) + 3, int(rows.max()) + 9


def whole_size(text: str) -> tuple[int, int]:
    """Width and height of the tag_box of a label that nothing touches."""
    left, top, right, bottom = tag_box(paint(make_hit(phrase(text))), overlay.COLOURS[0])
    return right - left, bottom - top


def is_whole(tag: Box, text: str) -> bool:
    """As wide and high as the label is alone; its own box's line, 2 pixels, may add to the height."""
    wide, high = whole_size(text)
    return tag[2] - tag[0] == wide and 0 <= tag[3] - tag[1] - high <= 2


def overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def edge(box: Box, inside: int = 0) -> Iterator[tuple[int, int]]:
    """Pixels (row, column) along a box that is `inside` pixels smaller on each side."""
    left, top, right, bottom = (v + inside * s for v, s in zip(box, (1, 1, -1, -1), strict=True))
    for x in range(left, right):
        yield top, x
        yield bottom - 1, x
    for y in range(top, bottom):
        yield y, left
        yield y, right - 1


def test_box_lies_where_the_region_is() -> None:
    box = (140, 160, 290, 320)
    pixels = paint(make_hit(phrase("puppy", box)))
    assert pixels.shape == (375, 500, 3)
    colour, (left, top, right, bottom) = overlay.COLOURS[0], box
    for line in (0, 1):  # The line is 2 pixels wide in a picture of 500.
        assert all(tuple(pixels[at]) == colour for at in edge(box, line))
    assert is_colour(pixels[top + 2 : bottom - 2, left + 2 : right - 2], BLUE).all()
    tag = tag_box(pixels, colour)
    assert left <= tag[0] <= left + 3
    assert top - 30 < tag[1] < tag[3] <= top + 2  # The label is above, where there is room.
    around = [at for at in edge(box, -1) if at[0] >= top]
    assert all(pixels[at].sum() < sum(BLUE) for at in around)  # The hairline is dark.
    rest = is_colour(pixels, BLUE)
    rest[top - 30 : top, left : tag[2] + 5] = True  # The label is left out.
    rest[top - 1 : bottom + 1, left - 1 : right + 1] = True
    assert rest.all()


def test_other_regions_are_thinner_and_have_no_label() -> None:
    best, other = (140, 160, 290, 320), (320, 60, 420, 150)
    pixels = paint(make_hit(phrase("puppy", best, other)))
    colour = overlay.COLOURS[0]
    assert all(tuple(pixels[at]) == colour for at in edge(other))
    assert is_colour(pixels[61:149, 321:419], BLUE).all()
    assert is_colour(pixels[:59], BLUE).all()
    assert tag_box(pixels, colour)[3] <= 162


def test_photo_is_never_enlarged_and_large_ones_shrink_with_their_boxes() -> None:
    hit = make_hit(phrase("puppy", (1000, 1500, 2000, 2250)), size=(4000, 3000))
    for size, box in {(4000, 3000): (512, 768, 1024, 1152), (400, 300): (100, 150, 200, 225)}.items():
        pixels = paint(hit, size)
        assert pixels.shape[1::-1] == (min(size[0], 2048), min(size[1], 1536))
        line = 4 if size[0] == 4000 else 2
        assert all(tuple(pixels[at]) == overlay.COLOURS[0] for at in edge(box, line - 1))
        assert is_colour(pixels[box[1] + line : box[3] - line, box[0] + line : box[2] - line], BLUE).all()


def contrast(one: Pixels, other: Pixels) -> float:
    """Of two sRGB colours, as WCAG 2.1 counts it."""
    light = []
    for colour in (one, other):
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour / 255]
        light.append(float(np.dot(parts, (0.2126, 0.7152, 0.0722))) + 0.05)
    return max(light) / min(light)


def test_text_stands_out_from_its_label() -> None:
    phrases = [phrase("WWW", (60 * i, 60 + 40 * i, 60 * i + 50, 90 + 40 * i)) for i in range(7)]
    pixels = paint(make_hit(*phrases))
    for colour in overlay.COLOURS:
        left, top, right, bottom = tag_box(pixels, colour)
        inside = pixels[top + 3 : bottom - 3, left + 3 : right - 3].reshape(-1, 3)
        assert max(contrast(pixel, np.array(colour)) for pixel in inside) >= 4.5


@pytest.mark.parametrize("count", [2, 4, 7])
@pytest.mark.parametrize("box", [(0, 0, 500, 375), (200, 150, 260, 200), (490, 0, 500, 10), (0, 365, 10, 375)])
def test_labels_of_one_place_do_not_overlap(count: int, box: Box) -> None:
    text = "a long label, this one"
    pixels = paint(make_hit(*(phrase(text, box) for _ in range(count))))
    tags = [tag_box(pixels, colour) for colour in overlay.COLOURS[:count]]
    assert all(is_whole(tag, text) for tag in tags)
    assert not any(overlap(tags[i], tags[j]) for i in range(count) for j in range(i))


def test_a_label_without_a_free_place_takes_the_first() -> None:
    """The first of its places that lies in the picture: above the box, at its left edge."""
    assert overlay._find_position((30, 10), (40, 50, 90, 90), (100, 100), [(0, 0, 100, 100)]) == (40, 40, 70, 50)
    assert overlay._find_position((30, 10), (40, 50, 90, 90), (100, 100), []) == (40, 40, 70, 50)


def test_two_boxes_at_one_place_both_show() -> None:
    box = (100, 100, 300, 300)
    pixels = paint(make_hit(phrase("puppy", box), phrase("dog", box)))
    assert [tuple(pixels[200, x]) for x in (100, 101)] == [overlay.COLOURS[0]] * 2
    assert [tuple(pixels[200, x]) for x in (103, 104)] == [overlay.COLOURS[1]] * 2
    assert tuple(pixels[200, 105]) == BLUE


@pytest.mark.parametrize("top", [0, 180, 335])
@pytest.mark.parametrize("left", [0, 230, 460])
def test_boxes_at_every_edge_keep_their_label_in_the_photo(left: int, top: int) -> None:
    box = (left, top, left + 40, top + 40)
    pixels = paint(make_hit(phrase("a label wider than its box", box)))
    tag = tag_box(pixels, overlay.COLOURS[0])
    assert is_whole(tag, "a label wider than its box")
    covered = [at for at in edge(box) if not (tag[1] - 3 <= at[0] < tag[3] + 3 and tag[0] - 3 <= at[1] < tag[2] + 3)]
    assert len(covered) >= 60
    assert all(tuple(pixels[at]) == overlay.COLOURS[0] for at in covered)


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (2, 3), (8, 8), (30, 20), (4000, 3), (3, 4000)])
def test_smallest_photos_and_boxes(size: tuple[int, int]) -> None:
    width, height = size
    boxes = ((0, 0, 1, 1), (width - 1, height - 1, width, height), (0, 0, width, height), (0, 0, min(2, width), height))
    for box in boxes:
        hit = make_hit(phrase("a long text about it", box, box), phrase("more", box), size=size)
        pixels = paint(hit, size, heat=True)
        assert pixels.shape[1::-1] == tuple(max(1, round(side * min(1, 2048 / max(size)))) for side in size)


def test_long_text_is_cut_and_keeps_its_score() -> None:
    box = (140, 160, 290, 320)
    cut = paint(make_hit(phrase("m" * 20_000, box)))
    assert (cut == paint(make_hit(phrase("m" * 100, box)))).all()
    left, _, right, _ = tag_box(cut, overlay.COLOURS[0])
    assert 460 < right - left <= 500
    other = paint(make_hit(phrase("m" * 20_000, box, score=0.9876)))
    _, columns = np.nonzero((cut != other).any(-1))
    assert columns.min() > 440  # The score is at the end of the label.
    assert columns.max() < right


@pytest.mark.parametrize(
    ("text", "same"),
    [("two\n\tlines", "two lines"), ("a\u202eb\u200fc", "abc"), ("a\x1b[31m\0b", "a [31m b"), (" a\ud800 ", "a")],
)
def test_what_cannot_be_printed_is_left_out(text: str, same: str) -> None:
    box = (140, 160, 290, 320)
    assert (paint(make_hit(phrase(text, box))) == paint(make_hit(phrase(same, box)))).all()


@pytest.mark.parametrize("fonts", [True, False])
@pytest.mark.parametrize(
    "text", ["", "写真 🐶", "שלום עולם", "سلام", "हिन्दी", "👩\u200d👩\u200d👧", "a" + "\u0301" * 900]
)
def test_any_writing_is_drawn(text: str, fonts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fonts:
        monkeypatch.setattr(overlay, "_FALLBACK_FONTS", ())
    box = (140, 160, 290, 320)
    pixels = paint(make_hit(phrase(text, box)))
    assert tag_box(pixels, overlay.COLOURS[0])[3] <= 162


def test_text_is_drawn_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    box = (140, 160, 290, 320)
    marked, plain = (paint(make_hit(phrase(text, box))) for text in ("[red]a[/red]", "a"))
    assert tag_box(marked, overlay.COLOURS[0])[2] > tag_box(plain, overlay.COLOURS[0])[2] + 30
    monkeypatch.setattr(overlay, "_FALLBACK_FONTS", ("no such font.ttf",))
    accents, none = (paint(make_hit(phrase(text, box))) for text in ("Käse à la crème", "Kase a la creme"))
    assert (accents == none).all()  # The letters are left out.


GREY = (128, 128, 128)
FRAMES = {
    "squash": Frame(*SIZE, 0, 0, *SIZE),
    "center": Frame(*SIZE, 62.5, 0, 437.5, 375),
    "tile": Frame(*SIZE, 200, 75, 440, 315),
}


def heated(*phrases: tuple[NDArray[np.float32], Frame]) -> Pixels:
    """On a grey photo; phrases without a region, so that there are no boxes: labels in the upper left corner only."""
    hit = make_hit(*(replace(phrase("i"), heat=heat.astype(np.float32), frame=frame) for heat, frame in phrases))
    return paint(hit, heat=True, colour=GREY)


def one_hot(row: int, column: int, grid: int = 8) -> NDArray[np.float32]:
    heat = np.zeros((grid, grid), np.float32)
    heat[row, column] = 1
    return heat


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize(("row", "column"), [(6, 5), (7, 7), (2, 6)])
def test_heat_is_brightest_where_it_is(name: str, row: int, column: int) -> None:
    frame = FRAMES[name]
    pixels = heated((one_hot(row, column), frame))
    pixels[:40, :100] = GREY  # The label is left out.
    x = frame.left + (column + 0.5) / 8 * (frame.right - frame.left)
    y = frame.top + (row + 0.5) / 8 * (frame.bottom - frame.top)
    light = pixels.sum(-1)
    rows, columns = np.nonzero(light == light.max())
    assert abs(rows.mean() + 0.5 - y) < 12  # A patch has 30 to 62 pixels.
    assert abs(columns.mean() + 0.5 - x) < 16
    red, green, blue = pixels[int(y), int(x)]
    assert red > 200 > green - 20
    assert red >= green > blue
    left, top, right, bottom = (round(v) for v in (frame.left, frame.top, frame.right, frame.bottom))
    outside = np.ones(pixels.shape[:2], bool)
    outside[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = False
    outside[:40, :100] = False
    assert is_colour(pixels[outside], (64, 64, 64)).all()  # No view covers this part.
    far = pixels[top + (0 if row > 3 else 150) :, left:right][:60, 110:130]
    assert is_colour(far, GREY).all()  # Cold parts are grey.


def test_heat_of_several_phrases_is_the_largest() -> None:
    pixels = heated((one_hot(6, 1), FRAMES["squash"]), (one_hot(6, 6) * 7 - 3, FRAMES["squash"]))
    row = 375 * 13 // 16
    assert (np.abs(pixels[row, 500 * 3 // 16] - pixels[row, 500 * 13 // 16]) <= 2).all()
    assert pixels[row, 93].min() > 140
    assert tuple(pixels[row, 250]) == GREY


def test_heat_of_any_numbers() -> None:
    rng = np.random.default_rng(0)
    heat = rng.random((14, 14)).astype(np.float32)
    pixels = heated((heat, FRAMES["tile"]))
    assert np.abs(pixels - heated((1000 * heat - 3000, FRAMES["tile"]))).max() <= 3
    for flat in (np.zeros((8, 8)), np.full((8, 8), -2.5), np.full((8, 8), np.nan)):
        assert is_colour(heated((flat, FRAMES["squash"]))[40:], GREY).all()
    heated((np.array([[np.inf, 1.0], [0.0, -np.inf]]), FRAMES["squash"]))


def test_heat_grows_lighter_with_its_strength() -> None:
    ramp = np.repeat(np.linspace(-20, 20, 25, dtype=np.float32)[None], 25, 0)
    hit = make_hit(replace(phrase("i"), heat=ramp, frame=FRAMES["squash"]))
    row = paint(hit, heat=True, colour=(0, 0, 0))[200] @ np.array([0.2126, 0.7152, 0.0722])
    assert (row[:240] == 0).all()
    assert (np.diff(row) > -0.5).all()
    assert row[-1] > 150


def test_heat_lets_the_photo_through() -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (375, 500, 3), np.uint8))
    hit = make_hit(replace(phrase("i"), heat=one_hot(5, 5), frame=FRAMES["squash"]))
    drawn = np.asarray(overlay.draw_overlay(hit, photo, heat=True)).astype(float)[60:].mean(-1)
    grey = np.asarray(photo.convert("L")).astype(float)[60:]
    hottest = np.s_[190:200, 335:355]  # These pixels are in rows 250 to 260 of the photo.
    assert np.corrcoef(drawn[hottest].ravel(), grey[hottest].ravel())[0, 1] > 0.5
    assert drawn[hottest].std() > 10


@pytest.mark.parametrize("name", ["1.jpg", "1.png", "1.webp"])
def test_overlay_is_saved(tmp_path: Path, name: str) -> None:
    hit = make_hit(phrase("puppy", (140, 160, 290, 320)))
    path = tmp_path / "new" / "folder" / name
    overlay.save_overlay(hit, Image.new("RGB", SIZE, BLUE), path)
    with Image.open(path) as saved:
        found = np.asarray(saved.convert("RGB")).astype(int)
    assert np.abs(found - paint(hit)).mean() < 3
    overlay.save_overlay(hit, Image.new("RGB", SIZE, BLUE), path, heat=True)


def test_overlay_that_cannot_be_saved(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file" / "1.jpg", tmp_path / "1.nothing"):
        with pytest.raises(FlairSearchError) as caught:
            overlay.save_overlay(make_hit(phrase("puppy", (1, 1, 9, 9))), Image.new("RGB", SIZE), bad)
        assert len(str(caught.value).splitlines()) == 1
