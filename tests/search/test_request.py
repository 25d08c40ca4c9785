"""A question put into a URL and read from it again is the same question."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flairsearch.core.filters import Filter
from flairsearch.core.query import POSITIONS, ImageExample, Query
from flairsearch.core.timing import StageTimer
from flairsearch.output.formatting import to_dict
from tests.support.fake import FakeEncoder, fake_engine, paint_red

TEXTS = [
    "red",
    "R&B = 100%",
    "a+b c",
    "#1; x?y=z",
    "café 犬 🐶",
    " two  spaces ",
    "a\nb\tc",
    "'\"\\",
    "\x00\x7f",
    "%41",
    "q=1",
]
FOLDERS = ["/", "/photos", "/a b/c&d", "/é/犬", "/100%/x+y", "/a//b", "/x/"]
DATES = ["2024", "2023-02", "2024-12", "2024-02-29", "2024-12-31", "2024-05-17T14:00", "1999-12-31T23:59:59", "0001"]
SIZES = [
    "0",
    "1",
    "999",
    "500kB",
    "2MB",
    "999999999",
    "1.000001MB",
    "1920x1080",
    "0x0",
    "999999999x1",
    "0.5k",
    "0.0001kB",
]
LARGE = ["1.5GB", "7G", "999999999.9 GB"]
PARAMETERS = {"q", "not", "at", "min_area", "shortlist", "min_score", "under", "since", "until", "larger_than", "ext"}
PARAMETERS |= {"box", "image_weight"}


def read(found: dict[str, list[str]], picture: bytes | str | None = None) -> Question:
    """As the server reads a request's parameters."""
    assert set(found) <= PARAMETERS
    assert all(len(found[name]) == 1 for name in set(found) - {"q", "not", "at", "ext"})
    one: Any = {name: values[0] for name, values in found.items()}
    example = None if picture is None else ImageExample(picture, one.get("box"), float(one.get("image_weight", 1)))
    terms = Query(
        found.get("q", []),
        image=example,
        exclude=found.get("not", []),
        position=found.get("at", []),
        min_area=one.get("min_area", "0"),
    )
    scope = Filter(*(one.get(name) for name in ("under", "since", "until", "larger_than")), found.get("ext", []))
    least = None if "min_score" not in one else float(one["min_score"])
    return Question(terms, 10, one.get("shortlist", "auto"), least, scope)


def travelled(question: Question, picture: bytes | str | None = None) -> Question:
    url = urlencode(question.parameters())
    assert url.isascii()
    return read(parse_qs(url, keep_blank_values=True, strict_parsing=bool(url)), picture)


def some(rng: np.random.Generator, values: Any, most: int) -> list[Any]:
    return [values[i] for i in rng.integers(0, len(values), rng.integers(0, most + 1))]


def maybe(rng: np.random.Generator, values: Any) -> Any:
    return None if rng.random() < 0.5 else values[int(rng.integers(len(values)))]


def drawn(rng: np.random.Generator, picture: bytes | str | None) -> Question:
    """Any conditions together; dates in order."""
    box = maybe(rng, [(0, 0, 1, 1), (4, 8, 28, 40), (0, 10**6, 1, 10**7)])
    weight = float(rng.choice([1.0, 0.1, 1 / 3, 2.5, 1e-9, 1e30]))
    terms = Query(
        some(rng, TEXTS, 4) or ["red"],
        image=None if picture is None else ImageExample(picture, box, weight),
        exclude=some(rng, TEXTS, 3),
        position=maybe(rng, [["left"], ["right", "top"], ["center"], ["bottom", "left", "center"]]) or (),
        min_area=maybe(rng, ["5%", "0.05", 0, 1.0, "100%", "33.333%", 1e-7, 1 / 3]) or 0,
    )
    since, until = maybe(rng, DATES), maybe(rng, DATES)
    if since is not None and until is not None and since > until:
        since, until = until, since
    scope = Filter(
        maybe(rng, FOLDERS), since, until, maybe(rng, SIZES), maybe(rng, ["jpg", ["jpg", ".PNG"], "a,b,c"]) or ()
    )
    least = maybe(rng, [0.0, -0.5, 0.1, 1 / 3, 1e-17, -1e30, 0.30000000000000004])
    return Question(terms, 10, str(rng.choice(["auto", "all", "9"])), least, scope)


@given(st.integers(0, 2**32 - 1))
def test_any_question_goes_round(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for picture in (None, b"bytes", "dog.jpg"):
        for _ in range(34):
            question = drawn(rng, picture)
            assert travelled(question, picture) == question


def test_dates_go_round(subtests: pytest.Subtests) -> None:
    for since, until in itertools.product((None, *DATES), repeat=2):
        with subtests.test(f"from {since} to {until}"):
            if since is None or until is None or since <= until:
                question = Question(Query("red"), filter=Filter(since=since, until=until))
                assert travelled(question) == question


def test_sizes_go_round(subtests: pytest.Subtests) -> None:
    for size in SIZES:
        with subtests.test(size):
            question = Question(Query("red"), filter=Filter(larger_than=size))
            assert travelled(question) == question


@pytest.mark.parametrize("size", LARGE)
def test_large_sizes_go_round(size: str) -> None:
    question = Question(Query("red"), filter=Filter(larger_than=size))
    assert travelled(question) == question


SHARES = [0, 1, 0.05, "5%", "0.001%", 1e-12, 1 / 7, "99.9999999%"]


def test_shares_go_round(subtests: pytest.Subtests) -> None:
    for share in SHARES:
        with subtests.test(repr(share)):
            question = Question(Query("red", min_area=share))
            assert travelled(question) == question


@pytest.mark.parametrize("place", POSITIONS)
def test_places_go_round(place: str) -> None:
    question = Question(Query("red", position=place))
    assert travelled(question) == question


def test_folders_are_sent_as_they_are_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to this working folder, and this home: not to the server's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for under in ("photos", "~/photos", "./x/../photos"):
        question = Question(Query("red"), filter=Filter(folder=under))
        assert dict(question.parameters())["under"] == os.path.join(tmp_path, "photos")
        monkeypatch.chdir("/")
        assert travelled(question) == question
        monkeypatch.chdir(tmp_path)


def test_what_is_not_asked_is_not_sent() -> None:
    assert Question(Query("red")).parameters() == [("q", "red"), ("shortlist", "auto")]
    question = Question(Query(image=b"x"))  # type: ignore[arg-type]
    assert {name for name, _ in question.parameters()} <= {"shortlist", "image_weight"}


# -- asked of an engine


class Half(FakeEncoder):
    """Knows no word that begins with z."""

    def unseen_words(self, text: str) -> list[str]:
        return [word for word in text.split() if word.startswith("z")]


def test_an_answer_has_what_an_engine_says(tmp_path: Path) -> None:
    for area in (3, 30, 64):
        paint_red(tmp_path / "photos" / f"{area}.png", area)
    with fake_engine(tmp_path / "index", encoder=Half()) as engine:
        engine.add(tmp_path / "photos")
        terms = Query(["a red zebra", "zoo red zebra"], exclude="blue zz")
        question = Question(terms, k=2)
        answer = question.ask(engine)
        assert [to_dict(hit) for hit in answer.hits] == [to_dict(hit) for hit in engine.search(terms, 2)]
        assert (answer.in_scope, answer.ranked) == (3, 3)
        assert answer.unseen == ("zebra", "zoo", "zz")
        assert answer.warnings == ()
        assert {"open", "encode", "rank", "regions"} <= set(answer.seconds)
        some = Question(Query("red"), shortlist="2", filter=Filter(folder=tmp_path / "photos"), min_score=0.1)
        answer = some.ask(engine)
        assert (answer.in_scope, answer.ranked) == (3, 2)
        assert all(hit.score >= 0.1 for hit in answer.hits)
        before = dict(answer.seconds)
        engine.clock = StageTimer()
        some.ask(engine)
        assert answer.seconds == before
