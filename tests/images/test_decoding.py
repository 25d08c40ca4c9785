"""Decoding: colour modes, orientations, frames, tiles, dates, and files that are damaged or hostile."""

import os
import struct
import zlib
from datetime import datetime
from io import BytesIO
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from flairsearch.core.dates import clock_seconds
from flairsearch.core.errors import PictureError
from flairsearch.core.types import Frame
from flairsearch.images import decoding
from flairsearch.images.decoding import content_hash, decode, open_upright, read_bytes
from tests.support.fake import COLOURS, SIZE, exif_of, paint

ORIENTATION = 0x0112
# This maps an EXIF orientation to the transposition that a camera applies to an upright picture before storing it.
STORED_AS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def save(picture, kind="PNG", **options):
    """The bytes of a file of the picture."""
    stream = BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def decode_view(data, views="squash", size=SIZE, **options):
    """The only view of a photo."""
    (picture,) = decode(data, views, size, **options)
    assert picture.pixels.shape == (size, size, 3)
    assert picture.pixels.dtype == np.uint8
    return picture


def centre(picture):
    """The colour in the middle."""
    return tuple(int(value) for value in picture.pixels[SIZE // 2, SIZE // 2])


def red_box(picture):
    """The bounding box of the red pixels, in view coordinates."""
    pixels = picture.pixels.astype(int)
    rows, columns = np.nonzero((pixels[..., 0] > 128) & (pixels[..., 1] < 128) & (pixels[..., 2] < 128))
    size = len(pixels)
    return columns.min() / size, rows.min() / size, (columns.max() + 1) / size, (rows.max() + 1) / size


def noise(width, height, seed=0, smooth=1):
    """A picture of random colours, smoothed over `smooth` pixels."""
    small = np.random.default_rng(seed).integers(0, 256, (height // smooth, width // smooth, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


# -- Modes


def in_mode(mode):
    """A picture of one colour, and that colour in RGB."""
    size = (40, 30)
    palette = Image.new("P", size, 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    deep = Image.fromarray(np.full(size[::-1], 128 * 257, np.uint16))
    return {
        "1": (Image.new("1", size, 1), (255, 255, 255)),
        "L": (Image.new("L", size, 77), (77, 77, 77)),
        "LA": (Image.new("LA", size, (77, 255)), (77, 77, 77)),
        "P": (palette, (200, 100, 50)),
        "RGB": (Image.new("RGB", size, (1, 2, 3)), (1, 2, 3)),
        "RGBA": (Image.new("RGBA", size, (9, 8, 7, 255)), (9, 8, 7)),
        "I;16": (deep, (128, 128, 128)),
    }[mode]


def test_every_mode_becomes_the_same_colour_in_rgb(subtests):
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        with subtests.test(mode):
            picture, colour = in_mode(mode)
            assert centre(decode_view(save(picture))) == colour


def test_cmyk(tmp_path):
    red = decode_view(save(Image.new("CMYK", (40, 30), (0, 255, 255, 0)), "JPEG", quality=95))
    np.testing.assert_allclose(centre(red), COLOURS["red"], atol=3)
    paint(tmp_path / "wide.tiff")
    assert centre(decode_view(save(Image.new("CMYK", (40, 30), (255, 0, 0, 0)), "TIFF"))) == COLOURS["cyan"]


def test_sixteen_bits_keep_their_steps():
    ramp = np.repeat(np.linspace(0, 65535, SIZE).astype(np.uint16)[None], SIZE, 0)
    row = decode_view(save(Image.fromarray(ramp))).pixels[SIZE // 2, :, 0].astype(int)
    np.testing.assert_allclose(row, np.linspace(0, 255, SIZE), atol=1.5)


@given(alpha=st.integers(0, 255), kind=st.sampled_from(["PNG", "WEBP"]))
@example(alpha=0, kind="PNG")
@example(alpha=128, kind="PNG")
@example(alpha=255, kind="PNG")
@example(alpha=0, kind="WEBP")
@example(alpha=128, kind="WEBP")
@example(alpha=255, kind="WEBP")
def test_transparency_is_over_white(alpha, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    colour = centre(decode_view(save(Image.new("RGBA", (20, 20), (200, 0, 0, alpha)), kind, **options)))
    share = alpha / 255
    np.testing.assert_allclose(colour, [share * c + (1 - share) * 255 for c in (200, 0, 0)], atol=1)


def test_a_transparent_palette_colour_is_over_white():
    picture = Image.new("P", (20, 20), 0)
    picture.putpalette([200, 0, 0, 0, 200, 0])
    assert centre(decode_view(save(picture, transparency=0))) == (255, 255, 255)
    assert centre(decode_view(save(Image.new("RGB", (20, 20), (9, 9, 9)), transparency=(9, 9, 9)))) == (255, 255, 255)


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (20, 20), COLOURS[name]) for name in ("red", "green", "blue")]
    data = save(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)
    assert centre(decode_view(data)) == COLOURS["red"]


# -- Orientation and frames


def photo_in_orientation(orientation, kind, size=(96, 48), box=(60, 6, 84, 18)):
    """A file of an upright picture, red in one box, as a camera stores it in that orientation."""
    upright = Image.new("RGB", size, "white")
    upright.paste(COLOURS["red"], box)
    how = STORED_AS[orientation]
    stored = upright if how is None else upright.transpose(how)
    if kind == "TIFF":
        return save(stored, "TIFF", tiffinfo={ORIENTATION: orientation})
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    return save(stored, kind, exif=exif, **options.get(kind, {}))


def test_a_painted_square_maps_to_its_box_whatever_the_orientation(tmp_path, subtests):
    box = (60, 6, 84, 18)
    for orientation, kind in product(STORED_AS, ("JPEG", "PNG", "WEBP", "TIFF")):
        with subtests.test(kind, orientation=orientation):
            data = photo_in_orientation(orientation, kind)
            picture = decode_view(data, size=96)
            frame = picture.frame
            assert (frame.width, frame.height) == (96, 48)
            np.testing.assert_allclose(red_box(picture), (60 / 96, 6 / 48, 84 / 96, 18 / 48), atol=1.01 / 96)
            np.testing.assert_allclose(frame.to_pixels(*red_box(picture)), box, atol=1)
            np.testing.assert_allclose(frame.to_view(box), (60 / 96, 6 / 48, 84 / 96, 18 / 48))
            (tmp_path / "photo").write_bytes(data)
            shown = np.asarray(open_upright(str(tmp_path / "photo")), int)
            assert shown.shape == (48, 96, 3)
            assert shown[12, 72, 1] < 30
            assert shown[36, 24, 1] > 225


def test_the_center_view_maps_to_the_right_box_too(subtests):
    box = (60, 6, 72, 18)
    for orientation in STORED_AS:
        with subtests.test(orientation=orientation):
            picture = decode_view(photo_in_orientation(orientation, "PNG", box=box), "center", 48)
            frame = picture.frame
            assert (frame.left, frame.top, frame.right, frame.bottom) == (24, 0, 72, 48)
            np.testing.assert_allclose(red_box(picture), (36 / 48, 6 / 48, 1, 18 / 48), atol=1e-6)
            assert frame.to_pixels(*red_box(picture)) == box
            np.testing.assert_allclose(frame.to_view((0, 0, 96, 48)), (-0.5, 0, 1.5, 1))


def test_boxes_stay_inside_the_picture_and_have_a_pixel():
    frame = decode_view(save(noise(100, 50)), "center", 64).frame
    assert frame.to_pixels(-1, -1, 2, 2) == (0, 0, 100, 50)
    assert frame.to_pixels(0.5, 0.5, 0.5, 0.5) == (50, 25, 51, 26)
    assert frame.to_pixels(3, 3, 4, 4) == (99, 49, 100, 50)


def test_a_broken_or_senseless_orientation_is_no_orientation():
    upright = Image.new("RGB", (40, 20), "white")
    for value in (0, 9, 99):
        exif = Image.Exif()
        exif[ORIENTATION] = value
        assert decode_view(save(upright, "JPEG", exif=exif)).frame.width == 40
    assert decode_view(save(upright, "JPEG", exif=b"Exif\0\0no exif at all")).frame.width == 40


# -- Views


@given(width=st.integers(40, 300), height=st.integers(40, 300))
@example(width=300, height=200)
@example(width=200, height=301)
@example(width=224, height=224)
@example(width=65, height=64)
@example(width=40, height=90)
@example(width=1000, height=63)
@example(width=64, height=2048)
def test_center_is_the_reference_preprocessing(width, height):
    from open_clip import image_transform

    picture = noise(width, height, smooth=2)
    reference = image_transform(SIZE, is_train=False, mean=(0, 0, 0), std=(1, 1, 1))(picture)
    expected = reference.permute(1, 2, 0).numpy() * 255
    found = decode_view(save(picture), "center").pixels
    assert np.abs(found - expected).max() <= 1.001


def test_squash_shows_the_whole_picture():
    picture = noise(300, 200, smooth=4)
    found = decode_view(save(picture))
    expected = np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(found.pixels, expected)
    frame = found.frame
    assert (frame.left, frame.top, frame.right, frame.bottom) == (0, 0, 300, 200)


@pytest.mark.parametrize("views", ["squash", "center"])
def test_draft_mode_of_jpeg_changes_little(views):
    data = save(noise(1200, 900, smooth=30), "JPEG", quality=90)
    quick, full = decode_view(data, views), decode_view(data, views, draft=False)
    assert quick.frame == full.frame
    difference = np.abs(quick.pixels.astype(int) - full.pixels)
    assert 0 < difference.mean() < 2
    assert difference.max() < 30


def test_thin_pictures_need_no_more_memory_than_others(subtests):
    made = []
    new = Image.Image._new

    def watch(self, core):
        made.append(core.size[0] * core.size[1])
        return new(self, core)

    for size, views in product([(60_000, 1), (1, 60_000), (1, 1)], ("squash", "center")):
        with subtests.test(views, size=size):
            made.clear()
            data = save(Image.new("RGB", size, COLOURS["red"]))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Image.Image, "_new", watch)
                assert centre(decode_view(data, views)) == COLOURS["red"]
            assert max(made) <= max(SIZE * SIZE, size[0] * size[1])


# -- Tiles

UPRIGHT = (480, 320)  # tiles:4 makes 3 x 2 tiles of 206 pixels.
LEFTS, TOPS = (0, 137, 274), (0, 114)
# Small coloured squares: colour, box in the upright photo, and the tiles that contain the whole square.
MARKS = [
    ("red", (4, 4, 24, 24), {0}),
    ("green", (150, 120, 170, 140), {0, 1, 3, 4}),
    ("blue", (290, 8, 310, 28), {1, 2}),
    ("yellow", (460, 300, 480, 320), {5}),
    ("magenta", (230, 290, 250, 310), {4}),
    ("cyan", (100, 120, 120, 140), {0, 3}),
]


def marked(orientation, kind):
    """A file of an upright picture with the marks, as a camera stores it in that orientation."""
    upright = Image.new("RGB", UPRIGHT, "black")
    for colour, box, _ in MARKS:
        upright.paste(COLOURS[colour], box)
    stored = upright if STORED_AS[orientation] is None else upright.transpose(STORED_AS[orientation])
    options = {"tiffinfo": {ORIENTATION: orientation}} if kind == "TIFF" else {"exif": exif_of(tag_0x0112=orientation)}
    return save(stored, kind, **options, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))


def box_of_colour(pixels, colour):
    """The bounding box, in view coordinates, of pixels close to a colour; None if there are none."""
    rows, columns = np.nonzero(np.abs(pixels.astype(int) - COLOURS[colour]).max(-1) < 100)
    if not len(rows):
        return None
    size = len(pixels)
    return columns.min() / size, rows.min() / size, (columns.max() + 1) / size, (rows.max() + 1) / size


def test_marks_appear_in_their_tiles_at_the_right_boxes(subtests):
    for orientation, kind in product(STORED_AS, ("JPEG", "PNG", "TIFF")):
        with subtests.test(kind, orientation=orientation):
            check_marks(orientation, kind)


def check_marks(orientation, kind):
    whole, *tiles = decode(marked(orientation, kind), "tiles:4", 206)  # Views of this size are not resized.
    assert whole.frame == Frame(*UPRIGHT, 0, 0, *UPRIGHT)
    assert [(t.frame.left, t.frame.top) for t in tiles] == [(left, top) for top in TOPS for left in LEFTS]
    for number, tile in enumerate(tiles):
        frame = tile.frame
        assert (frame.width, frame.height, frame.right - frame.left, frame.bottom - frame.top) == (*UPRIGHT, 206, 206)
        for colour, box, containing in MARKS:
            found = box_of_colour(tile.pixels, colour)
            if number in containing:
                assert frame.to_pixels(*found) == box
            else:  # The tile may show a part of the mark.
                assert found is None or frame.to_pixels(*found) != box
    for colour, box, _ in MARKS:
        np.testing.assert_allclose(whole.frame.to_pixels(*box_of_colour(whole.pixels, colour)), box, atol=2)


def test_a_tile_equals_a_crop_of_the_upright_photo(subtests):
    for orientation in STORED_AS:
        with subtests.test(orientation=orientation):
            check_tiles(orientation)


def check_tiles(orientation):
    upright = noise(*UPRIGHT, smooth=20)
    stored = upright if STORED_AS[orientation] is None else upright.transpose(STORED_AS[orientation])
    data = save(stored, exif=exif_of(tag_0x0112=orientation))
    whole, *tiles = decode(data, "tiles:4", SIZE)
    np.testing.assert_array_equal(whole.pixels, decode_view(data).pixels)
    for tile in tiles:
        frame = tile.frame
        box = (frame.left, frame.top, frame.right, frame.bottom)
        expected = upright.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box)
        # Rows and columns may be resized in another order.
        assert np.abs(tile.pixels.astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_with_enough_pixels_for_its_tiles(orientation, monkeypatch):
    """It is decoded at 1/4 of its size, where a tile is still twice the view; a painted square keeps its box."""
    decoded = []
    to_rgb = decoding._to_rgb
    monkeypatch.setattr(decoding, "_to_rgb", lambda picture: decoded.append(picture.size) or to_rgb(picture))
    upright = noise(1600, 1200, smooth=40).convert("L").convert("RGB")
    upright.paste(COLOURS["red"], (700, 500, 740, 540))
    stored = upright if orientation == 1 else upright.transpose(STORED_AS[orientation])
    data = save(stored, "JPEG", exif=exif_of(tag_0x0112=orientation), quality=95)
    views, full = decode(data, "tiles:4", SIZE), decode(data, "tiles:4", SIZE, draft=False)
    # Each is decoded once; a single view would use 1/8.
    assert [sorted(size) for size in decoded] == [[300, 400], [1200, 1600]]
    assert len(views) == 7
    for quick, exact in zip(views, full, strict=True):
        assert quick.frame == exact.frame
        assert np.abs(quick.pixels.astype(int) - exact.pixels).mean() < 2
    tiles = [view for view in views[1:] if view.frame.left <= 700 and view.frame.right >= 740 and view.frame.top <= 500]
    tiles = [view for view in tiles if view.frame.bottom >= 540]
    assert tiles
    for view in tiles:
        # The tolerance is a little more than one pixel of the view.
        np.testing.assert_allclose(view.frame.to_pixels(*red_box(view)), (700, 500, 740, 540), atol=9)


def test_all_views_have_the_date():
    exif = exif_of({0x9003: "2024:05:17 14:00:09"})
    views = decode(save(noise(300, 300), "JPEG", exif=exif), "tiles:9", SIZE)
    assert len(views) == 10
    assert {view.taken for view in views} == {clock_seconds(datetime(2024, 5, 17, 14, 0, 9))}


def test_tiles_of_tiny_and_thin_photos(subtests):
    for size in ((1, 1), (1, 5000), (5000, 1), (30, 30), (2, 700), (60_000, 1)):
        with subtests.test(size=size):
            views = decode(save(Image.new("RGB", size, COLOURS["red"])), "tiles:4", SIZE)
            assert len(views) == (1 if max(size) < SIZE else 7)
            for view in views:
                frame = view.frame
                assert view.pixels.shape == (SIZE, SIZE, 3)
                assert (view.pixels == COLOURS["red"]).all()
                assert frame.to_pixels(0, 0, 1, 1) == (frame.left, frame.top, frame.right, frame.bottom)


def test_tiles_of_deep_grey_and_of_transparency():
    deep = np.full((200, 200), 128 * 257, np.uint16)
    deep[:100, 100:] = 65535
    _, first, second, *_ = decode(save(Image.fromarray(deep)), "tiles:4", SIZE)
    assert tuple(first.pixels[SIZE // 2, SIZE // 3]) == (128, 128, 128)
    assert tuple(second.pixels[SIZE // 3, SIZE // 2]) == (255, 255, 255)
    clear = Image.new("RGBA", (200, 200), (200, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (0, 0, 100, 200))
    _, first, second, *_ = decode(save(clear), "tiles:4", SIZE)
    assert tuple(first.pixels[SIZE // 2, SIZE // 3]) == COLOURS["blue"]
    assert tuple(second.pixels[SIZE // 3, SIZE - 9]) == COLOURS["white"]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bad_file_raises_with_tiles_too():
    for name, (data, reason) in BAD.items():
        if name != "empty":
            with pytest.raises(PictureError, match=reason):
                decode(data, "tiles:4", SIZE)


# -- Hostile input


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_claiming(width, height):
    """A tiny PNG whose header claims this size."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


PHOTO = save(noise(80, 60, smooth=4), "JPEG")
BAD = {
    "empty": (b"", "the file is empty"),
    "text": (b"this is no photo\n" * 20, "not a picture in a known format"),
    "header only": (PHOTO[:20], "not a picture|damaged"),
    "half a JPEG": (PHOTO[: len(PHOTO) // 2], "damaged .*truncated"),
    "half a PNG": (save(noise(80, 60))[:3000], "damaged .*truncated"),
    "claims 3,600 megapixels": (png_claiming(60_000, 60_000), "more than 178 megapixels"),
    "claims 178 megapixels and a row": (png_claiming(17_800, 10_001), "more than 178 megapixels"),
    "zero wide": (png_claiming(0, 10), "damaged|not a picture"),
    "claims more than it has": (png_claiming(300, 300), "damaged"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bad_file_raises_a_reason_of_one_line(tmp_path, subtests):
    file = tmp_path / "photo.jpg"
    for name, (data, reason) in BAD.items():
        with subtests.test(name):
            file.write_bytes(data)
            with pytest.raises(PictureError, match=reason) as caught:
                decode(read_bytes(str(file)), "squash", SIZE)
            assert "\n" not in str(caught.value)
            with pytest.raises(PictureError, match=reason) as caught:
                open_upright(str(file))
            assert str(caught.value).startswith(f"{file}: ")
            assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_never_raise_anything_else():
    rng = np.random.default_rng(1)
    kinds = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM")
    originals = [save(noise(48, 32, smooth=4), kind) for kind in kinds]
    refused = 0
    for turn in range(300):
        data = bytearray(originals[turn % len(kinds)])
        for place in rng.integers(0, min(len(data), 400), 1 + turn % 8):
            data[place] = rng.integers(256)
        try:
            decode_view(bytes(data[: len(data) - turn % 3]))
        except PictureError:
            refused += 1
    assert 50 < refused < 300


def test_the_format_does_not_depend_on_the_name(tmp_path):
    file = paint(tmp_path / "photo.png", [("red", (0, 0, SIZE, SIZE))])
    file = file.rename(tmp_path / "photo.jpg")
    assert centre(decode_view(read_bytes(str(file)))) == COLOURS["red"]


def test_files_that_cannot_be_read(open_folder, as_user):
    locked = open_folder / "locked.jpg"
    locked.write_bytes(PHOTO)
    locked.chmod(0)
    with as_user(), pytest.raises(PictureError, match=r"^permission denied$"):
        read_bytes(str(locked))
    with pytest.raises(PictureError, match=r"^no such file or directory$"):
        read_bytes(str(open_folder / "gone.jpg"))
    with pytest.raises(PictureError, match=r"^is a directory$"):
        read_bytes(str(open_folder))
    huge = open_folder / "huge.jpg"
    with huge.open("wb") as stream:
        stream.truncate(2_000_000)
    with pytest.raises(PictureError, match=r"^2 MB is more than the 0 MB a photo may have$"):
        read_bytes(str(huge), max_bytes=1000)


# -- Dates

ORIGINAL, DIGITIZED, CHANGED = 0x9003, 0x9004, "tag_0x0132"
MAY = datetime(2024, 5, 17, 14, 0, 9)
KINDS = ("JPEG", "PNG", "WEBP", "TIFF")


def date_of(exif, kind="JPEG"):
    """The date of a photo with that EXIF; the photo itself must decode."""
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    picture = decode_view(save(Image.new("RGB", (40, 20), COLOURS["red"]), kind, exif=exif, **options))
    np.testing.assert_allclose(centre(picture), COLOURS["red"], atol=3)
    assert sorted((picture.frame.width, picture.frame.height)) == [20, 40]
    return picture.taken


@pytest.mark.parametrize("kind", KINDS)
def test_the_date_of_a_photo_is_when_it_was_taken_else_scanned_else_changed(kind):
    original, digitized, changed = "2024:05:17 14:00:09", "2020:02:29 00:00:00", "2021:12:31 23:59:59"
    assert date_of(exif_of({ORIGINAL: original, DIGITIZED: digitized}, **{CHANGED: changed}), kind) == clock_seconds(
        MAY
    )
    found = date_of(exif_of({DIGITIZED: digitized}, **{CHANGED: changed}), kind)
    assert found == clock_seconds(datetime(2020, 2, 29))
    assert date_of(exif_of(**{CHANGED: changed}), kind) == clock_seconds(datetime(2021, 12, 31, 23, 59, 59))
    nothing = date_of(exif_of({ORIGINAL: "0000:00:00 00:00:00"}, **{CHANGED: changed}), kind)
    assert nothing == clock_seconds(datetime(2021, 12, 31, 23, 59, 59))
    assert date_of(exif_of(), kind) is None


def test_a_photo_without_exif_has_no_date():
    for kind in (*KINDS, "GIF", "BMP", "PPM"):
        assert decode_view(save(noise(40, 20), kind)).taken is None


def test_a_rotated_photo_has_its_date_too(subtests):
    for orientation in STORED_AS:
        with subtests.test(orientation=orientation):
            exif = exif_of({ORIGINAL: "2024:05:17 14:00:09"}, tag_0x0112=orientation)
            picture = decode_view(save(Image.new("RGB", (40, 20)), "JPEG", exif=exif), draft=True)
            assert picture.taken == clock_seconds(MAY)
            assert (picture.frame.width, picture.frame.height) == ((20, 40) if orientation > 4 else (40, 20))


DATES_AS_WRITTEN = {
    "2024:05:17 14:00:09": MAY,
    b"2024:05:17 14:00:09": MAY,
    "2024:05:17 14:00:09\0": MAY,
    "2024:05:17 14:00:09.25+02:00": MAY,
    "2024-05-17T14:00:09Z": MAY,
    " 2024/05/17 14:00:09": MAY,
    "2024:05:17 14:00": datetime(2024, 5, 17, 14),
    "2024:05:17": datetime(2024, 5, 17),
    "2024:05:17   :  :  ": datetime(2024, 5, 17),
    "1880:01:01 00:00:00": datetime(1880, 1, 1),
}


def test_how_cameras_write_dates(subtests):
    for text, moment in DATES_AS_WRITTEN.items():
        with subtests.test(ascii(text)):
            assert date_of(exif_of({ORIGINAL: text})) == clock_seconds(moment)


INVALID_DATES = {
    "zeros": "0000:00:00 00:00:00",
    "blank": "    :  :     :  :  ",
    "empty": "",
    "nines": "9999:99:99 99:99:99",
    "month 13": "2024:13:01 00:00:00",
    "30 February": "2024:02:30 00:00:00",
    "hour 25": "2024:05:17 25:00:00",
    "year 1": "0001:01:01 00:00:00",
    "year 9999": "9999:12:31 23:59:59",
    "words": "last summer",
    "other digits": "\u0662\u0660\u0662\u0664:05:17 14:00:09",
    "bytes": b"\xff\xfe\x00" * 7,
    "long": "2" * 60_000,
    "a number": 20240517,
    "numbers": (2024, 5, 17),
    "a share": 2024.5,
}


def test_an_invalid_date_is_none(subtests):
    for name, kind in product(INVALID_DATES, KINDS):
        with subtests.test(name, kind=kind):
            assert date_of(exif_of({ORIGINAL: INVALID_DATES[name]}), kind) is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_never_fails_a_photo(kind):
    """EXIF cut anywhere, with changed bytes, or replaced: the photo decodes, perhaps rotated or without a date."""
    exif = exif_of(
        {ORIGINAL: "2024:05:17 14:00:09", 0x927C: b"maker" * 9}, tag_0x0112=6, **{CHANGED: "2021:12:31 00:00:00"}
    )
    whole, rng, dates = exif.tobytes(), np.random.default_rng(2), set()
    broken = [whole[:cut] for cut in range(7, len(whole), 5)]
    broken += [
        b"Exif\0\0",
        b"Exif\0\0no exif at all",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*" + b"\xff" * 900,
    ]
    for _ in range(400):
        data = bytearray(whole)
        for place in rng.integers(6, len(data), rng.integers(1, 6)):
            data[place] = rng.integers(256)
        broken.append(bytes(data))
    for data in broken:
        dates.add(date_of(data, kind))
    assert clock_seconds(MAY) in dates
    assert None in dates


def test_damaged_pictures_are_not_mistaken_for_damaged_exif():
    """A PNG is read to its end to find its EXIF, so a truncated one must raise."""
    data = save(noise(80, 60), exif=exif_of({ORIGINAL: "2024:05:17 14:00:09"}))
    with pytest.raises(PictureError, match=r"damaged .*truncated"):
        decode(data[: len(data) // 2], "squash", SIZE)


def test_content_hash_is_of_the_bytes_alone():
    assert content_hash(b"a") == content_hash(b"a") != content_hash(b"b")
    assert len(content_hash(os.urandom(1000))) == 16
