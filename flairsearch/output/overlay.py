"""A hit drawn on its photo: thin boxes, labels with contrast, and where its phrases warm up, if wanted.

Drawn on the photo's own pixels, never on enlarged ones. Sizes: W, H of the drawn picture; G grid side.
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

KINDS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")  # that keep who has written them
SOFTWARE = "flairsearch overlay"  # EXIF's name of who has written a file
LARGEST = 2048  # pixels of the long side: larger photos are drawn this small, as files of 30 MB help nobody
COLOURS = (  # of the phrases in turn: Okabe & Ito's, which the colour-blind tell apart
    *((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66)),
    *((204, 121, 167), (213, 94, 0), (0, 114, 178)),
)
_HAIRLINE = (0, 0, 0, 150)  # around boxes: a light line shows on a light photo too
_WARM = ((0, 0, 0), (99, 0, 0), (183, 28, 0), (236, 102, 0), (255, 176, 30), (255, 244, 150))  # even in lightness
_HOTTEST = 0.75  # opacity of the largest heat; the photo shines through
_GREYED = 0.6  # how grey the photo is under a heat map: its own reds and yellows would pass for heat
_UNSEEN = 0.5  # brightness left outside of the views that the heat is of
_SMALLEST_TEXT = 8  # pixels; a photo with no room for it goes without labels
_MOST_TEXT = 400  # characters looked at: more fit no photo
_FONTS = (  # looked for on this machine when a label needs more than ASCII, all that Pillow's own font has
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "segoeui.ttf", "Arial Unicode.ttf"),
    *("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "msyh.ttc"),
)

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def save_overlay(hit: Hit, photo: Image.Image, path: Path, heat: bool = False) -> None:
    """Write `overlay` as the kind of file that the path's ending says, over an older one, but over nothing else.

    Raises FlairSearchError when the file cannot be written, is of none of KINDS, or is there and not written by this.
    """
    if path.suffix.lower() not in KINDS:
        raise FlairSearchError(f"{path} is no name for an overlay - let it end with {', '.join(KINDS)}")
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = SOFTWARE
    try:
        if path.exists() and not _is_overlay(path):
            raise FlairSearchError(f"{path} is there already, and no overlay - give another folder or file")
        path.parent.mkdir(parents=True, exist_ok=True)
        # halved colour would smear thin lines
        overlay(hit, photo, heat).save(path, quality=92, subsampling=0, exif=exif)
    except (OSError, ValueError) as error:
        raise FlairSearchError(f"{path} cannot be written ({error}) - give another folder or file") from None


def _is_overlay(path: Path) -> bool:
    return path.is_file() and SOFTWARE.encode() in path.read_bytes()  # EXIF keeps it as it is, in all of KINDS


def overlay(hit: Hit, photo: Image.Image, heat: bool = False, labels: bool = True) -> Image.Image:
    """The photo with each phrase's regions in a colour of its own: the best labelled, the others thinner.

    photo: upright, RGB, the original or a smaller copy. The result has its size, or LARGEST on the long side where
    that is less. `heat`: also where the phrases are warm.
    """
    picture = _canvas(photo)
    if heat:
        picture = _blend(picture, hit.phrases)
    size = picture.size
    line = max(1, round(math.sqrt(max(size) / 125)))  # 2 pixels at 500, 4 at 2000
    pen = ImageDraw.Draw(picture, "RGBA")
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(hit.phrases))]
    boxes = [[_scale(region.box, hit, size) for region in phrase.regions] for phrase in hit.phrases]
    for colour, several in zip(colours, boxes, strict=True):
        for box in several[1:]:
            _draw_box(pen, box, colour, max(1, line // 2))
    best = [several[0] if several else None for several in boxes]
    for i in reversed(range(len(best))):  # the first phrase's box on top
        if first := best[i]:
            _draw_box(pen, _inset(first, best[:i].count(first) * (line + 1)), colours[i], line)
    if labels:
        texts = [(phrase.text, f"{phrase.score:.2f}") for phrase in hit.phrases]
        _write(picture, texts, [box or (0, 0, *size) for box in best], colours)
    return picture


def _canvas(photo: Image.Image) -> Image.Image:
    """A copy to draw on, no larger than LARGEST."""
    scale = LARGEST / max(photo.size)
    if scale >= 1:
        return photo.convert("RGB")
    wide, high = (max(1, round(side * scale)) for side in photo.size)
    return photo.resize((wide, high), Image.Resampling.LANCZOS, reducing_gap=3.0).convert("RGB")


def _scale(box: Box, hit: Hit, size: tuple[int, int]) -> Box:
    """Pixels of the original -> of the drawn picture, at least 1 x 1."""
    left, top, right, bottom = box
    drawn = Frame(*size, 0, 0, *size)
    return drawn.to_pixels(left / hit.width, top / hit.height, right / hit.width, bottom / hit.height)


def _inset(box: Box, by: int) -> Box:
    """Smaller on all sides, so that two phrases' boxes at one place both show; not where nothing would be left."""
    left, top, right, bottom = box
    by = min(by, (right - left - 1) // 3, (bottom - top - 1) // 3)
    return left + by, top + by, right - by, bottom - by


def _draw_box(pen: ImageDraw.ImageDraw, box: Box, colour: Colour, line: int) -> None:
    """The line inside the box, the hairline around it."""
    left, top, right, bottom = box
    line = min(line, (min(right - left, bottom - top) + 1) // 2)
    pen.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=line)
    pen.rectangle((left - 1, top - 1, right, bottom), outline=_HAIRLINE)


def _write(
    picture: Image.Image, labels: Sequence[tuple[str, str]], places: Sequence[Box], colours: Sequence[Colour]
) -> None:
    """A label (text, score) at each place, none over another while there is room."""
    wanted = max(11.0, 0.336 * max(picture.size) ** 0.6)  # 14 pixels at 500, 32 at 2000
    size = round(min(wanted, 0.3 * picture.height))
    taken: list[Box] = []
    for (text, score), place, colour in zip(labels, places, colours, strict=True):
        tag = _make_tag(text, score, colour, size, picture.width) if size >= _SMALLEST_TEXT else None
        if tag:
            taken.append(_find_spot(tag.size, place, picture.size, taken))
            picture.paste(tag, taken[-1][:2], tag)


def _find_spot(tag: tuple[int, int], box: Box, size: tuple[int, int], taken: Sequence[Box]) -> Box:
    """Above the box, below, inside at its top, its bottom; else anywhere. The first that is free, or else the first."""
    spots = (
        (x, y, x + tag[0], y + tag[1])
        for near, y in _spots(tag, box, size)
        for x in [min(max(near, 0), size[0] - tag[0])]
        if 0 <= y <= size[1] - tag[1]
    )
    first = None
    for left, top, right, bottom in spots:
        first = first or (left, top, right, bottom)
        if not any(left < r and l < right and top < b and t < bottom for l, t, r, b in taken):  # noqa: E741
            return left, top, right, bottom
    return first or (0, 0, *tag)


def _spots(tag: tuple[int, int], box: Box, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Left and top of a label, best first; some lie outside the picture."""
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
    """A rounded RGBA tag no wider than `limit`, the text cut to fit; None where not even the score does."""
    font, shown = _choose_font(_printable(text), size)
    pad, gap = round(0.45 * size), round(0.5 * size)
    _, top, _, bottom = font.getbbox("Ág|")  # of the line: all tags are as high, whatever their letters
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
    mask = Image.new("L", (4 * wide, 4 * high))  # drawn large and shrunk: Pillow's own corners are jagged
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * wide - 1, 4 * high - 1), 4 * max(2, size // 5), fill=255)
    tag.putalpha(mask.resize((wide, high), Image.Resampling.BOX))
    return tag


def _printable(text: str) -> str:
    """One line without what would not show, or turn the text around; joiners shape letters, so they stay."""
    shown = []
    for letter in text[:_MOST_TEXT]:
        if letter.isprintable() or letter in "\u200c\u200d":
            shown.append(letter)
        elif unicodedata.category(letter) != "Cf":
            shown.append(" ")
    return " ".join("".join(shown).split())


def _choose_font(text: str, size: int) -> tuple[Font, str]:
    """A font that has all of the text's letters, if this machine has one; else accents go, as ASCII is always there."""
    own: Font = ImageFont.load_default(size)
    if text.isascii():
        return own, text
    for name in _FONTS:
        try:
            font = ImageFont.truetype(name, size)
        except OSError:
            continue
        missing = bytes(font.getmask("\U0010fffd"))
        if all(bytes(font.getmask(letter)) != missing for letter in set(text)):
            return font, text
    return own, "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))


def _cut(text: str, font: Font, limit: float) -> str:
    """As much of the text as is no wider than `limit` pixels; "" when that is nothing."""
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
    """Black or white, whichever has more contrast; that is 4.58 at least (WCAG 2.1, relative luminance)."""
    parts = (part / 255 for part in colour)
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return (0, 0, 0) if (light + 0.05) ** 2 > 1.05 * 0.05 else (255, 255, 255)


def _blend(picture: Image.Image, phrases: Sequence[PhraseMatch]) -> Image.Image:
    """The picture under the largest heat of all phrases, and darker where none of their views reaches."""
    heat, seen = np.zeros(picture.size[::-1], np.float32), np.zeros(picture.size[::-1], np.bool_)
    for phrase in phrases:
        view = _resized(phrase.frame, picture.size)
        left, top, right, bottom = view.to_pixels(0, 0, 1, 1)
        part = np.s_[top:bottom, left:right]
        heat[part] = np.maximum(heat[part], _spread(phrase, view, (left, top, right, bottom)))
        seen[part] = True
    level = (heat * 255 + 0.5).astype(np.uint8)
    anchors, levels = np.array(_WARM), np.linspace(0, 1, 256)
    at = np.linspace(0, 1, len(anchors))
    table = np.stack([np.interp(levels, at, anchors[:, part]) for part in range(3)], 1).astype(np.uint8)
    picture = Image.blend(picture, picture.convert("L").convert("RGB"), _GREYED)
    dark = picture.point([round(_UNSEEN * value) for value in range(256)] * 3)
    picture = Image.composite(picture, dark, Image.fromarray(seen))
    opacity = Image.fromarray((levels**0.75 * _HOTTEST * 255).astype(np.uint8)[level])
    return Image.composite(Image.fromarray(table[level]), picture, opacity)


def _resized(frame: Frame, size: tuple[int, int]) -> Frame:
    """Where a view lies on the drawn picture."""
    across, down = size[0] / frame.width, size[1] / frame.height
    return Frame(*size, frame.left * across, frame.top * down, frame.right * across, frame.bottom * down)


def _spread(phrase: PhraseMatch, view: Frame, part: Box) -> NDArray[np.float32]:
    """The phrase's heat on that part of the drawn picture: f32[height, width], 0 (the mean or less) to 1 (its most)."""
    left, top, right, bottom = part
    raised = np.zeros((1, 1), np.float32) if phrase.heat is None else np.nan_to_num(phrase.heat.astype(np.float32))
    raised = np.maximum(raised - raised.mean(), 0)
    if not raised.any():
        return np.zeros((bottom - top, right - left), np.float32)
    rows, columns = raised.shape
    cells = [
        min(max(edge, 0.0), 1.0) * most for edge, most in zip(view.to_view(part), (columns, rows) * 2, strict=True)
    ]
    wanted = (right - left, bottom - top)
    smooth = Image.fromarray(raised / raised.max()).resize(wanted, Image.Resampling.BICUBIC, (*cells,))
    return np.asarray(smooth, np.float32).clip(0, 1)
