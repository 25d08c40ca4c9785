"""Open the bytes of a photo of any format with Pillow. HEIC, AVIF and camera RAW need a library of their own.

The format is detected from the bytes, not from the name. A library is imported when the first photo needs it.
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
from flairsearch.images.discovery import RAW_EXTENSIONS

if TYPE_CHECKING:
    from rawpy import RawPy

HEIF, AVIF, RAW = "HEIC", "AVIF", "RAW"
MIN_PREVIEW_SIDE = 1024  # A RAW file's embedded preview is used if its long side has at least this many pixels.
_HEADER_BYTES = 4096  # The first bytes of a file are enough to detect most formats.
_INSTALL_HINTS = {
    HEIF: 'HEIC needs: pip install "flairsearch[heif]"',
    AVIF: "AVIF needs a Pillow with AVIF: pip install --upgrade pillow",
    RAW: 'RAW needs: pip install "flairsearch[raw]"',
}
_HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"))
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
_RAW_STARTS = (b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW")  # RAW files of Olympus, Panasonic and Fujifilm.
_TIFF_STARTS = (b"II*\0", b"MM\0*")  # Most other RAW files are TIFF files.
_PHOTOMETRIC = 0x0106  # The tag PhotometricInterpretation.
_SUB_DIRECTORIES = 0x014A  # The tag SubIFDs.
_DNG_VERSION = 0xC612  # The tag DNGVersion.
# PhotometricInterpretation of raw sensor data: colour filter array, LinearRaw.
_RAW_PHOTOMETRIC = frozenset({32803, 34892})
# At most this many directories of a TIFF are read, since a hostile file may chain them endlessly.
_MAX_DIRECTORIES = 64
# This maps LibRaw's flip to the EXIF orientation.
_ORIENTATION_OF_FLIP = {0: 1, 1: 2, 3: 3, 2: 4, 4: 5, 6: 6, 7: 7, 5: 8}


class OpenedImage(NamedTuple):
    """A picture with metadata of its container; only RAW files have a container whose metadata count."""

    picture: Image.Image
    orientation: int = 1  # EXIF orientation in the container, used if the picture's own EXIF has none.
    exif: bytes = b""  # EXIF data of the container, as a TIFF.
    is_upright: bool = False  # Whether the picture is upright already, whatever any EXIF says.


def open_photo(data: bytes, max_pixels: int) -> OpenedImage:
    """Open the picture in a file's bytes; the pixels of most formats are decoded later.

    Raises PictureError when the format needs a library that is not installed, or when a RAW or HEIC file has more than
    `max_pixels` pixels. Damaged data raise whatever the libraries raise.
    """
    kind = detect_kind(data)
    if kind in _INSTALL_HINTS and not _can_open(kind):
        raise PictureError(_INSTALL_HINTS[kind])
    if kind == HEIF:
        return OpenedImage(_open_heif(data, max_pixels))
    if kind == RAW:
        return _open_raw(data, max_pixels)
    return OpenedImage(Image.open(BytesIO(data)))


def missing_library(path: str) -> str | None:
    """Return what to install before the file can be opened; None when nothing seems to be missing.

    Only the file's name and first bytes are examined, so that thousands of RAW files are not read in full on every
    run. Raises OSError when the file cannot be read.
    """
    extension = os.path.splitext(path)[1].lower()
    named = RAW if extension in RAW_EXTENSIONS else {".heic": HEIF, ".heif": HEIF, ".avif": AVIF}.get(extension)
    if named is None or _can_open(named):
        return None
    with open(path, "rb") as stream:
        head = stream.read(_HEADER_BYTES)
    kind = detect_kind(head) or (named if head.startswith(_TIFF_STARTS) else "")
    return None if not kind or _can_open(kind) else _INSTALL_HINTS[kind]


def detect_kind(data: bytes) -> str:
    """Return HEIF, AVIF or RAW from a file's bytes, or just its first ones; "" for any other format."""
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
    """Return whether the library for HEIF, AVIF or RAW is installed."""
    if kind == AVIF:
        return bool(features.check("avif"))
    return find_spec("pillow_heif" if kind == HEIF else "rawpy") is not None


def _is_raw(data: bytes) -> bool:
    """Return whether a TIFF holds raw sensor data; Pillow would at best decode its thumbnail."""
    if data[8:10] == b"CR":  # This marks CR2, Canon's format.
        return True
    return any(
        tag == _DNG_VERSION or (tag == _PHOTOMETRIC and short in _RAW_PHOTOMETRIC) for tag, short in _tiff_tags(data)
    )


def _tiff_tags(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield each tag with its value, read as a 16-bit number, of all directories reachable in a TIFF."""
    order = "<" if data.startswith(b"II") else ">"
    todo, seen = [4], set[int]()  # Offsets of pointers to directories, and offsets of directories read.
    while todo and len(seen) < _MAX_DIRECTORIES:
        pointer = todo.pop()
        start = struct.unpack_from(f"{order}I", data, pointer)[0] if pointer + 4 <= len(data) else 0
        if start in seen or not 8 <= start <= len(data) - 2:
            continue
        seen.add(start)
        end = start + 2 + 12 * struct.unpack_from(f"{order}H", data, start)[0]
        for place in range(start + 2, min(end, len(data) - 11), 12):
            tag, _, count, value = struct.unpack_from(f"{order}HHII", data, place)
            yield tag, struct.unpack_from(f"{order}H", data, place + 8)[0]
            if tag == _SUB_DIRECTORIES:
                first = place + 8 if count == 1 else value
                todo += range(first, first + 4 * min(count, _MAX_DIRECTORIES), 4)
        todo.append(end)


def _open_heif(data: bytes, max_pixels: int) -> Image.Image:
    """Decode a HEIC file; pillow_heif applies its rotation."""
    from pillow_heif import HeifImageFile

    picture: Image.Image = HeifImageFile(BytesIO(data))  # type: ignore[no-untyped-call]
    _check_pixels(*picture.size, max_pixels)
    picture.load()  # The true size is known only after decoding.
    return picture


def _open_raw(data: bytes, max_pixels: int) -> OpenedImage:
    """Open the camera's embedded preview if it is large enough; else develop the sensor data at half size."""
    from rawpy import RawPy

    with RawPy() as raw:
        raw.open_buffer(BytesIO(data))
        _check_pixels(raw.sizes.raw_width, raw.sizes.raw_height, max_pixels)
        if preview := _open_preview(raw):
            orientation = _ORIENTATION_OF_FLIP.get(raw.sizes.flip, 1)
            is_rotated = _is_landscape(raw) != (preview.width > preview.height)
            return OpenedImage(preview, orientation, _exif_of(data), orientation >= 5 and is_rotated)
        raw.unpack()
        developed = Image.fromarray(raw.postprocess(half_size=True, use_camera_wb=True))
        return OpenedImage(developed, exif=_exif_of(data), is_upright=True)


def _open_preview(raw: RawPy) -> Image.Image | None:
    """Return the embedded preview, or None when there is none of at least MIN_PREVIEW_SIDE pixels."""
    from rawpy import LibRawError, ThumbFormat

    try:
        found = raw.extract_thumb()
    except LibRawError:  # The file has no preview that LibRaw can find.
        return None
    preview: Image.Image
    if isinstance(found.data, bytes):
        if found.format != ThumbFormat.JPEG:
            return None
        preview = Image.open(BytesIO(found.data))
    else:
        preview = Image.fromarray(found.data)
    return preview if max(preview.size) >= MIN_PREVIEW_SIDE else None


def _is_landscape(raw: RawPy) -> bool:
    """Return whether the sensor is wider than high; a preview of the other shape has been rotated already.

    LibRaw reports the sensor's orientation even for a preview that has been rotated.
    """
    return bool(raw.sizes.raw_width > raw.sizes.raw_height)


def _exif_of(data: bytes) -> bytes:
    """Return a RAW file's metadata as a TIFF: the file itself with a TIFF header, or the block CMT1 of a CR3."""
    if data.startswith(_RAW_STARTS[:-1]):
        return (_TIFF_STARTS[0] if data.startswith(b"II") else _TIFF_STARTS[1]) + data[4:]
    if data.startswith(_TIFF_STARTS):
        return data
    at = data.find(b"CMT1", 0, 1 << 16)
    return data[at + 4 : at + (1 << 16)] if at > 0 else b""


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise PictureError when a picture has more than `max_pixels` pixels."""
    if width * height > max_pixels:
        raise PictureError(f"more than {max_pixels // 1_000_000} megapixels")
