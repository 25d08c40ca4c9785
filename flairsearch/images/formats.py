"""Bytes of a photo, of any kind -> Pillow's picture. Kinds that need a library of their own: HEIC, AVIF, camera RAW.

What a photo is, its bytes say, not its name. A library is imported when the first photo of its kind comes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, features

from flairsearch.core.errors import PictureError
from flairsearch.images.discovery import RAW_NAMES

if TYPE_CHECKING:
    from rawpy import RawPy

HEIF, AVIF, RAW = "HEIC", "AVIF", "RAW"
LARGE_PREVIEW = 1024  # pixels of the long side from which on a RAW file's own preview is the photo
_HEAD = 4096  # bytes that tell most kinds
_NEEDS = {
    HEIF: 'HEIC needs: pip install "flairsearch[heif]"',
    AVIF: "AVIF needs a Pillow with AVIF: pip install --upgrade pillow",
    RAW: 'RAW needs: pip install "flairsearch[raw]"',
}
_HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"))
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
_RAW_STARTS = (b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW")  # Olympus, Panasonic, Fujifilm
_TIFF_STARTS = (b"II*\0", b"MM\0*")  # most other RAW files start as a TIFF does
_PHOTOMETRIC, _SUB_FOLDERS, _DNG_VERSION = 0x0106, 0x014A, 0xC612
_UNDEVELOPED = frozenset({32803, 34892})  # values of the first: a mosaic of colours, linear light
_MOST_FOLDERS = 64  # directories of a TIFF that are looked at
_TURNS = {0: 1, 1: 2, 3: 3, 2: 4, 4: 5, 6: 6, 7: 7, 5: 8}  # LibRaw's flip -> EXIF orientation


class OpenedImage(NamedTuple):
    """A picture, and what the file around it says of it: of RAW files alone, where its own EXIF does not."""

    picture: Image.Image
    turn: int = 1  # EXIF orientation
    exif: bytes = b""  # as a TIFF
    upright: bool = False  # whatever any EXIF says


def open_photo(data: bytes, most_pixels: int) -> OpenedImage:
    """The picture in a file's bytes; pixels of most kinds are decoded later.

    Raises PictureError when the kind needs a library that is not installed, or a RAW file or HEIC has more pixels than
    `most_pixels`; whatever the libraries raise when the data are damaged.
    """
    kind = find_kind(data)
    if kind in _NEEDS and not _can_open(kind):
        raise PictureError(_NEEDS[kind])
    if kind == HEIF:
        return OpenedImage(_open_heif(data, most_pixels))
    if kind == RAW:
        return _open_raw(data, most_pixels)
    return OpenedImage(Image.open(BytesIO(data)))


def missing(path: str) -> str | None:
    """Why a file cannot be opened here, as its name and first bytes say: what to install; None when it may well be.

    So that a folder of thousands of RAW files is not read again in each run for nothing. Raises OSError.
    """
    ending = os.path.splitext(path)[1].lower()
    named = RAW if ending in RAW_NAMES else {".heic": HEIF, ".heif": HEIF, ".avif": AVIF}.get(ending)
    if named is None or _can_open(named):
        return None
    with open(path, "rb") as stream:
        head = stream.read(_HEAD)
    kind = find_kind(head) or (named if head.startswith(_TIFF_STARTS) else "")
    return None if not kind or _can_open(kind) else _NEEDS[kind]


def find_kind(data: bytes) -> str:
    """HEIF, AVIF or RAW; "" for all that Pillow opens, or nobody. The first bytes may do."""
    if data[4:8] == b"ftyp":
        size = min(int.from_bytes(data[:4], "big"), 256)
        brands = {data[at : at + 4] for at in (8, *range(16, size - 3, 4))}
        if brands & _AVIF_BRANDS:
            return AVIF
        return RAW if data[8:12] == b"crx " else HEIF if brands & _HEIF_BRANDS else ""
    if data.startswith(_RAW_STARTS):
        return RAW
    return RAW if data.startswith(_TIFF_STARTS) and _is_raw(data) else ""


def _can_open(kind: str) -> bool:
    if kind == AVIF:
        return bool(features.check("avif"))
    return find_spec("pillow_heif" if kind == HEIF else "rawpy") is not None


def _is_raw(data: bytes) -> bool:
    """Whether a TIFF holds what a sensor saw: Pillow would show the thumbnail beside it, if anything."""
    if data[8:10] == b"CR":  # Canon's second kind
        return True
    return any(
        tag == _DNG_VERSION or (tag == _PHOTOMETRIC and short in _UNDEVELOPED) for tag, short in _tiff_tags(data)
    )


def _tiff_tags(data: bytes) -> Iterator[tuple[int, int]]:
    """Tag and value, were it a short one, of all directories of a TIFF that can be reached."""
    order = "<" if data.startswith(b"II") else ">"
    todo, seen = [4], set[int]()  # places of pointers to directories; directories
    while todo and len(seen) < _MOST_FOLDERS:
        pointer = todo.pop()
        start = struct.unpack_from(f"{order}I", data, pointer)[0] if pointer + 4 <= len(data) else 0
        if start in seen or not 8 <= start <= len(data) - 2:
            continue
        seen.add(start)
        end = start + 2 + 12 * struct.unpack_from(f"{order}H", data, start)[0]
        for place in range(start + 2, min(end, len(data) - 11), 12):
            tag, _, count, value = struct.unpack_from(f"{order}HHII", data, place)
            yield tag, struct.unpack_from(f"{order}H", data, place + 8)[0]
            if tag == _SUB_FOLDERS:
                first = place + 8 if count == 1 else value
                todo += range(first, first + 4 * min(count, _MOST_FOLDERS), 4)
        todo.append(end)


def _open_heif(data: bytes, most_pixels: int) -> Image.Image:
    from pillow_heif import HeifImageFile

    picture: Image.Image = HeifImageFile(BytesIO(data))  # type: ignore[no-untyped-call] # upright: it tells its EXIF
    _check_pixels(*picture.size, most_pixels)
    picture.load()  # only now its size is sure
    return picture


def _open_raw(data: bytes, most_pixels: int) -> OpenedImage:
    """The preview that the camera made, where it is large; else the sensor's picture at half its size."""
    from rawpy import RawPy

    with RawPy() as raw:
        raw.open_buffer(BytesIO(data))
        _check_pixels(raw.sizes.raw_width, raw.sizes.raw_height, most_pixels)
        if preview := _open_preview(raw):
            turn = _TURNS.get(raw.sizes.flip, 1)
            return OpenedImage(
                preview, turn, _exif_of(data), turn >= 5 and _lies(raw) != (preview.width > preview.height)
            )
        raw.unpack()
        developed = Image.fromarray(raw.postprocess(half_size=True, use_camera_wb=True))
        return OpenedImage(developed, exif=_exif_of(data), upright=True)


def _open_preview(raw: RawPy) -> Image.Image | None:
    from rawpy import LibRawError, ThumbFormat

    try:
        found = raw.extract_thumb()
    except LibRawError:  # there is none, or none that LibRaw can tell
        return None
    preview: Image.Image
    if isinstance(found.data, bytes):
        if found.format != ThumbFormat.JPEG:
            return None
        preview = Image.open(BytesIO(found.data))
    else:
        preview = Image.fromarray(found.data)
    return preview if max(preview.size) >= LARGE_PREVIEW else None


def _lies(raw: RawPy) -> bool:
    """Whether the sensor is wider than high; a preview of the other shape is turned already.

    LibRaw gives a preview without EXIF the sensor's orientation, whatever it is.
    """
    return bool(raw.sizes.raw_width > raw.sizes.raw_height)


def _exif_of(data: bytes) -> bytes:
    """The TIFF that a RAW file is, but for its first bytes; or that holds the dates in Canon's third kind."""
    if data.startswith(_RAW_STARTS[:-1]):
        return (_TIFF_STARTS[0] if data.startswith(b"II") else _TIFF_STARTS[1]) + data[4:]
    if data.startswith(_TIFF_STARTS):
        return data
    at = data.find(b"CMT1", 0, 1 << 16)
    return data[at + 4 : at + (1 << 16)] if at > 0 else b""


def _check_pixels(width: int, height: int, most_pixels: int) -> None:
    if width * height > most_pixels:
        raise PictureError(f"more than {most_pixels // 1_000_000} megapixels")
