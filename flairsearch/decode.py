"""File -> upright RGB picture(s) and their frames, with limits on hostile input; many at once, ahead of the model."""

from __future__ import annotations

import hashlib
import os
import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from itertools import islice

import numpy as np
from PIL import Image, UnidentifiedImageError

from flairsearch.errors import PictureError
from flairsearch.records import Frame, Picture
from flairsearch.records import ImageFile as File
from flairsearch.scope import clock_seconds

MAX_BYTES = 1 << 30  # of a file
MAX_PIXELS = 178_000_000  # of a picture; Pillow itself refuses a little more than this
_EXIF_ORIENTATION = 0x0112
_TURNED = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height
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


@dataclass(frozen=True)
class Loaded:
    """One file as read: its content hash, and its views unless the content was known already."""

    file: File
    hash: bytes
    pictures: tuple[Picture, ...] | None


@dataclass(frozen=True)
class Failed:
    """One file that could not be decoded."""

    file: File
    reason: str


def content_hash(data: bytes) -> bytes:
    """16 bytes that name a file's content (BLAKE2b)."""
    return hashlib.blake2b(data, digest_size=16).digest()


def load_all(
    files: Iterable[File], views: str, size: int, known: Collection[bytes], workers: int = 0
) -> Iterator[Loaded | Failed]:
    """Read and decode files in threads, in order, a bounded number ahead of the consumer.

    `known` holds content hashes that need no decoding. Memory: about 100 views ahead.
    """
    workers = workers or min(8, os.cpu_count() or 1)
    ahead: deque[Future[Loaded | Failed]] = deque()
    todo = iter(files)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        ahead.extend(pool.submit(_load, file, views, size, known) for file in islice(todo, max(64, 8 * workers)))
        while ahead:
            result = ahead.popleft().result()
            ahead.extend(pool.submit(_load, file, views, size, known) for file in islice(todo, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _load(file: File, views: str, size: int, known: Collection[bytes]) -> Loaded | Failed:
    try:
        data = read_bytes(file.absolute)
        digest = content_hash(data)
        return Loaded(file, digest, None if digest in known else decode(data, views, size))
    except PictureError as error:
        return Failed(file, str(error))


def read_bytes(path: str) -> bytes:
    """Raises PictureError when the file is empty, larger than MAX_BYTES or unreadable."""
    try:
        size = os.path.getsize(path)
        if size > MAX_BYTES:
            raise PictureError(f"{size / 1e6:.0f} MB is more than the {MAX_BYTES / 1e6:.0f} MB a photo may have")
        with open(path, "rb") as stream:
            data = stream.read(MAX_BYTES)
    except OSError as error:
        raise PictureError((error.strerror or type(error).__name__).lower()) from None
    if not data:
        raise PictureError("the file is empty")
    return data


def decode(data: bytes, views: str, size: int, draft: bool = True) -> tuple[Picture, ...]:
    """Bytes of a photo -> its views, each u8[size, size, 3].

    `squash` shows the whole photo, resized to a square; `center` is the reference's crop (short side to `size`,
    bicubic, then the middle). Animated files: the first frame. Transparency: over white.
    `draft` lets JPEG decode at 1/2, 1/4 or 1/8 where that is still twice `size`.
    Raises PictureError when the data are no picture, damaged, or too large.
    """
    with _one_line(), Image.open(BytesIO(data)) as picture:
        return (_view(picture, views, size, draft),)


@contextmanager
def _one_line() -> Iterator[None]:
    """Whatever goes wrong with a picture, as a PictureError of one line."""
    try:
        yield
    except UnidentifiedImageError:
        raise PictureError("not a picture in a known format") from None
    except Image.DecompressionBombError:
        raise PictureError(f"more than {MAX_PIXELS // 1_000_000} megapixels") from None
    except MemoryError:
        raise PictureError("not enough memory to decode it") from None
    except PictureError:
        raise
    except Exception as error:  # the named door: Pillow's decoders raise whatever a hostile file makes them raise
        text = (str(error).splitlines() or [""])[0][:120]
        raise PictureError(f"damaged ({text or type(error).__name__})") from None


def _view(picture: Image.Image, views: str, size: int, draft: bool) -> Picture:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise PictureError(f"more than {MAX_PIXELS // 1_000_000} megapixels")
    orientation = _orientation(picture)
    if draft and picture.format == "JPEG":
        picture.draft(None, (_DRAFT * size, _DRAFT * size))
    small, box = _resize(_to_rgb(picture), views, size)
    upright = _turn(small, orientation)
    left, top, right, bottom = box
    if orientation in _TURNED:
        width, height = height, width
        left, top, right, bottom = top, left, bottom, right
    frame = Frame(width, height, left * width, top * height, right * width, bottom * height)
    return Picture(np.asarray(upright), frame, _taken(picture))


def _resize(rgb: Image.Image, views: str, size: int) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """-> square picture, and the part shown as fractions of the picture."""
    bicubic = Image.Resampling.BICUBIC
    if views == "squash":
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


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation that is left to apply: Pillow itself turns a TIFF as it loads."""
    if picture.format == "TIFF":
        return 1
    if picture.format == "PNG":
        picture.load()  # its EXIF may come last; and a damaged picture is no damaged EXIF
    found = _exif(picture, _EXIF_ORIENTATION)
    return found if isinstance(found, int) else 1


def _exif(picture: Image.Image, tag: int, more: bool = False) -> object:
    """A value of the EXIF, or of what it calls so itself; None where there is none that can be read."""
    try:
        exif = picture.getexif()
        return exif.get_ifd(_EXIF_MORE).get(tag) if more else exif.get(tag)
    except Exception:  # the named door again: broken EXIF is no reason to leave a photo out
        return None


def _taken(picture: Image.Image) -> int | None:
    """When, as the first of its EXIF's dates that makes sense has it: scope.clock_seconds."""
    for tag, more in _EXIF_DATES:
        found = _exif(picture, tag, more)
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


def open_upright(path: str) -> Image.Image:
    """The whole photo, upright, in RGB, for showing. Raises PictureError as `decode` does."""
    try:
        with _one_line(), Image.open(BytesIO(read_bytes(path))) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise PictureError(f"more than {MAX_PIXELS // 1_000_000} megapixels")
            orientation = _orientation(picture)
            return _turn(_to_rgb(picture), orientation)
    except PictureError as error:
        raise PictureError(f"{path}: {error}") from None
