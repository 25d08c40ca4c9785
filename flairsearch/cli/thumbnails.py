"""Hits as small pictures in a terminal, for a table's cells.

By textual-image: pictures proper where the terminal has them (Kitty's protocol, Sixel), else two coloured pixels a
character. It asks the terminal when it is imported, so it is imported only where there is one to ask and to answer.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from PIL import Image
from rich.console import Console

from flairsearch.core.errors import PictureError
from flairsearch.core.hits import Hit
from flairsearch.images.decoding import open_upright
from flairsearch.output import overlay

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDEST = 2  # width of a thumbnail over its height, pixels
_LINE = 20  # pixels of a line of the terminal, about; enough for those with larger ones
_HALVES = 2  # pixels of it where a character is two of them

_Make = Callable[[Image.Image], "RenderableType"]


def thumbnails(hits: Sequence[Hit], height: int = 6) -> list[RenderableType] | None:
    """A picture of each hit with its best regions drawn, so many lines high at most; "" where a photo cannot be read.

    None when the terminal shows none, stdout or stdin is no terminal, or the extra is not installed.
    """
    found = _find_maker()
    if found is None:
        return None
    make, line = found
    pictures = [shrink(hit, height * line) for hit in hits]
    return ["" if picture is None else make(picture) for picture in pictures]


def shrink(hit: Hit, high: int) -> Image.Image | None:
    """The photo of a hit, at most so many pixels high, with the best region of each phrase; None: it cannot be read."""
    try:
        photo = open_upright(hit.path, min_side=high)
    except PictureError:
        return None
    scale = min(high / photo.height, WIDEST * high / photo.width)
    small = photo.resize((max(1, round(photo.width * scale)), max(1, round(photo.height * scale))))
    best = tuple(replace(phrase, regions=phrase.regions[:1]) for phrase in hit.phrases)
    return overlay.overlay(replace(hit, phrases=best), small, labels=False)


def _find_maker() -> tuple[_Make, int] | None:
    """What makes a picture's renderable, and how many of its pixels are a line."""
    if not _is_terminal() or os.environ.get("NO_COLOR") or find_spec("textual_image") is None:
        return None
    if Console().color_system not in ("256", "truecolor", "windows"):
        return None
    logging.getLogger("textual_image").addHandler(logging.NullHandler())  # a terminal that does not answer is no news
    from textual_image.renderable import HalfcellImage, UnicodeImage
    from textual_image.renderable import Image as Best

    if Best is UnicodeImage:
        return None

    line = _HALVES if Best is HalfcellImage else _LINE

    def make(picture: Image.Image) -> RenderableType:
        return Best(picture, width="auto", height=max(1, round(picture.height / line)))

    return make, line


def _is_terminal() -> bool:
    """Whether there is one to ask, to read its answer from, and of a known size."""
    streams = sys.__stdout__, sys.__stdin__, sys.stdout
    if not all(stream and not stream.closed and stream.isatty() for stream in streams):
        return False
    try:
        return min(os.get_terminal_size(sys.stdout.fileno())) > 0
    except (OSError, ValueError):
        return False
