"""File -> upright RGB picture(s) and their frames, with limits on hostile input."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from flairsearch.core.dates import clock_seconds
from flairsearch.core.errors import PictureError, UsageError
from flairsearch.core.settings import tile_count
from flairsearch.core.tiling import lay_tiles
from flairsearch.core.types import Box, Frame, Picture
from flairsearch.images import formats
from flairsearch.images.formats import OpenedImage

MAX_BYTES = 1 << 30  # of a file
MAX_PIXELS = 178_000_000  # of a picture; Pillow itself refuses a little more than this
_EXIF_ORIENTATION = 0x0112
_TURNED = frozenset({5, 6, 7, 8})  # These EXIF orientations swap width and height.
_MIRRORED_ACROSS = frozenset({2, 3, 7, 8})  # These mirror the stored columns.
_MIRRORED_DOWN = frozenset({3, 4, 6, 7})  # These mirror the stored rows.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_MORE = 0x8769  # where the dates of the first two of these are
_EXIF_DATES = ((0x9003, True), (0x9004, True), (0x0132, False))  # DateTimeOriginal, DateTimeDigitized, DateTime
_STAMP = re.compile(
    r"\s*([0-9]{4})[:/.-]([0-9]{2})[:/.-]([0-9]{2})(?:[ T]([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?)?", re.ASCII
)
_YEARS = range(1826, 2200)  # since there are photos; other dates are of no clock
_THIN = 16  # sides' ratio up to which the crop is made as the reference makes it, to the last bit
_DRAFT = 2  # JPEG: decode at the smallest scale that still is this many times the wanted side


def content_hash(data: bytes) -> bytes:
    """16 bytes that name a file's content (BLAKE2b)."""
    return hashlib.blake2b(data, digest_size=16).digest()


def read_bytes(path: str, max_bytes: int = MAX_BYTES) -> bytes:
    """Raises PictureError when the file is empty, larger than `max_bytes` or unreadable."""
    try:
        size = os.path.getsize(path)
        if size > max_bytes:
            raise PictureError(f"{size / 1e6:.0f} MB is more than the {max_bytes / 1e6:.0f} MB a photo may have")
        with open(path, "rb") as stream:
            data = stream.read(max_bytes)
    except OSError as error:
        raise PictureError((error.strerror or type(error).__name__).lower()) from None
    except ValueError:
        raise PictureError("no file can have this name") from None
    if not data:
        raise PictureError("the file is empty")
    return data


def decode(data: bytes, views: str, size: int, draft: bool = True, max_pixels: int = MAX_PIXELS) -> tuple[Picture, ...]:
    """Bytes of a photo -> its views, each u8[size, size, 3].

    `squash` shows the whole photo, resized to a square; `center` is the reference's crop (short side to `size`,
    bicubic, then the middle); `tiles:N` is the former, then the tiles (tiles.lay_tiles), each from full resolution.
    Animated files: the first frame. Transparency: over white.
    `draft` lets JPEG decode at 1/2, 1/4 or 1/8 where the smallest view's part of it still is twice `size`.
    Raises PictureError when the data are no picture, damaged, or have more than `max_pixels`.
    """
    with _opening(data, max_pixels) as opened:
        return tuple(_views(opened, views, size, draft))


@contextmanager
def _opening(data: bytes, max_pixels: int) -> Iterator[OpenedImage]:
    """The picture, not decoded yet, of no more than `max_pixels`; closed on leaving."""
    with _one_line(max_pixels):
        opened = formats.open_photo(data, max_pixels)
        with opened.picture as picture:
            if picture.width * picture.height > max_pixels:
                raise PictureError(f"more than {max_pixels // 1_000_000} megapixels")
            yield opened


@contextmanager
def _one_line(max_pixels: int) -> Iterator[None]:
    """Whatever goes wrong with a picture, as a PictureError of one line."""
    try:
        yield
    except UnidentifiedImageError:
        raise PictureError("not a picture in a known format") from None
    except Image.DecompressionBombError:
        raise PictureError(f"more than {max_pixels // 1_000_000} megapixels") from None
    except MemoryError:
        raise PictureError("not enough memory to decode it") from None
    except PictureError:
        raise
    except Exception as error:  # the named door: Pillow's decoders raise whatever a hostile file makes them raise
        text = (str(error).splitlines() or [""])[0][:120]
        raise PictureError(f"damaged ({text or type(error).__name__})") from None


def _views(opened: OpenedImage, views: str, size: int, draft: bool) -> Iterator[Picture]:
    picture, orientation = opened.picture, _orientation(opened)
    width, height = picture.size
    upright = (height, width) if orientation in _TURNED else (width, height)
    tiles = lay_tiles(*upright, tile_count(views), size)
    if draft and picture.format == "JPEG":
        left, top, right, bottom = tiles[0] if tiles else (0, 0, *upright)
        scale = max(1, min(right - left, bottom - top) // (_DRAFT * size))
        picture.draft(None, (width // scale, height // scale))
    rgb, taken = _to_rgb(picture), _taken(opened)
    small, part = _resize(rgb, views, size)
    x0, y0, x1, y1 = (part[1], part[0], part[3], part[2]) if orientation in _TURNED else part
    wide, high = upright
    frame = Frame(wide, high, x0 * wide, y0 * high, x1 * wide, y1 * high)
    yield Picture(np.asarray(_turn(small, orientation)), frame, taken)
    for tile in tiles:
        box = _as_stored(tile, (width, height), orientation)
        across, down = rgb.width, rgb.height  # less than width and height where JPEG was decoded at a smaller scale
        decoded = (box[0] * across / width, box[1] * down / height, box[2] * across / width, box[3] * down / height)
        small = rgb.resize((size, size), Image.Resampling.BICUBIC, decoded)
        yield Picture(np.asarray(_turn(small, orientation)), Frame(wide, high, *tile), taken)


def _as_stored(box: Box, stored: tuple[int, int], orientation: int) -> Box:
    """A box of the upright photo -> the same place before it is turned; stored: width and height there."""
    left, top, right, bottom = box
    if orientation in _TURNED:
        left, top, right, bottom = top, left, bottom, right
    if orientation in _MIRRORED_ACROSS:
        left, right = stored[0] - right, stored[0] - left
    if orientation in _MIRRORED_DOWN:
        top, bottom = stored[1] - bottom, stored[1] - top
    return left, top, right, bottom


def _resize(rgb: Image.Image, views: str, size: int) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """-> square picture, and the part shown as fractions of the picture."""
    bicubic = Image.Resampling.BICUBIC
    if views != "center":
        return rgb.resize((size, size), bicubic), (0.0, 0.0, 1.0, 1.0)
    width, height = rgb.size
    short = min(width, height)
    wide, high = (size * width) // short, (size * height) // short
    left, top = round((wide - size) / 2), round((high - size) / 2)
    part = (left / wide, top / high, (left + size) / wide, (top + size) / high)
    if max(wide, high) > _THIN * size:  # resized whole it would be huge
        box = (part[0] * width, part[1] * height, part[2] * width, part[3] * height)
        return rgb.resize((size, size), bicubic, box), part
    return rgb.resize((wide, high), bicubic).crop((left, top, left + size, top + size)), part


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":  # 16 bits and more: scale, where convert() would clip
        values = np.asarray(picture, dtype=np.float32)
        top = 65535.0 if picture.mode.startswith("I") else max(float(values.max(initial=0)), 1e-9)
        grey = np.clip(values / top * 255, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        page = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(page, layer).convert("RGB")
    return picture.convert("RGB")


def _orientation(opened: OpenedImage) -> int:
    """The EXIF orientation that is left to apply: Pillow itself turns a TIFF as it loads."""
    picture = opened.picture
    if picture.format == "TIFF" or opened.upright:
        return 1
    if picture.format == "PNG":
        picture.load()  # its EXIF may come last; and a damaged picture is no damaged EXIF
    found = _read_exif(picture.getexif, _EXIF_ORIENTATION)
    return found if isinstance(found, int) and found > 1 else opened.turn


def _read_exif(load: Callable[[], Image.Exif], tag: int, more: bool = False) -> object:
    """A value of an EXIF, or of what it calls so itself; None where there is none that can be read."""
    try:
        exif = load()
        return exif.get_ifd(_EXIF_MORE).get(tag) if more else exif.get(tag)
    except Exception:  # the named door again: broken EXIF is no reason to leave a photo out
        return None


def _taken(opened: OpenedImage) -> int | None:
    """When, as the first of its EXIF's dates that makes sense has it, or of its file's: dates.clock_seconds."""

    def around() -> Image.Exif:
        exif = Image.Exif()
        exif.load(opened.exif)
        return exif

    sources = (opened.picture.getexif, *([around] if opened.exif else []))
    for load, (tag, more) in product(sources, _EXIF_DATES):
        found = _read_exif(load, tag, more)
        text = found.decode("latin-1") if isinstance(found, bytes) else found
        stamp = _STAMP.match(text) if isinstance(text, str) else None
        if stamp and int(stamp[1]) in _YEARS:
            try:
                return clock_seconds(datetime(*(int(part or 0) for part in stamp.groups())))  # type: ignore[arg-type]
            except ValueError:
                continue
    return None


def _turn(picture: Image.Image, orientation: int) -> Image.Image:
    """Apply an EXIF orientation."""
    turn = _UPRIGHT.get(orientation)
    return picture if turn is None else picture.transpose(turn)


def open_upright(photo: str | bytes, least: int | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The whole photo, given its path or the bytes of its file, upright, in RGB, for showing.

    `least` lets JPEG decode smaller, in less time, where each side still has so many pixels.
    Raises PictureError as `decode` does.
    """
    try:
        data = photo if isinstance(photo, bytes) else read_bytes(photo)
        with _opening(data, max_pixels) as opened:
            orientation = _orientation(opened)
            if least is not None and opened.picture.format == "JPEG":
                opened.picture.draft(None, (least, least))
            return _turn(_to_rgb(opened.picture), orientation)
    except PictureError as error:
        raise PictureError(f"{_name(photo)}: {error}") from None


def _name(photo: str | bytes) -> str:
    return photo if isinstance(photo, str) else "the picture"


def resize(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """u8[h, w, 3] -> u8[height, width, 3]; bicubic, smoothed where it shrinks, as views are made."""
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def read_part(source: str | bytes, box: Box | None, size: int, max_pixels: int = MAX_PIXELS) -> Picture:
    """What a photo shows inside `box`, or all of it, at full resolution, then squashed to u8[size, size, 3].

    source: the photo's path, or the bytes of its file. Raises PictureError as `decode` does, UsageError when the box is
    not inside of the photo.
    """
    photo = open_upright(source, max_pixels=max_pixels)
    width, height = photo.size
    left, top, right, bottom = box or (0, 0, width, height)
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise UsageError(
            f"box {left},{top},{right},{bottom} is not inside of {_name(source)} - "
            f"it has {width} x {height} pixels, upright"
        )
    part = photo.crop(box) if box else photo  # resize(box=) would let in a little of what is around
    small = part.resize((size, size), Image.Resampling.BICUBIC)
    return Picture(np.asarray(small), Frame(width, height, left, top, right, bottom))
