"""Several searches in one request: POST /api/v1/search with a body of JSON."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason='needs pip install "flairsearch[serve]"')
pytest.importorskip("httpx", reason="needs httpx")
import httpx

from flairsearch.serve.schemas import MAX_BATCH
from flairsearch.serve.worker import MAX_WAITING
from tests.support.served import GONE, PAGE, Site

SEARCH = "/api/v1/search"
Json = dict[str, Any]


@pytest.fixture
def client(served: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=30) as client:
        yield client


def results_of(answer: httpx.Response) -> list[Json]:
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["results"]
    results: list[Json] = answer.json()["results"]
    return results


def error_of(answer: httpx.Response, status: int = 400) -> str:
    """The one line of an error, which does not tell paths of this machine."""
    assert answer.status_code == status, answer.text
    (text,) = answer.json().values()
    assert text
    assert "\n" not in text
    assert "/tmp/" not in text
    return str(text)


def check_equal(found: Any, expected: Any) -> None:
    """Compare JSON; scores of queries that are scored together may differ in the last digit that is shown."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected.keys() - {"seconds"}:
            check_equal(found[name], expected[name])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            check_equal(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=3e-5)
    else:
        assert found == expected


def test_each_answer_is_that_of_a_single_search(client: httpx.Client, served: Site) -> None:
    """Texts and objects, an indexed image among them, with shared options and options of their own."""
    red = served.id_of("red.png")
    queries: list[Any] = [
        "red",
        {"q": "a blue square", "k": 2, "offset": 1},
        {"q": ["red", "blue"], "exclude": "green", "position": ["left"], "min_area": "1%"},
        {"image": red, "box": "40,20,90,60", "image_weight": 2.5, "q": "cyan"},
        {"q": "green", "extension": ["jpg", "bmp"], "score": "global", "min_score": -0.5},
        {"q": "zzyzx red", "shortlist": "5"},
        {},
    ]
    shared = {"k": 3, "since": "2001", "q": "magenta"}
    results = results_of(client.post(SEARCH, json={"queries": queries, **shared}))
    assert len(results) == len(queries)
    for query, result in zip(queries, results, strict=True):
        own = {"q": query} if isinstance(query, str) else query
        single = client.get(SEARCH, params=shared | own)
        assert single.status_code == 200
        check_equal(result, single.json())
        assert result["seconds"] > 0
    assert [len(result["hits"]) for result in results[:2]] == [3, 2]
    assert [hit["rank"] for hit in results[1]["hits"]] == [2, 3]
    assert [phrase["text"] for phrase in results[3]["hits"][0]["phrases"]] == ["cyan", "red.png"]
    assert {hit["path"][-3:] for hit in results[4]["hits"]} == {"jpg", "bmp"}
    assert results[5]["unseen"] == ["zzyzx"]
    assert results[6]["hits"][0]["phrases"][0]["text"] == "magenta"


def test_one_query_and_the_most(client: httpx.Client) -> None:
    for count in (1, MAX_BATCH):
        results = results_of(client.post(SEARCH, json={"queries": ["red"] * count, "k": 1}))
        assert len(results) == count
        assert len({result["hits"][0]["id"] for result in results}) == 1


def test_queries_with_equal_options_are_answered_together(client: httpx.Client, served: Site) -> None:
    worker = served.api.worker
    go = _hold(served)
    before = worker.batches[5]
    found: list[httpx.Response] = []
    body = {"queries": ["red", "blue", "green", "cyan", "white"]}
    asking = threading.Thread(target=lambda: found.append(client.post(SEARCH, json=body)))
    asking.start()
    _wait_for(served, 5)
    go.set()
    asking.join()
    assert len(results_of(found[0])) == 5
    assert worker.batches[5] == before + 1


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/json ;x=y"])
def test_media_types_of_json(client: httpx.Client, kind: str) -> None:
    body = json.dumps({"queries": ["red"]}).encode()
    assert len(results_of(client.post(SEARCH, content=body, headers={"content-type": kind}))) == 1


WRONG_QUERIES: dict[str, tuple[Any, str]] = {
    "a number": (5, "a query is a text or an object of parameters - give one of these"),
    "a list": (["red"], "a query is a text or an object of parameters - give one of these"),
    "nothing": (None, "a query is a text or an object of parameters - give one of these"),
    "an unknown option": ({"q": "red", "colour": "blue"}, "colour: no such parameter"),
    "a name of Python": ({"text": "red"}, "text: no such parameter"),
    "queries in a query": ({"queries": ["red"]}, "queries: no such parameter"),
    "no text": ({}, "nothing to look for"),
    "an empty text": (" ", "q: the text is empty"),
    "a long text": ("a" * 1001, "q.0: "),
    "many texts": ({"q": ["red"] * 9}, "q: "),
    "a text that is none": ({"q": [5]}, "q.0: "),
    "too many hits": ({"q": "red", "k": 201}, "k: "),
    "an infinite number": ({"q": "red", "min_score": 1e999}, "min_score: "),
    "no position": ({"q": "red", "position": "up"}, "position: there is no 'up'"),
    "no share": ({"q": "red", "min_area": "2"}, "min_area: '2' is no share"),
    "no date": ({"q": "red", "until": "yesterday"}, "until: 'yesterday' is no date"),
    "no score": ({"q": "red", "score": "cosine"}, "score: there is no 'cosine'"),
    "no shortlist": ({"q": "red", "shortlist": "some"}, "shortlist: 'some' is no size"),
    "no absolute folder": ({"q": "red", "folder": "photos"}, "folder: 'photos' is no absolute path"),
    "a folder that is not indexed": ({"q": "red", "folder": "/nowhere"}, "folder: "),
    "a box without an image": ({"q": "red", "box": "1,2,3,4"}, "box: there is no image"),
    "no box": ({"image": "RED", "box": "all"}, "box: 'all' is no box"),
    "a box outside of the image": ({"image": "RED", "box": "0,0,999,999"}, "box: 0,0,999,999 is not inside"),
    "no id": ({"image": "red.png"}, "image: "),
}


def test_errors_name_the_query_by_its_index(client: httpx.Client, served: Site, subtests: pytest.Subtests) -> None:
    red = served.id_of("red.png")
    for name, (query, message) in WRONG_QUERIES.items():
        with subtests.test(name):
            wrong = {**query, "image": red} if isinstance(query, dict) and query.get("image") == "RED" else query
            body = json.dumps({"queries": ["red", "blue", wrong]})  # httpx itself refuses to send Infinity.
            answer = client.post(SEARCH, content=body, headers={"content-type": "application/json"})
            text = error_of(answer)
            assert text.startswith(f"queries.2: {message}"), text
            assert "--" not in text


def test_errors_of_images_name_the_query_too(client: httpx.Client, served: Site) -> None:
    for image, status in ((served.id_of(PAGE), 422), (served.id_of(GONE), 410), (999_999, 404)):
        answer = client.post(SEARCH, json={"queries": ["red", {"image": image}, "blue"]})
        assert error_of(answer, status).startswith("queries.1: ")


WRONG_BODIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "the request: "),
    "no JSON": (b"red", "the request: "),
    "half of JSON": (b'{"queries": ["red"', "the request: "),
    "no UTF-8": (b'{"queries": ["\xff"]}', "the request: "),
    "half of a character": (rb'{"queries": ["\ud800"]}', "the request: "),
    "deep JSON": (b"[" * 100_000, "the request: "),
    "a list": (b'["red"]', "the request: "),
    "a text": (b'"red"', "the request: "),
    "null": (b"null", "the request: "),
    "options alone": (b'{"q": "red"}', "queries: "),
    "no query": (b'{"queries": []}', "queries: "),
    "a text of queries": (b'{"queries": "red"}', "queries: "),
    "too many queries": (json.dumps({"queries": ["red"] * (MAX_BATCH + 1)}).encode(), "queries: "),
    "an unknown shared option": (b'{"queries": ["red"], "colour": 5}', "queries.0: colour: no such parameter"),
    "a wrong shared option": (b'{"queries": ["red"], "k": 0}', "queries.0: k: "),
    "a picture": (b"\x89PNG\r\n\x1a\n", "the request: "),
}


def test_bodies_that_are_no_batch(client: httpx.Client, subtests: pytest.Subtests) -> None:
    for name, (body, message) in WRONG_BODIES.items():
        with subtests.test(name):
            answer = client.post(SEARCH, content=body, headers={"content-type": "application/json"})
            assert error_of(answer).startswith(message), answer.text


def test_options_in_the_url_besides_the_body(client: httpx.Client) -> None:
    for options in ({"k": 3}, {"q": "red"}, {"image": 1}, {"score": "sum"}):
        answer = client.post(SEARCH, params=options, json={"queries": ["red"]})
        assert error_of(answer) == "a search with a body of JSON takes no parameters in the URL - give them in the body"


def test_json_is_no_image_of_regions(client: httpx.Client) -> None:
    answer = client.post("/api/v1/regions/1", json={"queries": ["red"]})
    assert error_of(answer, 422)


def test_a_batch_that_does_not_fit_the_queue_leaves_nothing_in_it(client: httpx.Client, served: Site) -> None:
    worker, found = served.api.worker, list[httpx.Response]()
    go = _hold(served)
    counts = (MAX_BATCH, MAX_WAITING - MAX_BATCH - 1)
    asking = [
        threading.Thread(target=lambda n=n: found.append(client.post(SEARCH, json={"queries": ["red"] * n})))
        for n in counts
    ]
    for thread in asking:
        thread.start()
    _wait_for(served, sum(counts))
    assert "ask again" in error_of(client.post(SEARCH, json={"queries": ["blue", "red"]}), 429)
    _wait_for(served, sum(counts))
    assert worker.waiting == sum(counts)
    go.set()
    for thread in asking:
        thread.join()
    assert sorted(len(results_of(answer)) for answer in found) == sorted(counts)


def test_a_client_that_goes_away_leaves_the_queue(client: httpx.Client, served: Site) -> None:
    go, before = _hold(served), dict(served.api.worker.batches)
    body = json.dumps({"queries": ["red"] * 7}).encode()
    head = f"POST {SEARCH} HTTP/1.1\r\nHost: {served.host}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((served.host, served.port)) as connection:
        connection.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        _wait_for(served, 7)
    _wait_for(served, 0)
    go.set()
    assert results_of(client.post(SEARCH, json={"queries": ["red"]}))
    assert served.api.worker.batches[7] == before.get(7, 0)


def _hold(served: Site) -> threading.Event:
    """An event that the thread of the Engine waits for."""
    entered, go = threading.Event(), threading.Event()
    served.api.worker.call(lambda _: (entered.set(), go.wait(30)))
    assert entered.wait(20)
    return go


def _wait_for(served: Site, count: int) -> None:
    """Wait until that number of requests is in the queue."""
    end = time.monotonic() + 20
    while served.api.worker.waiting != count and time.monotonic() < end:
        time.sleep(0.01)
    assert served.api.worker.waiting == count
