"""What a query asks for: texts and example images, what must not be there, and where the match has to be."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from flairsearch.core.errors import UsageError
from flairsearch.core.option import as_number, as_tuple, check_text, check_texts, option, short_repr
from flairsearch.core.types import Box

POSITIONS = ("left", "right", "top", "bottom", "center")
MAX_TEXT_LETTERS = 1000  # A text that comes over HTTP has at most this many letters; the model reads far fewer.


@dataclass(frozen=True)
class ImageExample:
    """An image to look for, or a part of it: `ImageExample("ball.jpg", box=(40, 30, 200, 180))`.

    source: the path of an image file, or its bytes. box: (left, top, right, bottom) in pixels of the upright image, or
    the same as "40,30,200,180"; without a box the whole image is meant. weight: in the score, where a text weighs 1.
    name: what the image is called in the hits; a file has its own name.
    Raises UsageError when the box is none or the weight is not above 0.
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
        weight = as_number(self.weight)
        if not 0 < weight < math.inf:
            found = f"the weight is {short_repr(self.weight)}"
            raise UsageError(f"{found} - give a number above 0; a text weighs 1", "image_weight")
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "source", _check_source(self.source))
        object.__setattr__(self, "name", check_text(self.name, "name", "say what the image is called"))
        if not self.name:
            object.__setattr__(self, "name", os.path.basename(self.path or "") or "picture")
        object.__setattr__(self, "box", self.part)

    def __repr__(self) -> str:
        return f"ImageExample({self.path or self.name!r}, box={self.box}, weight={self.weight})"

    @property
    def path(self) -> str | None:
        """The path of the image's file; None where the bytes were given."""
        return None if isinstance(self.source, bytes) else os.fspath(self.source)

    @property
    def part(self) -> Box | None:
        """The box in pixels of the upright image; None: the whole image."""
        return None if self.box is None else read_box(self.box)


@dataclass(frozen=True)
class Query:
    """What to look for: `Query(["white puppy", "black ears"], exclude="leash", position="left", min_area="5%")`.

    Each text, and the image, is a phrase: it has a score and regions of its own in every hit, whose score is the
    weighted mean of theirs. What is excluded is judged where the phrases are found, not elsewhere in the photo.
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
        texts, excluded = check_texts(self.text, "text"), check_texts(self.exclude, "exclude")
        for text in texts:
            _check_words(text, "text", "say what to look for")
        for text in excluded:
            _check_words(text, "exclude", "say what must not be there")
        if not texts and self.image is None:
            raise UsageError("nothing to look for - give a text or an image")
        image = self.image if self.image is None or isinstance(self.image, ImageExample) else ImageExample(self.image)
        checked = {
            "text": texts,
            "image": image,
            "exclude": excluded,
            "position": _check_positions(check_texts(self.position, "position")),
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
        """The texts of what must not be there."""
        return as_tuple(self.exclude)

    @property
    def positions(self) -> tuple[str, ...]:
        """Of POSITIONS, those that must all hold."""
        return as_tuple(self.position)

    @cached_property
    def min_share(self) -> float:
        """The smallest region, as a share of the photo from 0 to 1."""
        return read_share(self.min_area, "min_area")

    @property
    def has_conditions(self) -> bool:
        """Whether a photo that scores well may still be left out for what it shows, or where."""
        return bool(self.exclude or self.position or self.min_share)


def read_box(box: Box | str) -> Box:
    """Raises UsageError when it is no box: four whole numbers, left < right, top < bottom, none negative."""
    try:
        parts = box.split(",") if isinstance(box, str) else list(box)
        left, top, right, bottom = (int(str(part)) for part in parts)  # The text of 1.5 is no whole number.
    except (TypeError, ValueError):
        left = top = right = bottom = 0
    if not (0 <= left < right and 0 <= top < bottom):
        raise UsageError(f"{box!r} is no box - give left,top,right,bottom in pixels: 40,30,200,180", "box")
    return left, top, right, bottom


def read_share(value: float | str, parameter: str) -> float:
    """A share like "5%" or 0.05 -> 0.05. Raises UsageError on anything but a share from 0 to 1."""
    text = str(value).strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise UsageError(f"{value!r} is no share - give one like 5% or 0.05", parameter)
    return share


def _check_source(source: object) -> str | bytes:
    """The path of an image's file, or the file's bytes. Raises UsageError on anything else."""
    if isinstance(source, bytes):
        return source
    path = os.fspath(source) if isinstance(source, str | os.PathLike) else None
    if not isinstance(path, str) or not path:
        raise UsageError(f"{short_repr(source)} is no image - give the path of its file, or the file's bytes", "image")
    return str(path)


def _check_words(text: str, parameter: str, advice: str) -> None:
    if not text.strip():
        raise UsageError(f"the text is empty - {advice}", parameter)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError("the text is no valid UTF-8 - check the terminal's encoding", parameter) from None


def _check_positions(given: Sequence[str]) -> tuple[str, ...]:
    positions = tuple(dict.fromkeys(given))
    for position in positions:
        if position not in POSITIONS:
            raise UsageError(f"there is no {position!r} - use one of {', '.join(POSITIONS)}", "position")
    for one, other in (("left", "right"), ("top", "bottom")):
        if one in positions and other in positions:
            raise UsageError(f"nothing is at the {one} and at the {other} - give one of them", "position")
    return positions
