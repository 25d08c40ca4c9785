"""Decode image files into upright RGB views with their frames, within limits that hostile files cannot exceed."""

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

MAX_BYTES = 1 << 30  # A larger file is refused before it is read into memory.
MAX_PIXELS = 178_000_000  # Pillow itself refuses pictures a little larger than this.
_EXIF_ORIENTATION = 0x0112
_TRANSPOSED = frozenset({5, 6, 7, 8})  # EXIF orientations whose stored image is transposed.
_MIRRORED_ACROSS = frozenset({2, 3, 7, 8})  # EXIF orientations whose stored columns are mirrored.
_MIRRORED_DOWN = frozenset({3, 4, 6, 7})  # EXIF orientations whose stored rows are mirrored.
_TRANSPOSE_METHODS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_SUB_FOLDER = 0x8769  # This tag points to the EXIF sub-directory.
# Date tags in order of preference, each with whether it is in the sub-directory:
# DateTimeOriginal, DateTimeDigitized, DateTime.
_EXIF_DATES = ((0x9003, True), (0x9004, True), (0x0132, False))
_DATE_PATTERN = re.compile(
    r"\s*([0-9]{4})[:/.-]([0-9]{2})[:/.-]([0-9]{2})(?:[ T]([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?)?", re.ASCII
)
_PLAUSIBLE_YEARS = range(1826, 2200)  # The first photograph is from 1826; other years come from unset clocks.
_MAX_EXACT_ASPECT = 16  # Up to this aspect ratio the centre crop equals the reference's, bit for bit.
_DRAFT_MARGIN = 2  # A JPEG is decoded at the smallest scale that is at least twice the view's side.


def content_hash(data: bytes) -> bytes:
    """Return the 16-byte BLAKE2b digest that identifies a file's content."""
    return hashlib.blake2b(data, digest_size=16).digest()


def read_bytes(path: str, max_bytes: int = MAX_BYTES) -> bytes:
    """Read a whole file.

    Raises PictureError when the file is empty, larger than `max_bytes` or unreadable.
    """
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
    """Decode the bytes of a photo into its views, each u8[size, size, 3].

    views: the view policy. `squash` resizes the whole photo to a square. `center` is the reference's crop: the short
    side is resized to `size` (bicubic), then the middle is cut out. `tiles:N` is the squashed photo, then its tiles
    (`core.tiling.lay_tiles`), each resized from full resolution.
    draft: decode a JPEG at 1/2, 1/4 or 1/8 of its size when every view still covers at least twice `size` pixels.
    Of an animated file the first frame is decoded. Transparent pixels are shown over white.
    Raises PictureError when the data are not a picture, are damaged, or have more than `max_pixels` pixels.
    """
    with _open_checked(data, max_pixels) as opened:
        return tuple(_views(opened, views, size, draft))


@contextmanager
def _open_checked(data: bytes, max_pixels: int) -> Iterator[OpenedImage]:
    """Open a picture of at most `max_pixels` pixels without decoding it; close it on exit."""
    with _map_decode_errors(max_pixels):
        opened = formats.open_photo(data, max_pixels)
        with opened.picture as picture:
            if picture.width * picture.height > max_pixels:
                raise PictureError(f"more than {max_pixels // 1_000_000} megapixels")
            yield opened


@contextmanager
def _map_decode_errors(max_pixels: int) -> Iterator[None]:
    """Turn every error of opening or decoding a picture into a PictureError of one line."""
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
    except Exception as error:  # A hostile file can make Pillow's decoders raise any exception.
        text = (str(error).splitlines() or [""])[0][:120]
        raise PictureError(f"damaged ({text or type(error).__name__})") from None


def _views(opened: OpenedImage, views: str, size: int, draft: bool) -> Iterator[Picture]:
    """Yield the views of an opened picture, the whole photo first."""
    picture, orientation = opened.picture, _orientation(opened)
    width, height = picture.size
    upright = (height, width) if orientation in _TRANSPOSED else (width, height)
    tiles = lay_tiles(*upright, tile_count(views), size)
    if draft and picture.format == "JPEG":
        left, top, right, bottom = tiles[0] if tiles else (0, 0, *upright)
        scale = max(1, min(right - left, bottom - top) // (_DRAFT_MARGIN * size))
        picture.draft(None, (width // scale, height // scale))
    rgb, taken = _to_rgb(picture), _read_date(opened)
    small, part = _resize(rgb, views, size)
    x0, y0, x1, y1 = (part[1], part[0], part[3], part[2]) if orientation in _TRANSPOSED else part
    wide, high = upright
    frame = Frame(wide, high, x0 * wide, y0 * high, x1 * wide, y1 * high)
    yield Picture(np.asarray(_apply_orientation(small, orientation)), frame, taken)
    for tile in tiles:
        box = _as_stored(tile, (width, height), orientation)
        # A JPEG decoded at a smaller scale has fewer pixels than the stored width and height.
        across, down = rgb.width, rgb.height
        decoded = (box[0] * across / width, box[1] * down / height, box[2] * across / width, box[3] * down / height)
        small = rgb.resize((size, size), Image.Resampling.BICUBIC, decoded)
        yield Picture(np.asarray(_apply_orientation(small, orientation)), Frame(wide, high, *tile), taken)


def _as_stored(box: Box, stored: tuple[int, int], orientation: int) -> Box:
    """Map a box of the upright photo to the stored photo, whose width and height are `stored`."""
    left, top, right, bottom = box
    if orientation in _TRANSPOSED:
        left, top, right, bottom = top, left, bottom, right
    if orientation in _MIRRORED_ACROSS:
        left, right = stored[0] - right, stored[0] - left
    if orientation in _MIRRORED_DOWN:
        top, bottom = stored[1] - bottom, stored[1] - top
    return left, top, right, bottom


def _resize(rgb: Image.Image, views: str, size: int) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """Resize to a square; return it with the part it shows, (left, top, right, bottom) as fractions of the picture."""
    bicubic = Image.Resampling.BICUBIC
    if views != "center":
        return rgb.resize((size, size), bicubic), (0.0, 0.0, 1.0, 1.0)
    width, height = rgb.size
    short = min(width, height)
    wide, high = (size * width) // short, (size * height) // short
    left, top = round((wide - size) / 2), round((high - size) / 2)
    part = (left / wide, top / high, (left + size) / wide, (top + size) / high)
    if max(wide, high) > _MAX_EXACT_ASPECT * size:  # Resizing the whole picture would need too much memory.
        box = (part[0] * width, part[1] * height, part[2] * width, part[3] * height)
        return rgb.resize((size, size), bicubic, box), part
    return rgb.resize((wide, high), bicubic).crop((left, top, left + size, top + size)), part


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Decode to RGB; transparent pixels are shown over white."""
    if picture.mode.startswith("I") or picture.mode == "F":  # convert() would clip 16-bit and float values.
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
    """Return the EXIF orientation that is still to be applied; Pillow applies a TIFF's own when loading it."""
    picture = opened.picture
    if picture.format == "TIFF" or opened.is_upright:
        return 1
    if picture.format == "PNG":
        picture.load()  # The EXIF may follow the pixels; damaged pixels must raise here.
    found = _read_exif(picture.getexif, _EXIF_ORIENTATION)
    return found if isinstance(found, int) and found > 1 else opened.orientation


def _read_exif(load: Callable[[], Image.Exif], tag: int, in_sub_folder: bool = False) -> object:
    """Return the value of a tag in the EXIF data or in its sub-directory; None when it cannot be read."""
    try:
        exif = load()
        return exif.get_ifd(_EXIF_SUB_FOLDER).get(tag) if in_sub_folder else exif.get(tag)
    except Exception:  # Pillow raises any exception on broken EXIF; the photo is still indexed.
        return None


def _read_date(opened: OpenedImage) -> int | None:
    """Return when the photo was taken (`core.dates.clock_seconds`): the first plausible EXIF date, or None."""

    def container_exif() -> Image.Exif:
        exif = Image.Exif()
        exif.load(opened.exif)
        return exif

    sources = (opened.picture.getexif, *([container_exif] if opened.exif else []))
    for load, (tag, in_sub_folder) in product(sources, _EXIF_DATES):
        found = _read_exif(load, tag, in_sub_folder)
        text = found.decode("latin-1") if isinstance(found, bytes) else found
        stamp = _DATE_PATTERN.match(text) if isinstance(text, str) else None
        if stamp and int(stamp[1]) in _PLAUSIBLE_YEARS:
            try:
                return clock_seconds(datetime(*(int(part or 0) for part in stamp.groups())))  # type: ignore[arg-type]
            except ValueError:
                continue
    return None


def _apply_orientation(picture: Image.Image, orientation: int) -> Image.Image:
    """Apply an EXIF orientation."""
    method = _TRANSPOSE_METHODS.get(orientation)
    return picture if method is None else picture.transpose(method)


def open_upright(photo: str | bytes, min_side: int | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a whole photo for display: upright, RGB.

    photo: the path, or the bytes of the file.
    min_side: decode a JPEG at a smaller scale, in less time, if each side still has at least this many pixels.
    Raises PictureError as `decode` does.
    """
    try:
        data = photo if isinstance(photo, bytes) else read_bytes(photo)
        with _open_checked(data, max_pixels) as opened:
            orientation = _orientation(opened)
            if min_side is not None and opened.picture.format == "JPEG":
                opened.picture.draft(None, (min_side, min_side))
            return _apply_orientation(_to_rgb(opened.picture), orientation)
    except PictureError as error:
        raise PictureError(f"{_describe(photo)}: {error}") from None


def _describe(photo: str | bytes) -> str:
    """Return how an error message names the photo."""
    return photo if isinstance(photo, str) else "the picture"


def resize(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resize u8[h, w, 3] to u8[height, width, 3] as views are resized: bicubic, antialiased."""
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def read_part(source: str | bytes, box: Box | None, size: int, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode a photo at full resolution, cut out `box` (None: the whole photo), and squash it to u8[size, size, 3].

    source: the path of the photo, or the bytes of its file.
    Raises PictureError as `decode` does, and UsageError when the box is not inside the photo.
    """
    photo = open_upright(source, max_pixels=max_pixels)
    width, height = photo.size
    left, top, right, bottom = box or (0, 0, width, height)
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise UsageError(
            f"{left},{top},{right},{bottom} is not inside of {_describe(source)} - "
            f"it has {width} x {height} pixels, upright",
            "box",
        )
    part = photo.crop(box) if box else photo  # resize(box=) would blend in pixels around the box.
    small = part.resize((size, size), Image.Resampling.BICUBIC)
    return Picture(np.asarray(small), Frame(width, height, left, top, right, bottom))
