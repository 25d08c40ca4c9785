"""Requests, their options by name, and results."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flairsearch.core.errors import UsageError
from flairsearch.core.filters import Filter
from flairsearch.core.query import ImageExample, Query
from flairsearch.core.request import OPTIONS, SearchRequest, SearchResult, example_from_options
from tests.support.hits import hit_of

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9).filter(str.strip)
QUERIES = st.builds(
    Query,
    text=st.lists(TEXT, min_size=1, max_size=3),
    exclude=st.lists(TEXT, max_size=2),
    position=st.lists(st.sampled_from(["left", "top", "center"]), max_size=3),
    min_area=st.sampled_from([0, 0.05, "5%", "100%", 1e-9]),
)
FILTERS = st.builds(
    Filter,
    folder=st.sampled_from([None, "/photos", "photos/2024"]),
    since=st.sampled_from([None, "2001", "2001-05-17T14:00"]),
    until=st.sampled_from([None, "2024-02"]),
    larger_than=st.sampled_from([None, "2MB", "1920x1080"]),
    extension=st.lists(st.sampled_from(["jpg", ".PNG", "tif,jpg"]), max_size=2),
)
REQUESTS = st.builds(
    SearchRequest,
    QUERIES,
    FILTERS,
    k=st.integers(1, 10**6),
    offset=st.integers(0, 10**6),
    shortlist=st.sampled_from(["auto", "all", 1, "1000"]),
    min_score=st.none() | st.floats(-1, 1),
    score=st.sampled_from([None, "flair", "global", "sum"]),
)


@given(REQUESTS)
def test_a_request_is_restored_from_its_options(request: SearchRequest) -> None:
    options = request.to_options()
    assert options.keys() <= OPTIONS.keys()
    assert SearchRequest.from_options(options) == request


def test_options_that_have_their_defaults_are_left_out() -> None:
    assert SearchRequest.of("a dog").to_options() == {"text": ("a dog",)}
    assert SearchRequest.from_options({"text": "a dog", "k": None, "since": None}) == SearchRequest.of("a dog")
    defaults = {name: default for name, (_, default) in OPTIONS.items()}
    assert SearchRequest.from_options(defaults | {"text": ["a dog"]}) == SearchRequest.of("a dog")


def test_options_of_an_image() -> None:
    image = ImageExample(b"PNG", (1, 2, 3, 4), 2.5)
    request = SearchRequest(Query(image=image))
    options = request.to_options()
    assert options == {"box": "1,2,3,4", "image_weight": 2.5}
    again = example_from_options(b"PNG", options)
    assert again == image
    assert SearchRequest.from_options(options, again) == request


def test_options_without_the_image_that_they_are_about() -> None:
    assert example_from_options(None, {"box": None, "image_weight": 1.0, "k": 3}) is None
    for name, value in (("box", "1,2,3,4"), ("image_weight", 2.0)):
        with pytest.raises(UsageError, match=f"^{name}: there is no image that this applies to"):
            example_from_options(None, {name: value})


def test_a_text_a_query_and_a_request_are_requests() -> None:
    request = SearchRequest(Query("a dog"), k=3, score="sum")
    assert SearchRequest.of("a dog", 3, score="sum") == request
    assert SearchRequest.of(Query("a dog"), k=3, score="sum") == request
    assert SearchRequest.of(request) is request
    with pytest.raises(UsageError, match=r"^offset: it stands beside a whole request"):
        SearchRequest.of(request, offset=3)


def test_requests_that_differ_in_the_query_alone() -> None:
    request = SearchRequest.of("a dog", 3, filter=Filter(extension="jpg"))
    assert request.besides_query == SearchRequest.of("a cat", 3, filter=Filter(extension="jpg")).besides_query
    others: list[dict[str, Any]] = [
        {"k": 4},
        {"offset": 1},
        {"shortlist": "all"},
        {"min_score": 0.1},
        {"score": "sum"},
        {"filter": Filter(extension="png")},
    ]
    for options in others:
        same = {"k": 3, "filter": Filter(extension="jpg")} | options
        assert request.besides_query != SearchRequest.of("a dog", **same).besides_query


NONSENSE = [
    ({"k": 0}, "k: 0 hits - ask for at least one"),
    ({"k": -3}, "k: -3 hits - ask for at least one"),
    ({"offset": -1}, "offset: -1 hits - give how many to leave out before the first"),
    ({"score": "cosine"}, "score: there is no 'cosine' - use one of flair, global, sum"),
    ({"shortlist": "some"}, "shortlist: 'some' is no size - use auto, all, or a number of views"),
    ({"shortlist": 0}, "shortlist: 0 is no size - use auto, all, or a number of views"),
    ({"k": 2.5}, "k: 2.5 is no whole number - give one like 10"),
    ({"k": math.nan}, "k: nan is no whole number - give one like 10"),
    ({"k": True}, "k: True is no whole number - give one like 10"),
    ({"k": "3"}, "k: '3' is no whole number - give one like 10"),
    ({"k": None}, "k: None is no whole number - give one like 10"),
    ({"offset": math.inf}, "offset: inf is no whole number - give one like 10"),
    ({"offset": np.arange(2)}, "offset: array([0, 1]) is no whole number - give one like 10"),
    ({"min_score": math.nan}, "min_score: nan is no score - give a number like 0.3"),
    ({"min_score": math.inf}, "min_score: inf is no score - give a number like 0.3"),
    ({"min_score": "0.3"}, "min_score: '0.3' is no score - give a number like 0.3"),
    ({"min_score": 10**400}, f"min_score: 1{'0' * 96}... is no score - give a number like 0.3"),
    ({"score": ["flair"]}, "score: there is no ['flair'] - use one of flair, global, sum"),
    ({"filter": None}, "filter: None is no filter - give a Filter"),
    ({"filter": "photos"}, "filter: 'photos' is no filter - give a Filter"),
    ({"shortlist": True}, "shortlist: True is no size - use auto, all, or a number of views"),
    ({"shortlist": ""}, "shortlist: '' is no size - use auto, all, or a number of views"),
]


@pytest.mark.parametrize(("options", "message"), NONSENSE)
def test_requests_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        SearchRequest.of("a dog", **options)
    assert str(caught.value) == message


@pytest.mark.parametrize("query", [None, 5, b"a dog", ["a dog"], ("a dog", "a cat")])
def test_what_is_no_query(query: Any) -> None:
    with pytest.raises(UsageError) as caught:
        SearchRequest.of(query)
    assert str(caught.value) == f"query: {query!r} is no query - give a Query"


def test_numbers_of_numpy_become_plain_numbers() -> None:
    options: dict[str, Any] = {"k": np.int64(3), "offset": np.uint8(2), "min_score": np.float32(0.25)}
    request = SearchRequest.of("a dog", **options)
    assert request == SearchRequest(Query("a dog"), k=3, offset=2, min_score=0.25)
    assert [type(value) for value in (request.k, request.offset, request.min_score)] == [int, int, float]


def test_shares_of_the_global_token() -> None:
    shares = {kind: SearchRequest.of("a dog", score=kind).global_share for kind in (None, "flair", "global", "sum")}
    assert shares == {None: None, "flair": 0.0, "global": 1.0, "sum": 0.5}


def test_a_result_is_a_sequence_of_hits(tmp_path: Any) -> None:
    hits = tuple(hit_of(tmp_path / f"{number}.jpg") for number in range(3))
    result = SearchResult(hits, warnings=("damaged",), complete=False)
    assert (tuple(result), len(result), result[0], result[1:]) == (hits, 3, hits[0], hits[1:])
    assert result.first(2) == SearchResult(hits[:2], warnings=("damaged",), complete=False)
    assert len(SearchResult()) == 0
    assert SearchResult().complete
