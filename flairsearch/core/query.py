"""What a query asks for: phrases and pictures, what must not be there, and where it has to be."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from flairsearch.core.errors import UsageError
from flairsearch.core.types import Box

POSITIONS = ("left", "right", "top", "bottom", "center")


@dataclass(frozen=True)
class ImageExample:
    """A picture that is looked for, or a part of it."""

    path: str  # or a name for `data`
    box: Box | None = None  # pixels of it upright; None: all of it
    weight: float = 1.0  # in the score, where a text weighs 1
    data: bytes | None = field(default=None, repr=False)  # of the picture's file, where it is none on this machine

    @staticmethod
    def of(picture: str | os.PathLike[str] | bytes, box: Box | str | None = None, weight: float = 1.0) -> ImageExample:
        """picture: its path, or the bytes of its file. box: (left, top, right, bottom), or "l,t,r,b".

        Raises UsageError when it is no box or no weight.
        """
        if not 0 < weight < math.inf:
            raise UsageError(f"the picture's weight is {weight} - give a number above 0; a text weighs 1")
        box = None if box is None else read_box(box)
        if isinstance(picture, bytes):
            return ImageExample("picture", box, weight, picture)
        return ImageExample(os.fspath(picture), box, weight)


@dataclass(frozen=True)
class Query:
    """Make one with `EncodedText.of`."""

    texts: tuple[str, ...] = ()
    pictures: tuple[ImageExample, ...] = ()
    without: tuple[str, ...] = ()
    at: tuple[str, ...] = ()
    min_area: float = 0.0  # share of the photo, 0 to 1

    @staticmethod
    def of(
        texts: str | Sequence[str] = (),
        *,
        picture: str | os.PathLike[str] | ImageExample | None = None,
        without: str | Sequence[str] = (),
        at: str | Sequence[str] = (),
        min_area: float | str = 0.0,
    ) -> Query:
        """`EncodedText.of(["white puppy", "black ears"], without="leash", at="left", min_area="5%")`.

        Each text, and the picture, is a phrase: it has a score and regions of its own in every hit, whose score is the
        weighted mean of theirs. `without` is judged where the phrases are found, not elsewhere in the photo.
        Raises UsageError when nothing is asked for, or something has no sense.
        """
        several = tuple(_check_text(text, "the query is empty - say what to look for") for text in _many(texts))
        left_out = tuple(_check_text(text, "--not is empty - say what must not be there") for text in _many(without))
        if not several and picture is None:
            raise UsageError("nothing to look for - give a text, or a picture: --image FILE")
        example = picture if picture is None or isinstance(picture, ImageExample) else ImageExample.of(picture)
        pictures = () if example is None else (example,)
        return Query(several, pictures, left_out, _places(at), read_share(min_area))


def read_box(box: Box | str) -> Box:
    """Raises UsageError when it is no box: four whole numbers, left < right, top < bottom, none negative."""
    try:
        parts = box.split(",") if isinstance(box, str) else list(box)
        left, top, right, bottom = (int(str(part)) for part in parts)  # as int alone cuts 1.5 down to 1
    except (TypeError, ValueError):
        left = top = right = bottom = 0
    if not (0 <= left < right and 0 <= top < bottom):
        raise UsageError(f"{box!r} is no box - give left,top,right,bottom in pixels: 40,30,200,180")
    return left, top, right, bottom


def _many(given: str | Sequence[str]) -> Sequence[str]:
    return [given] if isinstance(given, str) else given


def _check_text(text: str, empty: str) -> str:
    if not text.strip():
        raise UsageError(empty)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError("the query is no valid UTF-8 - check the terminal's encoding") from None
    return text


def _places(at: str | Sequence[str]) -> tuple[str, ...]:
    several = tuple(dict.fromkeys(_many(at)))
    for place in several:
        if place not in POSITIONS:
            raise UsageError(f"no place named {place!r} - use one of {', '.join(POSITIONS)}")
    for one, other in (("left", "right"), ("top", "bottom")):
        if one in several and other in several:
            raise UsageError(f"nothing is at the {one} and at the {other} - give one of them")
    return several


def read_share(value: float | str) -> float:
    """A share like "5%" or 0.05 -> 0.05. Raises UsageError on anything but a share from 0 to 1."""
    text = str(value).strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise UsageError(f"{value!r} is no share - give one like 5% or 0.05")
    return share
