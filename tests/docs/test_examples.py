"""Example images of a query: how they and their boxes are read from files, and which scores they give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flairsearch.core.errors import PictureError, UsageError
from flairsearch.core.types import Box, Frame
from flairsearch.images.decoding import decode, read_part
from flairsearch.rerank.torch_backend import TorchPool
from tests.support.fake import COLOURS, SIZE, FakeEncoder, exif_of, expected_score, paint

WIDTH, HEIGHT = 320, 200
MARKS = {"red": (0, 0, 100, 60), "green": (200, 20, 320, 120), "blue": (40, 100, 140, 200)}
# EXIF orientation -> the transposition that stores an upright picture.
TURN_BACK = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def save_photo(path: Path, orientation: int = 1) -> Path:
    upright = Image.new("RGB", (WIDTH, HEIGHT))
    for colour, box in MARKS.items():
        upright.paste(COLOURS[colour], box)
    turn = TURN_BACK[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    stored.save(path, exif=exif_of(tag_0x0112=orientation))
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_is_cut_out_of_the_upright_photo(tmp_path: Path, orientation: int) -> None:
    path = save_photo(tmp_path / "photo.png", orientation)
    for colour, box in MARKS.items():
        picture = read_part(str(path), box, 48)
        assert picture.pixels.shape == (48, 48, 3)
        assert picture.pixels.dtype == np.uint8
        assert (
            picture.pixels == COLOURS[colour]
        ).all()  # Nothing around the box is in the picture, not even at its edge.
        assert picture.frame == Frame(WIDTH, HEIGHT, *box)
        wider = (max(box[0] - 1, 0), max(box[1] - 1, 0), min(box[2] + 1, WIDTH), min(box[3] + 1, HEIGHT))
        assert (read_part(str(path), wider, 48).pixels != COLOURS[colour]).any()


def test_it_comes_from_full_resolution(tmp_path: Path) -> None:
    """A box as large as the model's square gives its very pixels; the whole image gives the view that an index has."""
    pixels = np.random.default_rng(0).integers(0, 256, (600, 900, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    path = str(tmp_path / "noise.png")
    assert np.array_equal(read_part(path, (500, 300, 532, 332), 32).pixels, pixels[300:332, 500:532])
    whole = read_part(path, None, 32)
    (view,) = decode((tmp_path / "noise.png").read_bytes(), "squash", 32)
    assert np.array_equal(whole.pixels, view.pixels)
    assert whole.frame == view.frame == Frame(900, 600, 0, 0, 900, 600)
    assert np.array_equal(read_part(path, (0, 0, 900, 600), 32).pixels, whole.pixels)
    assert (read_part(path, (899, 599, 900, 600), 32).pixels == pixels[599, 899]).all()


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, WIDTH + 1, HEIGHT),
        (0, 0, WIDTH, HEIGHT + 1),
        (-1, 0, 20, 20),
        (0, -1, 20, 20),
        (30, 0, 30, 20),
        (30, 20, 40, 10),
        (1000, 1000, 2000, 2000),
    ],
)
def test_a_box_outside(tmp_path: Path, box: Box) -> None:
    path = save_photo(tmp_path / "photo.png", 6)
    with pytest.raises(UsageError) as caught:
        read_part(str(path), box, 48)
    (line,) = str(caught.value).splitlines()
    assert line == f"box: {','.join(map(str, box))} is not inside of {path} - it has 320 x 200 pixels, upright"


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "words.jpg").write_text("no picture")
    whole = save_photo(tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    reasons = {
        "gone.jpg": "no such file or directory",
        "empty.jpg": "the file is empty",
        "words.jpg": "not a picture in a known format",
        "cut.png": "damaged",
        "whole.png": "more than 0 megapixels",
    }
    for name, reason in reasons.items():
        most = WIDTH * HEIGHT - (name == "whole.png")
        with pytest.raises(PictureError) as caught:
            read_part(str(tmp_path / name), None, 48, max_pixels=most)
        (line,) = str(caught.value).splitlines()
        assert line.startswith(f"{tmp_path / name}: {reason}")


def test_a_painted_region_asks_for_its_colour(tmp_path: Path) -> None:
    """A box that is mostly of one colour gives the same query and scores as the text that names the colour."""
    half, encoder = SIZE // 2, FakeEncoder()
    much = paint(tmp_path / "much.png", [("red", (0, 0, half, SIZE)), ("blue", (half, 0, SIZE, half))])
    little = paint(tmp_path / "little.png", [("red", (0, 0, half, half)), ("blue", (half, 0, SIZE, SIZE))])
    tokens = encoder.encode_images([read_part(str(path), None, SIZE) for path in (much, little)]).tokens
    example = str(save_photo(tmp_path / "example.png"))
    boxes = {"red": (10, 10, 120, 50), "blue": (50, 90, 140, 200)}
    parts = [read_part(example, box, SIZE) for box in boxes.values()]
    queries, texts = encoder.encode_image_queries(parts, ["one", "two"]), encoder.encode_texts(list(boxes))
    assert [query.text for query in queries] == ["one", "two"]
    for query, text in zip(queries, texts, strict=True):
        for a, b in ((query.vector, text.vector), (query.u, text.u), (query.c, text.c)):
            np.testing.assert_array_equal(a, b)
    scores = TorchPool(encoder.pool_weights).score_many([tokens], queries)
    more, less = expected_score(32), expected_score(16)
    np.testing.assert_allclose(scores, [[more, less], [less, more]], atol=1e-3)
