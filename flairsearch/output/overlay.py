"""Draws a hit on its photo: thin boxes, labels with contrast and, on request, a heat map.

A large photo is reduced before drawing; a photo is never enlarged.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageDraw, ImageFont

from flairsearch.core.errors import FlairSearchError
from flairsearch.core.hits import Hit, PhraseMatch
from flairsearch.core.types import Box, Frame

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
"""The file formats that keep EXIF, and with it the name of the software."""
SOFTWARE = "flairsearch overlay"  # EXIF names this software, so that an overlay may replace an older overlay only.
MAX_SIDE_PX = 2048  # Larger photos are reduced to this long side, because files of 30 MB are of no use.
COLOURS = (
    *((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66)),
    *((204, 121, 167), (213, 94, 0), (0, 114, 178)),
)
"""The colours of the phrases in turn: Okabe and Ito's palette, which colour-blind people can tell apart."""
_HAIRLINE = (0, 0, 0, 150)  # A thin dark frame makes a light box visible on a light photo.
_HEAT_COLOURS = ((0, 0, 0), (99, 0, 0), (183, 28, 0), (236, 102, 0), (255, 176, 30), (255, 244, 150))
"""The colour map of the heat, from the mean to the maximum; its steps in lightness are even."""
_MAX_HEAT_OPACITY = 0.75  # The photo remains visible even under the largest heat.
_DESATURATION = 0.6  # The photo is greyed by this share under a heat map; its own reds could be taken for heat.
_OUTSIDE_BRIGHTNESS = 0.5  # The photo is darkened to this share outside of the views that the heat is known for.
_MIN_FONT_PX = 8  # A photo too small for this font size gets no labels.
_MAX_LABEL_CHARS = 400  # More characters never fit on a photo.
_FALLBACK_FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "segoeui.ttf", "Arial Unicode.ttf"),
    *("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "msyh.ttc"),
)
"""The system fonts to try for labels beyond ASCII; Pillow's own font has ASCII only."""

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def save_overlay(hit: Hit, photo: Image.Image, path: Path, heat: bool = False) -> None:
    """Write `draw_overlay` to a file in the format of the path's suffix; an older overlay is replaced.

    Raises FlairSearchError if the suffix is not one of SUFFIXES, the file cannot be written, or it exists and is not an
    overlay.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise FlairSearchError(f"{path} has no supported suffix - use one of {', '.join(SUFFIXES)}")
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = SOFTWARE
    try:
        if path.exists() and not _is_overlay(path):
            raise FlairSearchError(f"{path} exists and is not an overlay - give another folder or file")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Chroma subsampling would blur thin lines.
        draw_overlay(hit, photo, heat).save(path, quality=92, subsampling=0, exif=exif)
    except (OSError, ValueError) as error:
        raise FlairSearchError(f"{path} cannot be written ({error}) - give another folder or file") from None


def _is_overlay(path: Path) -> bool:
    """Whether the file was written by `save_overlay`; all of SUFFIXES store the software's name uncompressed."""
    return path.is_file() and SOFTWARE.encode() in path.read_bytes()


def draw_overlay(hit: Hit, photo: Image.Image, heat: bool = False, labels: bool = True) -> Image.Image:
    """Draw each phrase's regions in its colour: the best region with a label, the others with thinner lines.

    photo: the upright original in RGB, or a smaller copy. heat: whether to draw the phrases' heat maps, too.
    The result has the photo's size, or MAX_SIDE_PX on the long side if that is smaller.
    """
    picture = _canvas(photo)
    if heat:
        picture = _blend(picture, hit.phrases)
    size = picture.size
    line = max(1, round(math.sqrt(max(size) / 125)))  # A line is 2 pixels wide on a side of 500 pixels, 4 on 2000.
    pen = ImageDraw.Draw(picture, "RGBA")
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(hit.phrases))]
    boxes = [[_scale(region.box, hit, size) for region in phrase.regions] for phrase in hit.phrases]
    for colour, phrase_boxes in zip(colours, boxes, strict=True):
        for box in phrase_boxes[1:]:
            _draw_box(pen, box, colour, max(1, line // 2))
    best = [phrase_boxes[0] if phrase_boxes else None for phrase_boxes in boxes]
    for i in reversed(range(len(best))):  # The first phrase's box is drawn last, on top.
        if first := best[i]:
            _draw_box(pen, _inset(first, best[:i].count(first) * (line + 1)), colours[i], line)
    if labels:
        texts = [(phrase.text, f"{phrase.score:.2f}") for phrase in hit.phrases]
        _draw_labels(picture, texts, [box or (0, 0, *size) for box in best], colours)
    return picture


def _canvas(photo: Image.Image) -> Image.Image:
    """Return an RGB copy to draw on, with at most MAX_SIDE_PX on the long side."""
    scale = MAX_SIDE_PX / max(photo.size)
    if scale >= 1:
        return photo.convert("RGB")
    wide, high = (max(1, round(side * scale)) for side in photo.size)
    return photo.resize((wide, high), Image.Resampling.LANCZOS, reducing_gap=3.0).convert("RGB")


def _scale(box: Box, hit: Hit, size: tuple[int, int]) -> Box:
    """Convert a box from pixels of the original to pixels of the drawn picture, at least 1 x 1."""
    left, top, right, bottom = box
    drawn = Frame(*size, 0, 0, *size)
    return drawn.to_pixels(left / hit.width, top / hit.height, right / hit.width, bottom / hit.height)


def _inset(box: Box, by: int) -> Box:
    """Shrink a box by `by` pixels on all sides, or less if it is small: equal boxes of two phrases are both visible."""
    left, top, right, bottom = box
    by = min(by, (right - left - 1) // 3, (bottom - top - 1) // 3)
    return left + by, top + by, right - by, bottom - by


def _draw_box(pen: ImageDraw.ImageDraw, box: Box, colour: Colour, line: int) -> None:
    """Draw the line inside the box's edges and the hairline around it."""
    left, top, right, bottom = box
    line = min(line, (min(right - left, bottom - top) + 1) // 2)
    pen.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=line)
    pen.rectangle((left - 1, top - 1, right, bottom), outline=_HAIRLINE)


def _draw_labels(
    picture: Image.Image, labels: Sequence[tuple[str, str]], boxes: Sequence[Box], colours: Sequence[Colour]
) -> None:
    """Draw a label (text, score) at each box; labels overlap only if there is no free room."""
    wanted = max(11.0, 0.336 * max(picture.size) ** 0.6)  # The font has 14 pixels on a side of 500 pixels, 32 on 2000.
    size = round(min(wanted, 0.3 * picture.height))
    taken: list[Box] = []
    for (text, score), box, colour in zip(labels, boxes, colours, strict=True):
        tag = _make_tag(text, score, colour, size, picture.width) if size >= _MIN_FONT_PX else None
        if tag:
            taken.append(_find_position(tag.size, box, picture.size, taken))
            picture.paste(tag, taken[-1][:2], tag)


def _find_position(tag: tuple[int, int], box: Box, size: tuple[int, int], taken: Sequence[Box]) -> Box:
    """Return the first free position for a tag, or the first position if none is free."""
    positions = (
        (x, y, x + tag[0], y + tag[1])
        for left, y in _candidate_positions(tag, box, size)
        for x in [min(max(left, 0), size[0] - tag[0])]
        if 0 <= y <= size[1] - tag[1]
    )
    first = None
    for left, top, right, bottom in positions:
        first = first or (left, top, right, bottom)
        if not any(left < r and l < right and top < b and t < bottom for l, t, r, b in taken):  # noqa: E741
            return left, top, right, bottom
    return first or (0, 0, *tag)


def _candidate_positions(tag: tuple[int, int], box: Box, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield left and top of a label: above the box, below, inside, elsewhere; some are outside the picture."""
    wide, high = tag
    left, top, right, bottom = box
    rows = (top - high, bottom, top, bottom - high) if top >= high else (top, bottom, bottom - high)
    for y in rows:
        yield left, y
        yield right - wide, y
    steps = range(0, size[1] - high + 1, max(1, high // 4))
    for y in sorted(steps, key=lambda y: abs(y - top)):
        for x in range(0, size[0] - wide + 1, max(1, high)):
            yield x, y


def _make_tag(text: str, score: str, colour: Colour, size: int, limit: int) -> Image.Image | None:
    """Draw a rounded RGBA tag at most `limit` pixels wide, with the text cut to fit; None if no text fits."""
    font, shown = _choose_font(_printable(text), size)
    pad, gap = round(0.45 * size), round(0.5 * size)
    _, top, _, bottom = font.getbbox("Ág|")  # All tags have the height of these letters.
    after = math.ceil(font.getlength(score))
    shown = _cut(shown, font, limit - 2 * pad - gap - after)
    if not shown and text:
        return None
    before = math.ceil(font.getlength(shown))
    wide, high = before + gap + after + 2 * pad, math.ceil(bottom - top) + round(0.5 * size)
    tag, ink = Image.new("RGB", (wide, high), colour), _ink(colour)
    pen, base = ImageDraw.Draw(tag), (high - (bottom - top)) / 2 - top
    pen.text((pad, base), shown, fill=ink, font=font)
    pen.text((pad + before + gap, base), score, fill=ink, font=font)
    mask = Image.new(
        "L", (4 * wide, 4 * high)
    )  # The mask is drawn at four times the size, as Pillow does not smooth corners.
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * wide - 1, 4 * high - 1), 4 * max(2, size // 5), fill=255)
    tag.putalpha(mask.resize((wide, high), Image.Resampling.BOX))
    return tag


def _printable(text: str) -> str:
    """Return the text as one line, without invisible characters other than joiners, which shape letters."""
    shown = []
    for letter in text[:_MAX_LABEL_CHARS]:
        if letter.isprintable() or letter in "\u200c\u200d":
            shown.append(letter)
        elif unicodedata.category(letter) != "Cf":
            shown.append(" ")
    return " ".join("".join(shown).split())


def _choose_font(text: str, size: int) -> tuple[Font, str]:
    """Return a font with all letters of the text; without one, Pillow's font and the text without accents."""
    own: Font = ImageFont.load_default(size)
    if text.isascii():
        return own, text
    for name in _FALLBACK_FONTS:
        try:
            font = ImageFont.truetype(name, size)
        except OSError:
            continue
        missing = bytes(font.getmask("\U0010fffd"))
        if all(bytes(font.getmask(letter)) != missing for letter in set(text)):
            return font, text
    return own, "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))


def _cut(text: str, font: Font, limit: float) -> str:
    """Return as much of the text as fits into `limit` pixels, with an ellipsis if it is cut; "" if nothing fits."""
    if font.getlength(text) <= limit:
        return text
    few, many = 0, len(text)
    while many - few > 1:
        middle = (few + many) // 2
        if font.getlength(text[:middle].rstrip() + "…") <= limit:
            few = middle
        else:
            many = middle
    return text[:few].rstrip() + "…" if few else ""


def _ink(colour: Colour) -> Colour:
    """Return black or white, whichever has more contrast: at least 4.58 (WCAG 2.1, relative luminance)."""
    parts = (part / 255 for part in colour)
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return (0, 0, 0) if (light + 0.05) ** 2 > 1.05 * 0.05 else (255, 255, 255)


def _blend(picture: Image.Image, phrases: Sequence[PhraseMatch]) -> Image.Image:
    """Lay the largest heat of all phrases over the picture, and darken it outside of the phrases' views."""
    heat, seen = np.zeros(picture.size[::-1], np.float32), np.zeros(picture.size[::-1], np.bool_)
    for phrase in phrases:
        view = _resized(phrase.frame, picture.size)
        left, top, right, bottom = view.to_pixels(0, 0, 1, 1)
        part = np.s_[top:bottom, left:right]
        heat[part] = np.maximum(heat[part], _heat_on(phrase, view, (left, top, right, bottom)))
        seen[part] = True
    level = (heat * 255 + 0.5).astype(np.uint8)
    anchors, levels = np.array(_HEAT_COLOURS), np.linspace(0, 1, 256)
    stops = np.linspace(0, 1, len(anchors))
    table = np.stack([np.interp(levels, stops, anchors[:, part]) for part in range(3)], 1).astype(np.uint8)
    picture = Image.blend(picture, picture.convert("L").convert("RGB"), _DESATURATION)
    dark = picture.point([round(_OUTSIDE_BRIGHTNESS * value) for value in range(256)] * 3)
    picture = Image.composite(picture, dark, Image.fromarray(seen))
    opacity = Image.fromarray((levels**0.75 * _MAX_HEAT_OPACITY * 255).astype(np.uint8)[level])
    return Image.composite(Image.fromarray(table[level]), picture, opacity)


def _resized(frame: Frame, size: tuple[int, int]) -> Frame:
    """Return the frame of a view on the drawn picture."""
    across, down = size[0] / frame.width, size[1] / frame.height
    return Frame(*size, frame.left * across, frame.top * down, frame.right * across, frame.bottom * down)


def _heat_on(phrase: PhraseMatch, view: Frame, part: Box) -> NDArray[np.float32]:
    """Return a phrase's heat on a part of the picture, f32[height, width]: 0 (the mean or less) to 1 (the maximum)."""
    left, top, right, bottom = part
    raised = np.zeros((1, 1), np.float32) if phrase.heat is None else np.nan_to_num(phrase.heat.astype(np.float32))
    raised = np.maximum(raised - raised.mean(), 0)
    if not raised.any():
        return np.zeros((bottom - top, right - left), np.float32)
    rows, columns = raised.shape
    cells = [
        min(max(edge, 0.0), 1.0) * count for edge, count in zip(view.to_view(part), (columns, rows) * 2, strict=True)
    ]
    part_size = (right - left, bottom - top)
    smooth = Image.fromarray(raised / raised.max()).resize(part_size, Image.Resampling.BICUBIC, (*cells,))
    return np.asarray(smooth, np.float32).clip(0, 1)
