"""Thumbnails of hits in a terminal, for the cells of a table.

textual-image draws real pixels if the terminal supports it (Kitty's protocol or Sixel), else two coloured pixels per
character. It queries the terminal on import, so it is imported only if there is a terminal that can answer.
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

MAX_ASPECT = 2  # A thumbnail is at most this many times as wide as it is high.
_LINE_PX = 20  # The assumed height of a terminal line in pixels; it suffices for terminals with higher lines.
_HALFCELL_LINE_PX = 2  # The height of a line in pixels if a character shows two of them.

_Render = Callable[[Image.Image], "RenderableType"]


def thumbnails(hits: Sequence[Hit], height: int = 6) -> list[RenderableType] | None:
    """Return a picture of each hit with its best regions, at most `height` lines high; "" if a photo cannot be read.

    None if the terminal cannot show pictures, stdout or stdin is not a terminal, or the extra is not installed.
    """
    renderer = _find_renderer()
    if renderer is None:
        return None
    render, line_px = renderer
    pictures = [shrink(hit, height * line_px) for hit in hits]
    return ["" if picture is None else render(picture) for picture in pictures]


def shrink(hit: Hit, high: int) -> Image.Image | None:
    """Return a hit's photo, at most `high` pixels high, with each phrase's best region; None if it cannot be read."""
    try:
        photo = open_upright(hit.path, min_side=high)
    except PictureError:
        return None
    scale = min(high / photo.height, MAX_ASPECT * high / photo.width)
    small = photo.resize((max(1, round(photo.width * scale)), max(1, round(photo.height * scale))))
    best = tuple(replace(phrase, regions=phrase.regions[:1]) for phrase in hit.phrases)
    return overlay.draw_overlay(replace(hit, phrases=best), small, labels=False)


def _find_renderer() -> tuple[_Render, int] | None:
    """Return a function that makes a picture renderable, and the height of a line in pixels; None without support."""
    if not _is_terminal() or os.environ.get("NO_COLOR") or find_spec("textual_image") is None:
        return None
    if Console().color_system not in ("256", "truecolor", "windows"):
        return None
    # Without a handler, textual-image would print a message if the terminal does not answer.
    logging.getLogger("textual_image").addHandler(logging.NullHandler())
    from textual_image.renderable import HalfcellImage, UnicodeImage
    from textual_image.renderable import Image as BestImage

    if BestImage is UnicodeImage:
        return None

    line_px = _HALFCELL_LINE_PX if BestImage is HalfcellImage else _LINE_PX

    def render(picture: Image.Image) -> RenderableType:
        return BestImage(picture, width="auto", height=max(1, round(picture.height / line_px)))

    return render, line_px


def _is_terminal() -> bool:
    """Whether stdin and stdout are a terminal of a known size, so that it can be queried."""
    streams = sys.__stdout__, sys.__stdin__, sys.stdout
    if not all(stream and not stream.closed and stream.isatty() for stream in streams):
        return False
    try:
        return min(os.get_terminal_size(sys.stdout.fileno())) > 0
    except (OSError, ValueError):
        return False
