"""Thumbnails and original files: decoding, the cache on disk, and media types."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from flairsearch.core.errors import PictureError
from flairsearch.serve.original_files import PhotoGone, content_disposition, detect_media_type, open_original
from flairsearch.serve.thumbnails import Thumbnails, make_thumbnail
from tests.support.fake import exif_of, paint


def open_jpeg(data):
    picture = Image.open(BytesIO(data))
    assert picture.format == "JPEG"
    return picture


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_thumbnail_is_upright_and_has_the_requested_side(tmp_path):
    photo = paint(tmp_path / "a.jpg", [("red", (0, 0, 300, 400))], "blue", (600, 400), exif=exif_of(tag_0x0112=6))
    small = open_jpeg(Thumbnails(tmp_path / "cache").get(str(photo), 120).data)
    assert small.size == (80, 120)
    pixels = np.asarray(small).astype(int)
    assert pixels[30, 40] @ [1, 0, -1] > 200  # Red is stored at the left, and is at the top when upright.
    assert pixels[90, 40] @ [1, 0, -1] < -200
    assert small.getexif().get(0x0112) is None


def test_a_small_photo_is_not_enlarged(tmp_path):
    photo = paint(tmp_path / "a.png", size=(50, 30))
    assert open_jpeg(Thumbnails(tmp_path / "cache").get(str(photo), 256).data).size == (50, 30)


def test_a_thumbnail_is_cached_until_its_photo_changes(tmp_path):
    cache, photo = Thumbnails(tmp_path / "cache"), paint(tmp_path / "a.png", background="red")
    first = cache.get(str(photo), 64)
    (file,) = files_in(tmp_path / "cache")
    before = file.stat().st_mtime_ns
    assert cache.get(str(photo), 64) == first == Thumbnails(tmp_path / "cache").get(str(photo), 64)
    assert (first.etag, before) == (cache.etag(str(photo), 64), file.stat().st_mtime_ns)
    assert cache.get(str(photo), 32).etag != first.etag
    paint(photo, background="blue")
    os.utime(photo, ns=(1, 1))
    second = cache.get(str(photo), 64)
    assert second.etag != first.etag
    assert open_jpeg(second.data).getpixel((5, 5))[2] > 200


@pytest.mark.parametrize("damage", [b"", b"\xff\xd8 cut", b"<html>"])
def test_a_damaged_thumbnail_is_replaced(tmp_path, damage):
    cache, photo = Thumbnails(tmp_path / "cache"), paint(tmp_path / "a.png")
    first = cache.get(str(photo), 64)
    (file,) = files_in(tmp_path / "cache")
    file.write_bytes(damage)
    assert cache.get(str(photo), 64) == first
    assert file.read_bytes() == first.data


def test_the_cache_stays_below_its_bound_by_evicting_the_oldest(tmp_path):
    size = len(make_thumbnail(paint(tmp_path / "a.png").read_bytes(), 64))
    cache = Thumbnails(tmp_path / "cache", max_bytes=5 * size)
    photos = [paint(tmp_path / f"{number}.png") for number in range(12)]
    for place, photo in enumerate(photos):
        kept = set(files_in(tmp_path / "cache"))
        cache.get(str(photo), 64)
        (new,) = {*files_in(tmp_path / "cache")} - kept
        os.utime(new, (place, place))
        assert sum(file.stat().st_size for file in files_in(tmp_path / "cache")) <= 5 * size
    left = sorted(file.stat().st_mtime for file in files_in(tmp_path / "cache"))
    assert left == list(range(12 - len(left), 12))
    assert len(left) >= 3


def test_concurrent_threads_get_complete_thumbnails(tmp_path):
    photos = [str(paint(tmp_path / f"{number}.png", size=(300, 200))) for number in range(4)]
    cache = Thumbnails(tmp_path / "cache", max_bytes=3000)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: cache.get(photos[number % 4], 128).data, range(80)))
    assert {open_jpeg(data).size for data in found} == {(128, 85)}
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_a_thumbnail_is_made_without_a_writable_folder(tmp_path):
    (tmp_path / "file").write_text("in the way")
    photo = paint(tmp_path / "a.png")
    assert open_jpeg(Thumbnails(tmp_path / "file" / "cache").get(str(photo), 64).data).size == (64, 64)


def test_other_users_cannot_read_the_folder(tmp_path):
    """Only the owner may enter the folder, so other users read nothing in it."""
    photo = paint(tmp_path / "a.png")
    old = os.umask(0)
    try:
        Thumbnails(tmp_path / "cache" / "thumbnails").get(str(photo), 64)
    finally:
        os.umask(old)
    assert files_in(tmp_path / "cache")
    assert stat.S_IMODE((tmp_path / "cache" / "thumbnails").stat().st_mode) == 0o700


def test_a_missing_photo_and_a_file_that_is_not_a_picture_are_told_apart(tmp_path):
    cache = Thumbnails(tmp_path / "cache")
    os.mkfifo(tmp_path / "pipe.jpg")
    for gone in ("none.jpg", "pipe.jpg", ".", "a\0b"):
        with pytest.raises(PhotoGone):
            cache.get(f"{tmp_path}/{gone}", 64)
    (tmp_path / "page.jpg").write_text("<html>")
    with pytest.raises(PictureError) as caught:
        cache.get(str(tmp_path / "page.jpg"), 64)
    assert str(tmp_path) not in str(caught.value)
    assert not files_in(tmp_path / "cache")


@pytest.mark.parametrize("format", ["jpeg", "png", "gif", "webp"])
def test_the_media_type_is_detected_from_the_content(tmp_path, format):
    photo = paint(tmp_path / "a.svg", format=format)
    with open_original(str(photo)) as original:
        assert original.media_type == detect_media_type(original.data()) == f"image/{format}"


@pytest.mark.parametrize("start", [b"", b"<svg xmlns=", b"<!doctype html>", b"BM", b"RIFF1234WAVE", b"\0\0\0 ftypheic"])
def test_unknown_content_has_no_media_type(start):
    assert detect_media_type(start) is None


def test_the_file_name_in_content_disposition_is_escaped():
    name = content_disposition('/a/b"\r\nSet-Cookie: x;é\udcff.html', "image/png")
    assert "\r" not in name
    assert "\n" not in name
    assert name.count('"') == 2
    assert name.isascii()
    assert 'filename="b___Set-Cookie__x___.png"' in name
