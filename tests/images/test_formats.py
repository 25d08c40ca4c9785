"""HEIC, AVIF and camera RAW: decoding, why files are skipped, and that libraries are imported only when needed."""

import subprocess
import sys
from datetime import datetime
from importlib.util import find_spec
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, features

from flairsearch.core.dates import clock_seconds
from flairsearch.core.errors import PictureError
from flairsearch.core.types import Frame, ImageFile
from flairsearch.images import formats, loading
from flairsearch.images.decoding import decode, open_upright
from flairsearch.images.formats import AVIF, HEIF, RAW, detect_kind, missing_library
from flairsearch.images.loading import Failed, Loaded, load_all
from tests.support.fake import COLOURS, SIZE, exif_of, fake_engine
from tests.support.raw_files import make_dng

DATE = 0x9003
WHEN = clock_seconds(datetime(2001, 5, 17, 14))
needs_heif = pytest.mark.skipif(find_spec("pillow_heif") is None, reason="no pillow-heif")
needs_avif = pytest.mark.skipif(not features.check("avif"), reason="a Pillow without AVIF")


def bands(size=(96, 48)):
    """A picture that is red at the left, blue in the top right corner, and white elsewhere."""
    picture = Image.new("RGB", size, "white")
    picture.paste(COLOURS["red"], (0, 0, size[0] // 4, size[1]))
    picture.paste(COLOURS["blue"], (size[0] * 3 // 4, 0, size[0], size[1] // 4))
    return picture


def save(kind, picture=None, **options):
    stream = BytesIO()
    picture = bands() if picture is None else picture
    if kind == "HEIF":
        pillow_heif = pytest.importorskip("pillow_heif")
        exif = options.pop("exif", None)
        file = pillow_heif.from_pillow(picture)
        file.save(stream, quality=100, **({"exif": exif.tobytes()} if exif else {}), **options)
    else:
        picture.save(stream, kind, quality=100, **options)
    return stream.getvalue()


def check_bands(data, size=(96, 48)):
    """Check that `decode` and `open_upright` both show the bands upright; return the view."""
    (view,) = decode(data, "squash", SIZE)
    assert view.frame == Frame(*size, 0, 0, *size)
    photo = open_upright(data)
    assert (photo.size, photo.mode) == (size, "RGB")
    expected = np.asarray(bands(size).resize((SIZE, SIZE), Image.Resampling.BICUBIC)).astype(int)
    shown = np.asarray(photo.resize((SIZE, SIZE), Image.Resampling.BICUBIC)).astype(int)
    for found in (view.pixels.astype(int), shown):
        assert np.abs(found - expected).mean() < 12  # Both formats are lossy.
    assert np.abs(view.pixels.astype(int) - shown).mean() < 1
    return view


@pytest.mark.parametrize("kind", [pytest.param("HEIF", marks=needs_heif), pytest.param("AVIF", marks=needs_avif)])
def test_heic_and_avif_are_photos(kind):
    exif = exif_of({DATE: "2001:05:17 14:00:00"})
    assert check_bands(save(kind, exif=exif)).taken == WHEN
    assert detect_kind(save(kind)) == (HEIF if kind == "HEIF" else AVIF)


@pytest.mark.parametrize("turn", [3, 6, 8])
@pytest.mark.parametrize("kind", [pytest.param("HEIF", marks=needs_heif), pytest.param("AVIF", marks=needs_avif)])
def test_heic_and_avif_are_turned_upright_once(kind, turn):
    how = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[turn]
    exif = exif_of(tag_0x0112=turn)
    assert check_bands(save(kind, bands().transpose(how), exif=exif)).frame.width == 96


@needs_heif
def test_the_format_does_not_depend_on_the_name(tmp_path):
    """Examples are a JPEG named .heic, a HEIC named .jpg and a RAW file named .tif."""
    paths = {"a.heic": save("JPEG"), "b.jpg": save("HEIF"), "c.tif": make_dng(), "d.dng": save("TIFF")}
    for name, data in paths.items():
        (tmp_path / name).write_bytes(data)
    files = [ImageFile(str(tmp_path), name, 0, 0) for name in paths]
    sizes = [file.pictures[0].frame.width for file in load_all(files, "squash", SIZE, ()) if isinstance(file, Loaded)]
    assert sizes == [96, 96, 320, 96]
    assert [missing_library(str(tmp_path / name)) for name in paths] == [None] * 4


# -- RAW


def left_is_white(photo):
    pixels = np.asarray(photo.convert("L")).astype(int)
    return pixels[:, : photo.width // 5].mean() > 150 > 60 > pixels[:, photo.width // 3 :].mean()


def test_a_raw_file_without_a_preview_is_developed_at_half_its_size():
    pytest.importorskip("rawpy")
    data = make_dng()
    (view,) = decode(data, "squash", SIZE)
    assert (view.frame, view.taken) == (Frame(320, 240, 0, 0, 320, 240), WHEN)
    assert left_is_white(open_upright(data))


@pytest.mark.parametrize(("turn", "back"), [(3, 180), (6, 90), (8, 270)])
def test_a_developed_raw_file_is_upright(turn, back):
    pytest.importorskip("rawpy")
    photo = open_upright(make_dng(turn=turn))
    assert photo.size == ((320, 240) if turn == 3 else (240, 320))
    assert left_is_white(photo.rotate(back, expand=True))


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_a_large_preview_is_the_photo_and_upright(turn):
    """As in cameras' files, the preview is stored like the sensor's picture, without EXIF of its own."""
    pytest.importorskip("rawpy")
    how = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}.get(turn)
    shown = bands((1200, 800)) if turn in (1, 3) else bands((800, 1200))
    data = make_dng(turn=turn, preview=shown if how is None else shown.transpose(how))
    assert check_bands(data, shown.size).taken == WHEN


def test_a_preview_that_is_upright_already_stays_so():
    pytest.importorskip("rawpy")
    check_bands(make_dng(turn=6, preview=bands((800, 1200))), (800, 1200))


def test_a_small_preview_is_not_the_photo():
    pytest.importorskip("rawpy")
    assert open_upright(make_dng(preview=bands((160, 120)))).size == (320, 240)


def test_raw_files_are_told_from_tiffs():
    assert detect_kind(save("TIFF")) == ""
    assert detect_kind(make_dng(preview=bands())) == RAW  # The first directory describes a plain picture.
    assert detect_kind(b"II*\0\x10\0\0\0CR\x02\0" + bytes(20)) == RAW
    for start in (b"FUJIFILMCCD-RAW 0201", b"IIU\0" + bytes(20), b"IIRO" + bytes(9)):
        assert detect_kind(start) == RAW
    assert detect_kind(b"\0\0\0\x18ftypcrx \0\0\0\1crx isom") == RAW
    assert detect_kind(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom") == detect_kind(b"") == detect_kind(b"II*\0") == ""
    loop = b"II*\0\x08\0\0\0" + b"\0\0" + b"\x08\0\0\0"  # This directory points to itself as the next one.
    assert detect_kind(loop) == ""


# -- Errors


def damaged(data):
    """Yield truncated copies, copies with random bytes, and copies with damaged headers."""
    rng = np.random.default_rng(0)
    for share in (0.02, 0.3, 0.9, 0.999):
        yield data[: int(len(data) * share)]
    for _ in range(40):
        places = rng.integers(4, len(data), 20)
        broken = bytearray(data)
        for place in places:
            broken[place] = rng.integers(256)
        yield bytes(broken)
    for _ in range(40):  # The header holds the sizes.
        broken = bytearray(data)
        for place in rng.integers(12, min(400, len(data)), 4):
            broken[place] = 255
        yield bytes(broken)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of broken EXIF.
@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "RAW", "RAW with preview"])
def test_hostile_bytes_are_one_line_or_a_picture(kind):
    if kind.startswith("RAW"):
        pytest.importorskip("rawpy")
        data = make_dng(64, 48, preview=bands((1200, 800)) if "preview" in kind else None)
    elif kind == "AVIF" and not features.check("avif"):
        pytest.skip("a Pillow without AVIF")
    else:
        data = save(kind)
    for broken in damaged(data):
        try:
            (view,) = decode(broken, "squash", SIZE)
            assert view.pixels.shape == (SIZE, SIZE, 3)
        except PictureError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017
            assert len(str(error)) < 200  # noqa: PT017


@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "RAW"])
def test_too_many_pixels_are_refused_before_they_are_decoded(kind):
    pytest.importorskip("rawpy")
    data = make_dng(preview=bands((1200, 800))) if kind == "RAW" else save(kind)
    with pytest.raises(PictureError, match="megapixels"):
        decode(data, "squash", SIZE, max_pixels=4000)


@pytest.mark.parametrize(
    ("name", "kind", "package"),
    [("a.heic", "HEIF", "pillow_heif"), ("a.dng", "RAW", "rawpy"), ("a.nef", "RAW", "rawpy")],
)
def test_without_the_extra_the_reason_says_what_to_install(tmp_path, monkeypatch, name, kind, package):
    """The file is not read in full to find that out."""
    pytest.importorskip(package)
    data = make_dng() if kind == "RAW" else save("HEIF")
    (tmp_path / name).write_bytes(data)
    (tmp_path / f"really{name}").write_bytes(save("JPEG"))
    real = formats.find_spec
    monkeypatch.setattr(formats, "find_spec", lambda wanted: None if wanted == package else real(wanted))
    extra = "raw" if kind == "RAW" else "heif"
    reason = f'{"RAW" if kind == "RAW" else "HEIC"} needs: pip install "flairsearch[{extra}]"'
    with pytest.raises(PictureError) as caught:
        open_upright(data)
    assert str(caught.value) == f"the picture: {reason}"
    read = []
    monkeypatch.setattr(loading, "read_bytes", lambda path: read.append(path) or save("JPEG"))
    found, other = load_all([ImageFile(str(tmp_path), path, 0, 0) for path in (name, f"really{name}")], "squash", 8, ())
    assert found == Failed(ImageFile(str(tmp_path), name, 0, 0), reason)
    assert isinstance(other, Loaded)  # Its content is a JPEG.
    assert read == [str(tmp_path / f"really{name}")]


def test_without_avif_in_pillow_the_reason_says_so(monkeypatch):
    monkeypatch.setattr(formats.features, "check", lambda name: False)
    with pytest.raises(PictureError, match="AVIF needs a Pillow with AVIF: pip install --upgrade pillow"):
        decode(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(100), "squash", SIZE)


def test_plain_photos_import_no_plugin():
    code = (
        "import sys; from io import BytesIO; from PIL import Image\n"
        "from flairsearch.images.decoding import decode, open_upright\n"
        "stream = BytesIO(); Image.new('RGB', (9, 9)).save(stream, 'TIFF'); decode(stream.getvalue(), 'squash', 8)\n"
        "assert not {'pillow_heif', 'rawpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -- In an index


@needs_heif
def test_all_kinds_are_indexed_and_found_upright(tmp_path):
    """A RAW file and a JPEG of one name are two photos; boxes refer to the picture as shown."""
    pytest.importorskip("rawpy")
    photos = tmp_path / "photos"
    photos.mkdir()
    red = Image.new("RGB", (1200, 800), "black")
    red.paste(COLOURS["red"], (0, 0, 600, 800))
    exif = exif_of(tag_0x0112=6)
    (photos / "a.jpg").write_bytes(save("JPEG", red, subsampling=0))
    (photos / "a.dng").write_bytes(make_dng(preview=red))
    (photos / "b.heic").write_bytes(save("HEIF", red.transpose(Image.Transpose.ROTATE_90), exif=exif, chroma=444))
    (photos / "c.mp4").write_bytes(b"a video")
    (photos / "d.MOV").write_bytes(b"another")
    with fake_engine(tmp_path / "index") as engine:
        report = engine.add(photos)
        assert (report.added, report.videos, report.skipped) == (3, 2, ())
        hits = engine.search("red", k=5)
        assert len(hits) == 3
        for hit in hits:
            assert (hit.width, hit.height) == open_upright(hit.path).size == (1200, 800)
            left, top, right, bottom = hit.regions[0].box
            assert (left, top, bottom) == (0, 0, 800)
            assert abs(right - 600) <= 160
        again = engine.add()
        assert (again.unchanged, again.videos, again.changed) == (3, 2, 0)


def test_exif_of_raw_files_that_are_nearly_tiff() -> None:
    """RAW files of Olympus and Panasonic are TIFF files but for the first bytes; those of Fujifilm are not."""
    rest = b"\x08\0\0\0 and directories"
    for start, plain in ((b"IIRO", b"II*\0"), (b"IIRS", b"II*\0"), (b"IIU\0", b"II*\0"), (b"MMOR", b"MM\0*")):
        assert formats._exif_of(start + rest) == plain + rest
    assert formats._exif_of(b"II*\0" + rest) == b"II*\0" + rest
    assert formats._exif_of(b"FUJIFILMCCD-RAW" + rest) == b""
    assert formats._exif_of(b"ftypcrx " + b"CMT1" + rest) == rest
