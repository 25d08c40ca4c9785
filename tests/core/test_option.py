"""A request put into a URL and read from it again is the same request; and errors name their parameters."""

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

from flairsearch.core.errors import UsageError
from flairsearch.core.filters import Filter
from flairsearch.core.option import options_of
from flairsearch.core.query import POSITIONS, ImageExample, Query
from flairsearch.core.request import OPTIONS, SearchRequest, example_from_options
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


def parameters(request: SearchRequest) -> list[tuple[str, str]]:
    """Every value of an option as a parameter of a URL."""
    return [
        (name, str(one))
        for name, value in request.to_options().items()
        for one in (value if isinstance(value, tuple) else (value,))
    ]


def read(found: dict[str, list[str]], image: bytes | str | None = None) -> SearchRequest:
    """The request as a server reads it from a URL."""
    assert set(found) <= set(OPTIONS)
    values: dict[str, Any] = {}
    for name, texts in found.items():
        option, _ = OPTIONS[name]
        assert option.many or len(texts) == 1
        values[name] = texts if option.many else option.kind(texts[0])
    return SearchRequest.from_options(values, example_from_options(image, values))


def travelled(request: SearchRequest, image: bytes | str | None = None) -> SearchRequest:
    url = urlencode(parameters(request))
    assert url.isascii()
    return read(parse_qs(url, keep_blank_values=True, strict_parsing=bool(url)), image)


def some(rng: np.random.Generator, values: Any, most: int) -> list[Any]:
    return [values[i] for i in rng.integers(0, len(values), rng.integers(0, most + 1))]


def maybe(rng: np.random.Generator, values: Any) -> Any:
    return None if rng.random() < 0.5 else values[int(rng.integers(len(values)))]


def drawn(rng: np.random.Generator, image: bytes | str | None) -> SearchRequest:
    """Any options together; dates in order."""
    box = maybe(rng, [(0, 0, 1, 1), (4, 8, 28, 40), (0, 10**6, 1, 10**7)])
    weight = float(rng.choice([1.0, 0.1, 1 / 3, 2.5, 1e-9, 1e30]))
    query = Query(
        some(rng, TEXTS, 4) or ["red"],
        image=None if image is None else ImageExample(image, box, weight),
        exclude=some(rng, TEXTS, 3),
        position=maybe(rng, [["left"], ["right", "top"], ["center"], ["bottom", "left", "center"]]) or (),
        min_area=maybe(rng, ["5%", "0.05", 0, 1.0, "100%", "33.333%", 1e-7, 1 / 3]) or 0,
    )
    since, until = maybe(rng, DATES), maybe(rng, DATES)
    if since is not None and until is not None and since > until:
        since, until = until, since
    chosen = Filter(
        maybe(rng, FOLDERS), since, until, maybe(rng, SIZES), maybe(rng, ["jpg", ["jpg", ".PNG"], "a,b,c"]) or ()
    )
    least = maybe(rng, [0.0, -0.5, 0.1, 1 / 3, 1e-17, -1e30, 0.30000000000000004])
    k, offset = int(rng.integers(1, 200)), int(rng.integers(0, 3) * 100)
    kind = maybe(rng, ["flair", "global", "sum"])
    return SearchRequest(query, chosen, k, offset, str(rng.choice(["auto", "all", "9"])), least, kind)


@given(st.integers(0, 2**32 - 1))
def test_any_request_goes_round(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for image in (None, b"bytes", "dog.jpg"):
        for _ in range(34):
            request = drawn(rng, image)
            assert travelled(request, image) == request


def test_dates_go_round(subtests: pytest.Subtests) -> None:
    for since, until in itertools.product((None, *DATES), repeat=2):
        with subtests.test(f"from {since} to {until}"):
            if since is None or until is None or since <= until:
                request = SearchRequest(Query("red"), filter=Filter(since=since, until=until))
                assert travelled(request) == request


def test_sizes_go_round(subtests: pytest.Subtests) -> None:
    for size in SIZES:
        with subtests.test(size):
            request = SearchRequest(Query("red"), filter=Filter(larger_than=size))
            assert travelled(request) == request


@pytest.mark.parametrize("size", LARGE)
def test_large_sizes_go_round(size: str) -> None:
    request = SearchRequest(Query("red"), filter=Filter(larger_than=size))
    assert travelled(request) == request


SHARES = [0, 1, 0.05, "5%", "0.001%", 1e-12, 1 / 7, "99.9999999%"]


def test_shares_go_round(subtests: pytest.Subtests) -> None:
    for share in SHARES:
        with subtests.test(repr(share)):
            request = SearchRequest(Query("red", min_area=share))
            assert travelled(request) == request


@pytest.mark.parametrize("place", POSITIONS)
def test_places_go_round(place: str) -> None:
    request = SearchRequest(Query("red", position=place))
    assert travelled(request) == request


def test_folders_are_sent_as_they_are_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to this working folder, and this home: not to the server's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("photos", "~/photos", "./x/../photos"):
        request = SearchRequest(Query("red"), filter=Filter(folder=folder))
        assert request.to_options()["folder"] == os.path.join(tmp_path, "photos")
        monkeypatch.chdir("/")
        assert travelled(request) == request
        monkeypatch.chdir(tmp_path)


def test_what_is_not_asked_is_not_sent() -> None:
    assert SearchRequest(Query("red")).to_options() == {"text": ("red",)}
    request = SearchRequest(Query(image=ImageExample(b"x")))
    assert set(request.to_options()) == {"image_weight"}


# -- asked of an engine


class Half(FakeEncoder):
    """Knows no word that begins with z."""

    def unseen_words(self, text: str) -> list[str]:
        return [word for word in text.split() if word.startswith("z")]


def test_a_result_has_all_that_an_engine_says(tmp_path: Path) -> None:
    for area in (3, 30, 64):
        paint_red(tmp_path / "photos" / f"{area}.png", area)
    with fake_engine(tmp_path / "index", encoder=Half()) as engine:
        engine.add(tmp_path / "photos")
        query = Query(["a red zebra", "zoo red zebra"], exclude="blue zz")
        result = engine.search(SearchRequest(query, k=2))
        assert result == engine.search(query, 2)
        assert hash(result.hits[0]) == hash(engine.search(query, 2)[0])
        assert (result.stats.views_in_filter, result.stats.views_ranked) == (3, 3)
        assert result.stats.unseen_words == ("zebra", "zoo", "zz")
        assert (result.warnings, result.complete) == ((), True)
        assert {"open", "encode", "rank", "regions"} <= set(result.stats.seconds)
        narrow = SearchRequest(Query("red"), Filter(folder=tmp_path / "photos"), shortlist="2", min_score=0.1)
        result = engine.search(narrow)
        assert (result.stats.views_in_filter, result.stats.views_ranked) == (3, 2)
        assert all(hit.score >= 0.1 for hit in result)
        before = dict(result.stats.seconds)
        engine.search(narrow)
        assert result.stats.seconds == before


@pytest.mark.parametrize(
    ("values", "parameter"),
    [
        ({"k": 0}, "k"),
        ({"offset": -1}, "offset"),
        ({"shortlist": "some"}, "shortlist"),
        ({"shortlist": "0"}, "shortlist"),
        ({"score": "best"}, "score"),
        ({"text": [" "]}, "text"),
        ({"exclude": ""}, "exclude"),
        ({"position": "middle"}, "position"),
        ({"position": ["left", "right"]}, "position"),
        ({"min_area": "7x"}, "min_area"),
        ({"since": "May"}, "since"),
        ({"until": "24.05"}, "until"),
        ({"since": "2025", "until": "2024"}, "since"),
        ({"larger_than": "big"}, "larger_than"),
        ({"extension": "*.jpg"}, "extension"),
        ({"box": "1,2,3,4"}, "box"),
        ({"image_weight": 2.0}, "image_weight"),
    ],
)
def test_an_error_names_its_parameter(values: dict[str, Any], parameter: str) -> None:
    """In Python's language as text, and in any other by `named`."""
    given_values = {"text": "red"} | values
    with pytest.raises(UsageError) as found:
        SearchRequest.from_options(given_values, example_from_options(None, given_values))
    assert found.value.parameter == parameter
    assert str(found.value) == f"{parameter}: {found.value.message}"
    assert found.value.named(lambda name: f"<{name}>") == f"<{parameter}>: {found.value.message}"


def test_no_two_records_have_an_option_of_one_name() -> None:
    assert sum(map(len, map(options_of, (Query, ImageExample, Filter, SearchRequest)))) == len(OPTIONS)
