"""Query and ImageExample: what to look for, what must not be there, and where in the photo the match must be."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from flairsearch.core.errors import UsageError
from flairsearch.core.option import as_tuple, option
from flairsearch.core.types import Box

# The parts of a photo that a match can be required to lie in.
POSITIONS = ("left", "right", "top", "bottom", "center")
MAX_TEXT_LETTERS = 1000  # HTTP accepts texts of at most this many characters; the model reads far fewer.


@dataclass(frozen=True)
class ImageExample:
    """An image to look for, or a part of it: `ImageExample("ball.jpg", box=(40, 30, 200, 180))`.

    source: the path of an image file, or its bytes. box: (left, top, right, bottom) in pixels of the upright image, or
    the same as "40,30,200,180"; without a box the whole image is used. weight: of the image in the score; a text has
    weight 1. name: the name of the image in the hits; the default is the name of the file.
    Raises UsageError when the box is not valid or the weight is not above 0.
    """

    source: str | os.PathLike[str] | bytes = option(
        None, "Search for what this image shows.", metavar="FILE", name="image"
    )
    box: Box | str | None = option(
        None, "The part of the image to search for, in its pixels: left,top,right,bottom.", metavar="L,T,R,B"
    )
    weight: float = option(
        1.0, "Weight of the image relative to one text.", kind=float, least=0.001, most=1000, name="image_weight"
    )
    name: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise UsageError(f"the weight is {self.weight} - give a number above 0; a text weighs 1", "image_weight")
        if not isinstance(self.source, bytes):
            object.__setattr__(self, "source", os.fspath(self.source))
        if not self.name:
            object.__setattr__(self, "name", os.path.basename(self.path or "") or "picture")
        object.__setattr__(self, "box", self.part)

    def __repr__(self) -> str:
        return f"ImageExample({self.path or self.name!r}, box={self.box}, weight={self.weight})"

    @property
    def path(self) -> str | None:
        """The path of the image's file; None if the source is bytes."""
        return None if isinstance(self.source, bytes) else os.fspath(self.source)

    @property
    def part(self) -> Box | None:
        """The box in pixels of the upright image; None for the whole image."""
        return None if self.box is None else read_box(self.box)


@dataclass(frozen=True)
class Query:
    """What to look for: `Query(["white puppy", "black ears"], exclude="leash", position="left", min_area="5%")`.

    Each text, and the image, is a phrase. Every phrase has its own score and regions in every hit, and the score of the
    hit is the weighted mean of its phrases' scores. An excluded text must not be shown where the phrases are found; it
    may be shown elsewhere in the photo.
    Raises UsageError when the query asks for nothing, or a value makes no sense.
    """

    text: str | Sequence[str] = option(
        (),
        "What to look for, in quotes. Several texts are phrases: each gets its own score and boxes.",
        many=True,
        metavar="TEXT...",
        max_length=MAX_TEXT_LETTERS,
        http_name="q",
    )
    image: ImageExample | str | os.PathLike[str] | None = None
    exclude: str | Sequence[str] = option(
        (),
        "Leave out photos that show this where the match is. May be repeated.",
        many=True,
        metavar="TEXT",
        max_length=MAX_TEXT_LETTERS,
    )
    position: str | Sequence[str] = option(
        (),
        "Where in the photo the match must be: left, right, top, bottom or center. If repeated, all must hold.",
        many=True,
        metavar="PLACE",
        choices=POSITIONS,
    )
    min_area: float | str = option(
        "0%", "How large the match must be, as a share of the photo: 5% or 0.05.", metavar="SHARE"
    )
    images: tuple[ImageExample, ...] = field(init=False)

    def __post_init__(self) -> None:
        texts, excluded = as_tuple(self.text), as_tuple(self.exclude)
        for text in texts:
            _check_text(text, "text", "say what to look for")
        for text in excluded:
            _check_text(text, "exclude", "say what must not be there")
        if not texts and self.image is None:
            raise UsageError("nothing to look for - give a text or an image")
        image = self.image if self.image is None or isinstance(self.image, ImageExample) else ImageExample(self.image)
        checked = {
            "text": texts,
            "image": image,
            "exclude": excluded,
            "position": _check_positions(as_tuple(self.position)),
            "min_area": read_share(self.min_area, "min_area"),
            "images": () if image is None else (image,),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts to look for."""
        return as_tuple(self.text)

    @property
    def excluded(self) -> tuple[str, ...]:
        """The texts that say what must not be there."""
        return as_tuple(self.exclude)

    @property
    def positions(self) -> tuple[str, ...]:
        """The members of POSITIONS that must all hold."""
        return as_tuple(self.position)

    @cached_property
    def min_share(self) -> float:
        """The smallest region, as a share of the photo from 0 to 1."""
        return read_share(self.min_area, "min_area")

    @property
    def has_conditions(self) -> bool:
        """Whether the query has conditions: a photo that does not meet them is left out, however well it scores."""
        return bool(self.exclude or self.position or self.min_share)


def read_box(box: Box | str) -> Box:
    """Return a box as four integers.

    Raises UsageError unless it is four whole numbers with 0 <= left < right and 0 <= top < bottom.
    """
    try:
        parts = box.split(",") if isinstance(box, str) else list(box)
        left, top, right, bottom = (
            int(str(part)) for part in parts
        )  # Through its text, 1.5 is refused and not cut to 1.
    except (TypeError, ValueError):
        left = top = right = bottom = 0
    if not (0 <= left < right and 0 <= top < bottom):
        raise UsageError(f"{box!r} is no box - give left,top,right,bottom in pixels: 40,30,200,180", "box")
    return left, top, right, bottom


def read_share(value: float | str, parameter: str) -> float:
    """Return a share, "5%" or 0.05, as a number from 0 to 1.

    parameter: the name of the parameter that holds the share, for the error.
    Raises UsageError when the value is not a share from 0 to 1.
    """
    text = str(value).strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise UsageError(f"{value!r} is no share - give one like 5% or 0.05", parameter)
    return share


def _check_text(text: str, parameter: str, advice: str) -> None:
    if not text.strip():
        raise UsageError(f"the text is empty - {advice}", parameter)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError("the text is no valid UTF-8 - check the terminal's encoding", parameter) from None


def _check_positions(texts: Sequence[str]) -> tuple[str, ...]:
    positions = tuple(dict.fromkeys(texts))
    for position in positions:
        if position not in POSITIONS:
            raise UsageError(f"there is no {position!r} - use one of {', '.join(POSITIONS)}", "position")
    for side, opposite in (("left", "right"), ("top", "bottom")):
        if side in positions and opposite in positions:
            raise UsageError(f"nothing is at the {side} and at the {opposite} - give one of them", "position")
    return positions
