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
    query = Query(
        ["white puppy", "black ears"],
        image=ImageExample("dog.jpg", "40,30,200,180", 0.5),
        exclude="leash",
        position=["left", "top", "left"],
        min_area="5%",
    )
    example = ImageExample("dog.jpg", (40, 30, 200, 180), 0.5)
    same = Query(("white puppy", "black ears"), example, ("leash",), ("left", "top"), 0.05)
    assert query == same
    assert hash(query) == hash(same)
    assert query.texts == ("white puppy", "black ears")
    assert query.images == (example,)
    assert query.excluded == ("leash",)
    assert query.positions == ("left", "top")
    assert query.min_share == 0.05


def test_conditions() -> None:
    """Each of three makes a query one that may leave a good photo out."""
    for conditions in ({"exclude": "a leash"}, {"position": "left"}, {"min_area": "1%"}):
        assert Query("a dog", **conditions).has_conditions
    assert not Query(["a dog", "a cat"], image="dog.jpg", min_area="0%").has_conditions


@pytest.mark.parametrize("several", ["a dog", ["a dog"], ("a dog",), iter(["a dog"])])
def test_one_text_or_several(several: Any) -> None:
    query = Query(several)
    assert query == Query(("a dog",))
    assert query.texts == ("a dog",)


def test_texts_are_kept_as_they_are() -> None:
    odd = ["  two  spaces ", "Straße", "犬", "a\nb", "--exclude", "🐕"]
    query = Query(odd, exclude=odd[::-1])
    assert (query.texts, query.excluded) == (tuple(odd), tuple(odd[::-1]))
    assert Query(["a", "a"]).texts == ("a", "a")


@pytest.mark.parametrize("image", ["dog.jpg", Path("dog.jpg"), ImageExample("dog.jpg"), ImageExample(Path("dog.jpg"))])
def test_an_image_alone(image: Any) -> None:
    query = Query(image=image)
    assert query == Query(image=ImageExample("dog.jpg", None, 1.0))
    assert query.images == (ImageExample("dog.jpg", None, 1.0),)
    assert query.texts == ()


@pytest.mark.parametrize("position", POSITIONS)
def test_positions(position: str) -> None:
    assert Query("a dog", position=position).positions == (position,)
    assert Query("a dog", position=[position, "center"]).positions == tuple(dict.fromkeys([position, "center"]))


NOTHING = "nothing to look for - give a text or an image"
EMPTY, NO_UTF8 = "the text is empty", "the text is no valid UTF-8 - check the terminal's encoding"
ALL_POSITIONS = "use one of left, right, top, bottom, center"
NONSENSE = [
    ({}, NOTHING),
    ({"text": []}, NOTHING),
    ({"exclude": "a leash"}, NOTHING),
    ({"text": ""}, f"text: {EMPTY} - say what to look for"),
    ({"text": ["a dog", " \t\n"]}, f"text: {EMPTY} - say what to look for"),
    ({"text": "", "image": "dog.jpg"}, f"text: {EMPTY} - say what to look for"),
    ({"text": "a dog", "exclude": ""}, f"exclude: {EMPTY} - say what must not be there"),
    ({"text": "a dog", "exclude": ["a leash", "  "]}, f"exclude: {EMPTY} - say what must not be there"),
    ({"text": "a dog\udcff"}, f"text: {NO_UTF8}"),
    ({"text": ["a dog", "\ud800"]}, f"text: {NO_UTF8}"),
    ({"text": "a dog", "exclude": "\udc80"}, f"exclude: {NO_UTF8}"),
    ({"text": "a dog", "position": "up"}, f"position: there is no 'up' - {ALL_POSITIONS}"),
    ({"text": "a dog", "position": ""}, f"position: there is no '' - {ALL_POSITIONS}"),
    ({"text": "a dog", "position": ["left", "Top"]}, f"position: there is no 'Top' - {ALL_POSITIONS}"),
    ({"text": "a dog", "position": "\n\udcff"}, rf"position: there is no '\n\udcff' - {ALL_POSITIONS}"),
    (
        {"text": "a dog", "position": ["right", "left"]},
        "position: nothing is at the left and at the right - give one of them",
    ),
    (
        {"text": "a dog", "position": ["top", "center", "bottom"]},
        "position: nothing is at the top and at the bottom - give one of them",
    ),
    ({"text": None}, "text: None is no text - give one, or a list of texts"),
    ({"text": b"a dog"}, "text: b'a dog' is no text - give one, or a list of texts"),
    ({"text": ["a dog", 5]}, "text: ['a dog', 5] is no text - give one, or a list of texts"),
    ({"text": "a dog", "exclude": 5}, "exclude: 5 is no text - give one, or a list of texts"),
    ({"text": "a dog", "exclude": [["cat"]]}, "exclude: [['cat']] is no text - give one, or a list of texts"),
    ({"text": "a dog", "position": True}, "position: True is no text - give one, or a list of texts"),
    ({"image": 5}, "image: 5 is no image - give the path of its file, or the file's bytes"),
    ({"image": ""}, "image: '' is no image - give the path of its file, or the file's bytes"),
    ({"image": bytearray(b"x")}, "image: bytearray(b'x') is no image - give the path of its file, or the file's bytes"),
    ({"text": "a dog", "min_area": None}, "min_area: None is no share - give one like 5% or 0.05"),
    ({"text": "a dog", "min_area": "much"}, "min_area: 'much' is no share - give one like 5% or 0.05"),
]


def test_what_makes_no_sense(subtests: pytest.Subtests) -> None:
    for asked, message in NONSENSE:
        with subtests.test(ascii(asked)):
            assert refusal(Query, **asked) == message


def test_an_error_calls_its_parameter_as_the_caller_does() -> None:
    with pytest.raises(UsageError) as caught:
        Query("a dog", min_area="much")
    assert caught.value.parameter == "min_area"
    assert caught.value.named(lambda name: f"--{name}") == "--min_area: 'much' is no share - give one like 5% or 0.05"
    assert UsageError("one line").named(str.upper) == "one line"


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
            assert read_share(value, "min_area") == pytest.approx(share, rel=1e-12)
            assert Query("a dog", min_area=value).min_share == pytest.approx(share, rel=1e-12)


NO_SHARES = [-1, 1.01, 5, math.nan, math.inf, -math.inf, None, True]


def test_no_shares(subtests: pytest.Subtests) -> None:
    for value in NO_SHARES:
        with subtests.test(repr(value)):
            message = f"least: {value} is no share - give one like 5% or 0.05"
            assert refusal(read_share, value, "least") == message


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
            message = f"least: {value!r} is no share - give one like 5% or 0.05"
            assert refusal(read_share, value, "least") == message


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
            assert refusal(read_box, box) == f"box: {box!r} {NO_BOX}"
            assert refusal(ImageExample, "dog.jpg", box) == f"box: {box!r} {NO_BOX}"


# -- weights


@pytest.mark.parametrize("weight", [1e-6, 0.5, 1, 2, 1e6])
def test_weights(weight: float) -> None:
    assert ImageExample("dog.jpg", None, weight).weight == weight


@pytest.mark.parametrize("weight", [0, -1, -0.5, math.nan, math.inf, -math.inf, True, None, [1.0]])
def test_no_weights(weight: Any) -> None:
    message = f"image_weight: the weight is {weight} - give a number above 0; a text weighs 1"
    assert refusal(ImageExample, "dog.jpg", None, weight) == message


def test_no_name_of_an_image() -> None:
    assert refusal(ImageExample, "dog.jpg", name=5) == "name: 5 is no text - say what the image is called"


# -- images as bytes


def test_an_image_as_bytes() -> None:
    """It has a name, and its repr does not show its bytes, which are many."""
    example = ImageExample(b"\x89PNG", "1,2,3,4", 0.5)
    assert example == ImageExample(b"\x89PNG", (1, 2, 3, 4), 0.5, "picture")
    assert (example.name, example.path) == ("picture", None)
    assert "PNG" not in repr(example)
    assert example != ImageExample(b"other", "1,2,3,4", 0.5)
    assert hash(example) == hash(ImageExample(b"\x89PNG", "1,2,3,4", 0.5))
    assert ImageExample(b"").source == b""
    assert (ImageExample("picture").path, ImageExample("a/b.jpg").name) == ("picture", "b.jpg")
    assert Query(image=example).images == (example,)
    for make in (lambda: ImageExample(b"x", "1,2,3"), lambda: ImageExample(b"x", weight=0)):
        assert refusal(make)
