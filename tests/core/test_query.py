"""What a query may ask for, and one line for everything that it may not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flairsearch.core.errors import UsageError
from flairsearch.core.query import POSITIONS, ImageExample, Query, read_box, read_share

NO_BOX = "is no box - give left,top,right,bottom in pixels: 40,30,200,180"


def refusal(make: Any, *arguments: Any, **named: Any) -> str:
    """The message: one line that any terminal can show."""
    with pytest.raises(UsageError) as caught:
        make(*arguments, **named)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    message.encode()
    return message


# -- what is asked for


def test_all_at_once() -> None:
    terms = Query(
        ["white puppy", "black ears"],
        image=ImageExample("dog.jpg", "40,30,200,180", 0.5),
        exclude="leash",
        position=["left", "top", "left"],
        min_area="5%",
    )
    example = ImageExample("dog.jpg", (40, 30, 200, 180), 0.5)
    assert terms == Query(("white puppy", "black ears"), (example,), ("leash",), ("left", "top"), 0.05)
    assert hash(terms) == hash(Query(("white puppy", "black ears"), (example,), ("leash",), ("left", "top"), 0.05))


@pytest.mark.parametrize("several", ["a dog", ["a dog"], ("a dog",), iter(["a dog"])])
def test_one_text_or_several(several: Any) -> None:
    assert Query(several) == Query(("a dog",))


def test_texts_are_kept_as_they_are() -> None:
    odd = ["  two  spaces ", "Straße", "犬", "a\nb", "--not", "🐕"]
    assert Query(odd, exclude=odd[::-1]) == Query(tuple(odd), exclude=tuple(odd[::-1]))
    assert Query(["a", "a"]).texts == ("a", "a")


@pytest.mark.parametrize(
    "picture", ["dog.jpg", Path("dog.jpg"), ImageExample("dog.jpg"), ImageExample(Path("dog.jpg"))]
)
def test_a_picture_alone(picture: Any) -> None:
    assert Query(image=picture) == Query(pictures=(ImageExample("dog.jpg", None, 1.0),))


@pytest.mark.parametrize("place", POSITIONS)
def test_places(place: str) -> None:
    assert Query("a dog", position=place).at == (place,)
    assert Query("a dog", position=[place, "center"]).at == tuple(dict.fromkeys([place, "center"]))


NONSENSE = [
    ({}, "nothing to look for - give a text, or a picture: --image FILE"),
    ({"texts": []}, "nothing to look for - give a text, or a picture: --image FILE"),
    ({"without": "a leash"}, "nothing to look for - give a text, or a picture: --image FILE"),
    ({"texts": ""}, "the query is empty - say what to look for"),
    ({"texts": ["a dog", " \t\n"]}, "the query is empty - say what to look for"),
    ({"texts": "", "picture": "dog.jpg"}, "the query is empty - say what to look for"),
    ({"texts": "a dog", "without": ""}, "--not is empty - say what must not be there"),
    ({"texts": "a dog", "without": ["a leash", "  "]}, "--not is empty - say what must not be there"),
    ({"texts": "a dog\udcff"}, "the query is no valid UTF-8 - check the terminal's encoding"),
    ({"texts": ["a dog", "\ud800"]}, "the query is no valid UTF-8 - check the terminal's encoding"),
    ({"texts": "a dog", "without": "\udc80"}, "the query is no valid UTF-8 - check the terminal's encoding"),
    ({"texts": "a dog", "at": "up"}, "no place named 'up' - use one of left, right, top, bottom, center"),
    ({"texts": "a dog", "at": ""}, "no place named '' - use one of left, right, top, bottom, center"),
    (
        {"texts": "a dog", "at": ["left", "Top"]},
        "no place named 'Top' - use one of left, right, top, bottom, center",
    ),
    (
        {"texts": "a dog", "at": "\n\udcff"},
        r"no place named '\n\udcff' - use one of left, right, top, bottom, center",
    ),
    ({"texts": "a dog", "at": ["right", "left"]}, "nothing is at the left and at the right - give one of them"),
    (
        {"texts": "a dog", "at": ["top", "center", "bottom"]},
        "nothing is at the top and at the bottom - give one of them",
    ),
    ({"texts": "a dog", "min_area": "much"}, "'much' is no share - give one like 5% or 0.05"),
]


def test_what_makes_no_sense(subtests: pytest.Subtests) -> None:
    for asked, message in NONSENSE:
        with subtests.test(ascii(asked)):
            assert refusal(Query.of, **asked) == message


# -- shares


SHARES = [
    ("5%", 0.05),
    (0.05, 0.05),
    ("5 %", 0.05),
    (" 5% ", 0.05),
    ("0.05", 0.05),
    ("1e-3", 0.001),
    ("12.5%", 0.125),
    ("100%", 1),
    ("0%", 0),
    (0, 0),
    (1, 1),
    (np.float32(0.25), 0.25),
]


def test_shares(subtests: pytest.Subtests) -> None:
    for value, share in SHARES:
        with subtests.test(repr(value)):
            assert read_share(value) == pytest.approx(share, rel=1e-12)
            assert Query("a dog", min_area=value).min_area == pytest.approx(share, rel=1e-12)


NO_SHARES = [-1, 1.01, 5, math.nan, math.inf, -math.inf, None, True]


def test_no_shares(subtests: pytest.Subtests) -> None:
    for value in NO_SHARES:
        with subtests.test(repr(value)):
            assert refusal(read_share, value) == f"{value} is no share - give one like 5% or 0.05"


NO_SHARES_IN_WORDS = [
    "nan",
    "nan%",
    "inf",
    "-1",
    "-1%",
    "101%",
    "1.0000001",
    "",
    " ",
    "%",
    "5%%",
    "%5",
    "5,0%",
    "a\nb",
    "\udcff%",
    "5 % %",
]


def test_no_shares_in_words(subtests: pytest.Subtests) -> None:
    for value in NO_SHARES_IN_WORDS:
        with subtests.test(repr(value)):
            assert refusal(read_share, value) == f"{value!r} is no share - give one like 5% or 0.05"


# -- boxes


@pytest.mark.parametrize(
    "box", ["40,30,200,180", " 40, 30 ,200,180\n", (40, 30, 200, 180), [40, 30, 200, 180], np.array([40, 30, 200, 180])]
)
def test_boxes(box: Any) -> None:
    found = read_box(box)
    assert found == (40, 30, 200, 180)
    assert [type(edge) for edge in found] == [int] * 4
    assert ImageExample("dog.jpg", box) == ImageExample("dog.jpg", (40, 30, 200, 180))


def test_the_smallest_box() -> None:
    assert read_box("0,0,1,1") == (0, 0, 1, 1)


NO_BOXES = [
    "40,30,200",
    "40,30,200,180,5",
    "",
    ",,,",
    "a dog",
    "40 30 200 180",
    "(40,30,200,180)",
    "1.5,2,3,4",
    "1e1,2,30,40",
    "-1,0,3,4",
    "0,-1,3,4",
    "200,30,40,180",
    "40,180,200,30",
    "40,30,40,180",
    "40,30,200,30",
    "nan,0,1,1",
    "0,0,inf,1",
    "0,0\n,1,x",
    "\udcff,0,1,1",
    (),
    (40, 30, 200),
    [40, 30, 200, 180, 5],
    (1.5, 2, 3, 4),
    (1, 2, 3.9, 4),
    [-1, 0, 3, 4],
    (3, 0, 1, 4),
    (0, 0, math.inf, 1),
    (0, 0, math.nan, 1),
    (0, 0, None, 1),
    ((0, 0), (1, 1)),
    5,
    f"0,0,{'9' * 5000},1",
]


def test_no_boxes(subtests: pytest.Subtests) -> None:
    for box in NO_BOXES:
        with subtests.test(repr(box)[:60]):
            assert refusal(read_box, box) == f"{box!r} {NO_BOX}"
            assert refusal(ImageExample.of, "dog.jpg", box) == f"{box!r} {NO_BOX}"


# -- weights


@pytest.mark.parametrize("weight", [1e-6, 0.5, 1, 2, 1e6])
def test_weights(weight: float) -> None:
    assert ImageExample("dog.jpg", None, weight) == ImageExample("dog.jpg", None, weight)


@pytest.mark.parametrize("weight", [0, -1, -0.5, math.nan, math.inf, -math.inf])
def test_no_weights(weight: float) -> None:
    message = f"the picture's weight is {weight} - give a number above 0; a text weighs 1"
    assert refusal(ImageExample.of, "dog.jpg", None, weight) == message


# -- pictures as bytes


def test_a_picture_as_bytes() -> None:
    """It has a name, and its bytes in no repr: they are large."""
    example = ImageExample(b"\x89PNG", "1,2,3,4", 0.5)
    assert example == ImageExample("picture", (1, 2, 3, 4), 0.5, b"\x89PNG")
    assert "PNG" not in repr(example)
    assert example != ImageExample(b"other", "1,2,3,4", 0.5)
    assert hash(example) == hash(ImageExample(b"\x89PNG", "1,2,3,4", 0.5))
    assert ImageExample(b"").data == b""
    assert ImageExample("picture").data is None
    assert Query(image=example) == Query(pictures=(example,))
    for make in (lambda: ImageExample(b"x", "1,2,3"), lambda: ImageExample(b"x", weight=0)):
        assert refusal(make)
