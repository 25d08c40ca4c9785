"""Every text, picture and condition of several queries comes out in its own query, and in its own place there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from flairsearch.core.errors import PictureError, UsageError
from flairsearch.core.query import ImageExample, Query
from flairsearch.core.types import EncodedQuery, EncodedText, Picture
from flairsearch.search.query_encoder import encode_queries
from tests.support.fake import COLOURS, SIZE, FakeEncoder, paint


class Listening(FakeEncoder):
    """Remembers what it was asked; what it makes of a picture is its mean colour."""

    def __init__(self) -> None:
        self.texts: list[list[str]] = []
        self.pictures: list[Picture] = []

    def encode_texts(self, texts: Sequence[str]) -> list[EncodedText]:
        self.texts.append(list(texts))
        return super().encode_texts(texts)

    def encode_image_queries(self, pictures: Sequence[Picture], names: Sequence[str]) -> list[EncodedText]:
        self.pictures += pictures
        means = [picture.pixels.reshape(-1, 3).mean(0) / 127.5 - 1 for picture in pictures]
        flat = np.zeros((1, 4), np.float32)
        return [EncodedText(name, np.append(m, 0), flat, flat[:, 0]) for m, name in zip(means, names, strict=True)]


@pytest.fixture
def encoder() -> Listening:
    return Listening()


def colours(queries: Sequence[EncodedText]) -> list[str]:
    """What their vectors stand for."""
    names = {tuple(np.array(rgb) / 127.5 - 1): name for name, rgb in COLOURS.items()}
    return [names[tuple(np.round(query.vector[:3]))] for query in queries]


def ask(encoder: FakeEncoder, *several: str | Query) -> list[EncodedQuery]:
    queries = [Query(one) if isinstance(one, str) else one for one in several]
    return encode_queries(queries, encoder, SIZE)


def test_several_queries_of_every_kind(encoder: Listening, tmp_path: Path) -> None:
    blue = ImageExample(paint(tmp_path / "blue.png", background="blue"), weight=3)
    white = ImageExample(paint(tmp_path / "white.png", background="white"), weight=0.25)
    asked = ask(
        encoder,
        "a red ball",
        Query(
            ["green grass", "cyan sky"], exclude=["yellow sun", "black cat"], position=["left", "top"], min_area="5%"
        ),
        Query(image=blue),
        Query(["magenta one", "red one"], image=white, exclude="green one"),
        "a white dog",
    )
    assert [colours(one.phrases) for one in asked] == [
        ["red"],
        ["green", "cyan"],
        ["blue"],
        ["magenta", "red", "white"],
        ["white"],
    ]
    assert [[phrase.text for phrase in one.phrases] for one in asked] == [
        ["a red ball"],
        ["green grass", "cyan sky"],
        ["blue.png"],
        ["magenta one", "red one", "white.png"],
        ["a white dog"],
    ]
    assert [colours(one.exclusions) for one in asked] == [[], ["yellow", "black"], [], ["green"], []]
    assert [one.weights for one in asked] == [(1,), (1, 1), (3,), (1, 1, 0.25), (1,)]
    assert np.allclose(asked[3].shares, np.array([1, 1, 0.25]) / 2.25)
    assert [one.positions for one in asked] == [(), ("left", "top"), (), (), ()]
    assert [one.min_area for one in asked] == [0, 0.05, 0, 0, 0]
    assert len(encoder.texts) == 1  # All texts were encoded together.
    assert len(encoder.texts[0]) == 9


def test_any_mixture_keeps_its_order(encoder: Listening) -> None:
    """Nobody gets the texts of another: random queries against each one asked alone."""
    rng, names = np.random.default_rng(0), list(COLOURS)
    several = [
        Query(
            [f"a {name}" if name == "red" else f"the {name} one" for name in rng.choice(names, rng.integers(1, 4))],
            exclude=[f"no {name} thing" for name in rng.choice(names, rng.integers(0, 4))],
        )
        for _ in range(40)
    ]
    for together, terms in zip(ask(encoder, *several), several, strict=True):
        (alone,) = ask(encoder, terms)
        assert [phrase.text for phrase in together.phrases] == list(terms.texts)
        assert [text.text for text in together.exclusions] == list(terms.excluded)
        for one, same in zip(
            (*together.phrases, *together.exclusions), (*alone.phrases, *alone.exclusions), strict=True
        ):
            assert np.array_equal(one.vector, same.vector)
            assert np.array_equal(one.u, same.u)
            assert np.array_equal(one.c, same.c)


def test_nothing_asked(encoder: Listening, tmp_path: Path) -> None:
    """No query, no text: the text tower is left alone."""
    assert ask(encoder) == []
    ask(encoder, Query(image=str(paint(tmp_path / "red.png", background="red"))))
    assert encoder.texts == []


# -- pictures


def test_a_part_of_a_picture(encoder: Listening, tmp_path: Path) -> None:
    path = paint(tmp_path / "two.png", [("red", (0, 0, 50, 100)), ("green", (50, 0, 200, 100))], size=(200, 100))
    boxes = [(0, 0, 50, 100), (50, 0, 200, 100), (100, 20, 140, 30)]
    asked = ask(encoder, *(Query(image=ImageExample(path, box)) for box in boxes))
    assert [colours(one.phrases) for one in asked] == [["red"], ["green"], ["green"]]
    assert [picture.pixels.shape for picture in encoder.pictures] == [(SIZE, SIZE, 3)] * 3


def test_a_picture_at_home(encoder: Listening, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    paint(tmp_path / "photos" / "red.png", background="red")
    (asked,) = ask(encoder, Query(image="~/photos/red.png"))
    assert colours(asked.phrases) == ["red"]
    assert asked.phrases[0].text == "red.png"
    monkeypatch.chdir(tmp_path / "photos")
    (asked,) = ask(encoder, Query(image="red.png"))
    assert colours(asked.phrases) == ["red"]


def refusal(kind: type[Exception], encoder: FakeEncoder, example: ImageExample) -> str:
    with pytest.raises(kind) as caught:
        ask(encoder, "a red ball", Query("a red ball", image=example))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_pictures_that_cannot_be_read(encoder: Listening, tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "words.jpg").write_text("no picture\nat all\n" * 9)
    (tmp_path / "cut.png").write_bytes(paint(tmp_path / "whole.png").read_bytes()[:60])
    for name in ("missing.jpg", "empty.jpg", "words.jpg", "cut.png", "", "whole.png/x.jpg"):
        message = refusal(PictureError, encoder, ImageExample(tmp_path / name))
        assert str(tmp_path / name) in message
    assert "no such file" in refusal(PictureError, encoder, ImageExample(tmp_path / "missing.jpg"))
    assert "~nobody-here" in refusal(PictureError, encoder, ImageExample("~nobody-here/x.jpg"))
    assert refusal(PictureError, encoder, ImageExample("a\0b.jpg"))


def test_names_that_are_no_text(encoder: Listening, tmp_path: Path) -> None:
    """Linux allows any byte in a name."""
    path = os.fsdecode(bytes(tmp_path) + b"/red\xff.png")
    os.rename(paint(tmp_path / "red.png", background="red"), path)
    (asked,) = ask(encoder, Query(image=path))
    assert colours(asked.phrases) == ["red"]


def test_pictures_as_bytes(encoder: Listening, tmp_path: Path) -> None:
    """As their files, and called by a name that is no path."""
    path = paint(tmp_path / "two.png", [("red", (0, 0, 50, 100)), ("green", (50, 0, 200, 100))], size=(200, 100))
    for box in ((0, 0, 50, 100), (50, 0, 200, 100)):
        by_path, by_bytes = ask(
            encoder,
            *(Query("a white dog", image=ImageExample(one, box, 2)) for one in (path, path.read_bytes())),
        )
        assert colours(by_bytes.phrases) == colours(by_path.phrases)
        assert [phrase.text for phrase in by_bytes.phrases] == ["a white dog", "picture"]
        assert by_bytes.weights == by_path.weights == (1, 2)
    assert np.array_equal(encoder.pictures[0].pixels, encoder.pictures[1].pixels)


def test_bytes_that_are_no_picture(encoder: Listening, tmp_path: Path) -> None:
    """The message names what they are, not what is in them."""
    whole = paint(tmp_path / "whole.png").read_bytes()
    for data in (b"", b"no picture\n at all", whole[:60], b"\x00" * 1000, b"\xff\xd8\xff"):
        message = refusal(PictureError, encoder, ImageExample(data))
        assert message.startswith("image: ")
        assert message.endswith(" - give an image to look for")
        assert "no picture\\n" not in message
        assert "b'" not in message
        assert "0x" not in message
        assert len(message) < 300
        assert encoder.pictures == []
    assert "the picture" in refusal(PictureError, encoder, ImageExample(b"x"))
    assert f"{SIZE} x {SIZE}" in refusal(UsageError, encoder, ImageExample(whole, (0, 0, SIZE + 1, SIZE)))


@pytest.mark.parametrize(
    "box", [(0, 0, SIZE + 1, SIZE), (0, 0, SIZE, SIZE + 1), (500, 500, 600, 600), (0, 0, 10**30, 1)]
)
def test_boxes_outside_of_the_picture(encoder: Listening, tmp_path: Path, box: tuple[int, int, int, int]) -> None:
    path = paint(tmp_path / "red.png", background="red")
    assert f"{SIZE} x {SIZE}" in refusal(UsageError, encoder, ImageExample(path, box))


def test_a_wrong_query_says_so(encoder: Listening) -> None:
    with pytest.raises(UsageError, match="text: the text is empty"):
        ask(encoder, "a red ball", "")
    assert encoder.texts == []  # The error came before any work.
