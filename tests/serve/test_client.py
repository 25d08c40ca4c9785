"""`query --server` against the real server, against none, and against others that answer instead."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import RunCommand

pytest.importorskip("fastapi", reason='needs pip install "flairsearch[serve]"')
from flairsearch.core.errors import PictureError, UsageError
from flairsearch.core.filters import Filter
from flairsearch.core.query import ImageExample, Query
from flairsearch.core.request import MAX_BODY_BYTES, MAX_HITS, SearchRequest, SearchResult
from flairsearch.engine import Engine
from flairsearch.output.formatting import to_json
from flairsearch.serve.client import ServerClient, ServerError
from tests.support.served import Site, open_index, serving_index

PHOTOS = 15  # Two of them have the content of another photo.
RED = SearchRequest(Query("red"))


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server or token of the user."""
    monkeypatch.delenv("FLAIRSEARCH_SERVER", raising=False)
    monkeypatch.delenv("FLAIRSEARCH_TOKEN", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def ask_server(site: Site, request: SearchRequest, page: int = MAX_HITS) -> SearchResult:
    return ServerClient.at(site.url, None).search(request, page)


def ask_here(site: Site, request: SearchRequest) -> SearchResult:
    with open_index(site.index) as engine:
        return engine.search(request)


def check_equal(found: SearchResult, expected: SearchResult) -> None:
    """Compare two results as JSON; scores of a batch of queries may differ in the last digit that is shown."""
    assert [hit.path for hit in found] == [hit.path for hit in expected]
    for hit, same in zip(found, expected, strict=True):
        one, other = hit.to_dict(), same.to_dict()
        assert _without_numbers(one) == _without_numbers(other)
        assert _numbers(one) == pytest.approx(_numbers(other), abs=3e-5)
    assert found.stats.views_in_filter == expected.stats.views_in_filter
    assert found.stats.views_ranked == expected.stats.views_ranked
    assert found.stats.unseen_words == expected.stats.unseen_words
    assert (found.complete, found.warnings) == (expected.complete, expected.warnings)


def _without_numbers(found: Any) -> Any:
    if isinstance(found, dict):
        return {name: _without_numbers(value) for name, value in found.items()}
    if isinstance(found, list):
        return [_without_numbers(value) for value in found]
    return None if isinstance(found, float) else found


def _numbers(found: Any) -> list[float]:
    if isinstance(found, dict | list):
        return [
            number for value in (found.values() if isinstance(found, dict) else found) for number in _numbers(value)
        ]
    return [found] if isinstance(found, float) else []


# -- a server that runs


REQUESTS: dict[str, Callable[[Path], SearchRequest]] = {
    "text": lambda _: SearchRequest(Query("a red square")),
    "phrases": lambda _: SearchRequest(Query(["red", "something blue", "red"])),
    "signs": lambda _: SearchRequest(Query("R&B = 100% +1; #café/犬 'it''s' \"q\"\n\t?q=x&k=9")),
    "unseen words": lambda _: SearchRequest(Query("zzyzx and a red qzyx", exclude="a zylograph")),
    "one": lambda _: SearchRequest(Query("red"), k=1),
    "all": lambda _: SearchRequest(Query("red"), k=1000),
    "shortlist": lambda _: SearchRequest(Query("red"), shortlist="5"),
    "all ranked": lambda _: SearchRequest(Query("red"), shortlist="all"),
    "no hit": lambda _: SearchRequest(Query("red"), min_score=0.99),
    "conditions": lambda _: SearchRequest(
        Query(["red", "blue"], exclude="green", position=["left", "top"], min_area="2%")
    ),
    "place": lambda _: SearchRequest(Query("red", position="center")),
    "folder": lambda photos: SearchRequest(Query("red"), filter=Filter(folder=photos)),
    "kind": lambda _: SearchRequest(Query("red"), filter=Filter(extension=["jpg", "bmp"])),
    "date": lambda _: SearchRequest(Query("red"), filter=Filter(since="2001-05", until="2098-12-31T23:59:59")),
    "none from then": lambda _: SearchRequest(Query("red"), filter=Filter(until="2001")),
    "bytes": lambda _: SearchRequest(Query("red"), filter=Filter(larger_than="300")),
    "very many bytes": lambda _: SearchRequest(Query("red"), filter=Filter(larger_than="1.5GB")),
    "pixels": lambda _: SearchRequest(Query("red"), filter=Filter(larger_than="90x60")),
    "picture": lambda photos: SearchRequest(Query(image=str(photos / "red.png"))),
    "picture with box": lambda photos: SearchRequest(
        Query("red", image=ImageExample(photos / "red.png", (4, 8, 28, 40), 2.5), exclude="magenta")
    ),
    "bytes of a picture": lambda photos: SearchRequest(Query(image=ImageExample((photos / "cyan.png").read_bytes()))),
}


def test_the_server_answers_as_the_index_does(served: Site, subtests: pytest.Subtests) -> None:
    for name, ask in REQUESTS.items():
        with subtests.test(name):
            request = ask(served.photos)
            found, expected = ask_server(served, request), ask_here(served, request)
            check_equal(found, expected)
            if name != "conditions":  # What conditions leave depends on the model.
                assert bool(found.hits) == (name not in ("no hit", "none from then", "very many bytes"))
            assert list(found.stats.unseen_words) == (["zzyzx", "qzyx", "zylograph"] if name == "unseen words" else [])
            assert list(found.stats.seconds) == ["server"]
            assert 0 < found.stats.seconds["server"] < 60


def test_min_score_of_the_server(served: Site) -> None:
    scores = [hit.score for hit in ask_here(served, RED).hits]
    limit = (scores[2] + scores[3]) / 2
    request = SearchRequest(Query("red"), min_score=limit)
    found = ask_server(served, request)
    check_equal(found, ask_here(served, request))
    assert len(found.hits) == 3 < len(scores)


def test_pages_of_the_server_are_put_together(served: Site, subtests: pytest.Subtests) -> None:
    for most, k in itertools.product((1, 4, 16), (1, 14, 300)):
        with subtests.test(f"{most} a page, {k} in all"):
            request = SearchRequest(Query("something blue"), k=k)
            found = ask_server(served, request, most)
            check_equal(found, ask_here(served, request))
            assert len(found.hits) == min(k, PHOTOS)
            assert [hit.rank for hit in found.hits] == list(range(1, len(found.hits) + 1))


def test_more_hits_than_one_page_holds(served: Site) -> None:
    assert len(ask_server(served, SearchRequest(Query("red"), k=250)).hits) == PHOTOS


BEYOND: dict[str, Callable[[Path], SearchRequest]] = {
    "a long text": lambda _: SearchRequest(Query("red " * 500)),
    "a text longer than any URL": lambda _: SearchRequest(Query("red " * 50_000)),
    "many phrases": lambda _: SearchRequest(Query(["red", "blue", "green"] * 4)),
    "many unwanted": lambda _: SearchRequest(Query("red", exclude=["blue", "green"] * 5)),
    "a heavy picture": lambda photos: SearchRequest(Query("red", image=ImageExample(photos / "red.png", weight=1e6))),
    "a light picture": lambda photos: SearchRequest(Query("red", image=ImageExample(photos / "red.png", weight=1e-6))),
    "many kinds": lambda _: SearchRequest(
        Query("red"), filter=Filter(extension=[f"ext{i}" for i in range(60)] + ["png"])
    ),
}


def test_what_is_too_much_for_the_server_is_refused(served: Site, subtests: pytest.Subtests) -> None:
    for name, ask in BEYOND.items():
        with subtests.test(name), pytest.raises(ServerError) as caught:
            ask_server(served, ask(served.photos))
        assert served.url in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


# -- the command


def test_the_command_prints_what_the_server_finds(served: Site, run: RunCommand, tmp_path: Path) -> None:
    """The command prints JSON, paths and pictures, and how many views there were."""
    done = run("query", "red", "-k", "3", "--paths", "-v", "--timings", "--server", served.url)
    assert done.code == 0
    assert done.out.splitlines() == [hit.path for hit in ask_here(served, RED).hits[:3]]
    counted, timed = done.err.splitlines()
    assert counted == "13 of 13 views ranked exactly (100.0%)"
    assert "server" in timed
    lines = run("query", "red", "--json", "--server", served.url)
    assert lines.out.splitlines() == [to_json(hit) for hit in ask_here(served, RED).hits]
    done = run("query", "red", "-k", "2", "--overlay", tmp_path / "drawn", "--paths", "--server", served.url)
    assert done.code == 0
    assert len(list((tmp_path / "drawn").iterdir())) == 2


def test_words_unknown_to_the_model_of_the_server(served: Site, run: RunCommand) -> None:
    done = run("query", "a zzyzx", "--paths", "--server", served.url)
    assert (
        done.err == "note: the server's model was trained on no text with 'zzyzx'; it can only guess what that means\n"
    )


def test_the_server_may_be_set_in_the_environment(
    served: Site, run: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAIRSEARCH_SERVER", served.url)
    assert len(run("query", "red", "--paths").out.splitlines()) == 10
    done = run("query", "red", "--index", served.index)
    assert (done.code, done.out) == (2, "")
    assert "--index" in done.message
    assert "FLAIRSEARCH_SERVER" in done.message


def test_what_cannot_be_asked_of_a_server_is_a_usage_error(run: RunCommand, subtests: pytest.Subtests) -> None:
    for options in (
        ("--model", "flair-small"),
        ("--device", "cpu"),
        ("--index", "default"),
        ("--heat", "--overlay", "drawn"),
    ):
        with subtests.test(options[0]):
            done = run("query", "red", *options, "--server", "http://127.0.0.1:1")
            assert (done.code, done.out) == (2, "")
            assert done.message.startswith(f"flairsearch: {options[0]}: it does not go with --server ")


ADDRESSES = [
    *("127.0.0.1:8421", "localhost", "ftp://127.0.0.1", "http://", "http://:8421", "http:///x", "http://[::1", "//x"),
    *("http://127.0.0.1:x", "http://127.0.0.1:70000", "http://a b", "http://a\nb", "http://127.0.0.1\x1b", "x:y"),
    *("http://127.0.0.1/photos", "http://127.0.0.1?token=s3cret", "http://me:s3cret@127.0.0.1", "http://h#s3cret"),
]


def test_bad_addresses(run: RunCommand, subtests: pytest.Subtests) -> None:
    for address in ADDRESSES:
        with subtests.test(repr(address)):
            done = run("query", "red", "--server", address)
            assert (done.code, done.out) == (2, "")
            assert "s3cret" not in done.message


def test_good_addresses() -> None:
    assert ServerClient.at("http://photos.lan/", None) == ServerClient(
        "http://photos.lan/", "photos.lan", None, False, None
    )
    assert ServerClient.at("HTTPS://[::1]:8421", "x") == ServerClient("HTTPS://[::1]:8421", "::1", 8421, True, "x")


BAD: dict[str, tuple[object, ...]] = {
    "since when": ("red", "--since", "May"),
    "folder that is not indexed": ("red", "--folder", "/nowhere"),
    "shortlist": ("red", "--shortlist", "0"),
    "k 0": ("red", "-k", "0"),
    "k below 0": ("red", "-k", "-3"),
    "shortlist of no letters": ("red", "--shortlist", "\udcff"),
    "box outside": ("--image", "red.png", "--box", "0,0,999,999"),
    "missing picture": ("--image", "nothing.png"),
    "no picture": ("--image", "page.jpg"),
    "empty": (" ",),
}


def test_mistakes_are_one_line(
    served: Site, run: RunCommand, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    """Mistakes seen here end as they do without a server; what the server refuses is told in its words."""
    monkeypatch.chdir(served.photos)
    for name, arguments in BAD.items():
        with subtests.test(name):
            done = run("query", *arguments, "--server", served.url)
            here = ("since when", "empty", "shortlist", "k 0", "k below 0", "shortlist of no letters")
            assert (done.code, done.out) == (2 if name in here else 1, "")
            refused = name not in (*here, "missing picture")
            assert (f"{served.url} refuses the query: " in done.message) == refused


def test_pictures_that_cannot_be_read_are_not_sent(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.png", tmp_path):
        with pytest.raises(PictureError) as caught:
            ServerClient.at("http://127.0.0.1:1", None).search(SearchRequest(Query(image=str(path))))
        assert str(path) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


def test_pictures_that_are_too_large_are_not_sent(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(bytes(MAX_BODY_BYTES + 1))
    for picture in (ImageExample(tmp_path / "large.png"), ImageExample(bytes(MAX_BODY_BYTES + 1))):
        with pytest.raises(PictureError, match="more than the 32 MB a server takes"):
            ServerClient.at("http://127.0.0.1:1", None).search(SearchRequest(Query(image=picture)))


def test_an_empty_token_is_none(served: Site, run: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAIRSEARCH_TOKEN", "")
    assert run("query", "red", "--paths", "--server", served.url).code == 0


def test_many_extensions(served: Site) -> None:
    request = SearchRequest(RED.query, Filter(extension=[f"kind{number}" for number in range(48)] + ["png"]))
    check_equal(ask_server(served, request), ask_here(served, request))


def test_a_hit_that_is_a_pipe_is_not_read(run: RunCommand, tmp_path: Path) -> None:
    """Paths come from the server: on this machine anything may have such a name."""
    os.mkfifo(tmp_path / "pipe.png")

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        found = GOOD | {"hits": [HIT | {"path": str(tmp_path / "pipe.png")}]}
        connection.sendall(said("200 OK", json.dumps(found).encode()))

    with answering(answer) as port:
        overlay = str(tmp_path / "drawn")
        done = run("query", "red", "--paths", "--overlay", overlay, "--server", f"http://127.0.0.1:{port}")
    assert done.code == 0
    assert f"no overlay for {tmp_path / 'pipe.png'}: it is no file" in done.err


def test_a_real_model_from_end_to_end(real_index: Path, run: RunCommand, subtests: pytest.Subtests) -> None:
    """The command prints the same whether it asks the index or its server."""

    def open_real(index: Path) -> Engine:
        return Engine.open(index, device="cpu", create=False)

    picture = real_index.parent / "photos" / "blue.png"
    queries: list[tuple[object, ...]] = [
        ("something red",),
        ("red", "a square", "--exclude", "a dog", "--min-area", "1%"),
        ("--image", picture, "--box", "10,10,60,60"),
    ]
    with serving_index(real_index, open_engine=open_real) as site:
        for query, form in itertools.product(queries, ("--json", "--paths", "--logits", "-0")):
            with subtests.test(f"{query} {form}"):
                here = run("query", *query, form, "--index", real_index)
                asked = run("query", *query, form, "--server", site.url)
                assert here.out
                assert (asked.code, asked.err) == (here.code, here.err) == (0, "")
                if form == "--json":  # A posted picture is decoded once more, and the last digit may differ.
                    for one, other in zip(asked.out.splitlines(), here.out.splitlines(), strict=True):
                        assert _without_numbers(json.loads(one)) == _without_numbers(json.loads(other))
                        assert _numbers(json.loads(one)) == pytest.approx(_numbers(json.loads(other)), abs=3e-5)
                else:
                    assert asked.out == here.out


# -- with a token


def test_a_server_with_a_token(served: Site, run: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_index(served.index, "secret-token") as site:
        check_equal(ServerClient.at(site.url, "secret-token").search(RED), ask_here(served, RED))
        monkeypatch.setenv("FLAIRSEARCH_TOKEN", "secret-token")
        assert run("query", "red", "--paths", "--server", site.url).code == 0
        for token in (None, "another", "x" * 5000):
            with pytest.raises(ServerError, match="wants its token"):
                ServerClient.at(site.url, token).search(RED)
    for token in ("", "a\nb", "é犬"):
        with pytest.raises(UsageError, match="token"):
            ServerClient.at(site.url, token)


def test_the_token_is_sent_as_a_header_and_nowhere_else(run: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        asked.append(connection.recv(65536))
        connection.sendall(said("200 OK", json.dumps(GOOD).encode()))

    monkeypatch.setenv("FLAIRSEARCH_TOKEN", "s3cret")
    with answering(answer) as port:
        assert run("query", "red", "--paths", "--server", f"http://127.0.0.1:{port}").out == "/x.png\n"
    (request,) = asked
    assert request.count(b"s3cret") == 1
    assert b"\r\nAuthorization: Bearer s3cret\r\n" in request


# -- https


def test_over_tls_with_a_certificate_that_is_trusted_and_without(
    run: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil
    import ssl

    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*make.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as wrapped:
            wrapped.recv(65536)
            wrapped.sendall(said("200 OK", json.dumps(GOOD).encode()))

    with answering(answer) as port:
        done = run("query", "red", "--paths", "--server", f"https://127.0.0.1:{port}")
        assert (done.code, done.out) == (1, "")
        assert "certificate" in done.message
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert run("query", "red", "--paths", "--server", f"https://127.0.0.1:{port}").out == "/x.png\n"


# -- no server, and others that answer on the port


def test_no_server_there(run: RunCommand, subtests: pytest.Subtests) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dead = taken.getsockname()[1]
    for address in (f"http://127.0.0.1:{dead}", "http://no.such.host.invalid", f"http://{'a' * 300}.lan", "http://..."):
        with subtests.test(address):
            done = run("query", "red", "--server", address)
            assert (done.code, done.out) == (1, "")
            assert f"{address} does not answer (" in done.message


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that takes connections one by one; -> its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.02)
    stopped = threading.Event()
    taken: list[socket.socket] = []

    def serve() -> None:
        while not stopped.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            taken.append(connection)
            with connection:
                connection.settimeout(5)
                with suppress(OSError):
                    answer(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stopped.set()
        for connection in taken:  # An answer that is still being sent is cut off.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        thread.join(15)
        listener.close()


def said(status: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


HIT = {
    **{"rank": 1, "id": 1, "path": "/x.png", "score": 0.5, "score_global": 0.5, "logit": 0.1, "width_px": 9},
    **{
        "height_px": 9,
        "date": None,
        "regions": [],
        "phrases": [{"text": "red", "score": 0.5, "regions": []}],
        "weakest": None,
    },
}
GOOD = {
    "hits": [HIT],
    "next": None,
    "complete": True,
    "in_scope": 1,
    "ranked": 1,
    "unseen": [],
    "warnings": [],
    "seconds": 0.1,
}

STRANGERS: dict[str, bytes] = {
    "no HTTP": b"220 mail.example ESMTP\r\n",
    "bytes": bytes(range(256)),
    "a page": said("200 OK", b"<!doctype html>"),
    "a redirect": said("302 Found", b"{}", "Location: http://127.0.0.1:1/"),
    "its validation error": said("422 Unprocessable", b'{"detail": [1, 2]}'),
    "null": said("200 OK", b"null"),
    "no length": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}",
    "a long line": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n",
    "chunks that lie": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
    "nothing": b"",
    "half of the head": b"HTTP/1.1 200 OK\r\nContent-",
    "half of the body": said("200 OK", json.dumps(GOOD).encode()[:50], length=len(json.dumps(GOOD))),
    "busy": said("429 Too Many Requests", b'{"error": "too many"}'),
    "it stops": said("503 Service Unavailable", b'{"error": "the server stops"}'),
    "wrong token": said("401 Unauthorized", b'{"error": "no token"}'),
    "a mistake": said("400 Bad Request", b'{"error": "no such place"}'),
    "no picture": said("422 Unprocessable", b'{"error": "not a picture"}'),
    "too much": said("413 Too Large", b'{"error": "too large"}'),
    "no JSON": said("200 OK", b"<html>"),
    "a list": said("200 OK", b"[]"),
    "no hits": said("200 OK", b"{}"),
    "hits of no kind": said("200 OK", json.dumps(GOOD | {"hits": 5}).encode()),
    "hits of texts": said("200 OK", json.dumps(GOOD | {"hits": ["x"]}).encode()),
    "a hit without a path": said("200 OK", json.dumps(GOOD | {"hits": [{"rank": 1}]}).encode()),
    "a hit of endless size": said("200 OK", json.dumps(GOOD | {"hits": [HIT | {"width_px": 1e999}]}).encode()),
    "regions of no kind": said("200 OK", json.dumps(GOOD | {"hits": [HIT | {"regions": [{"box": [1]}]}]}).encode()),
    "no number": said("200 OK", json.dumps(GOOD | {"ranked": None}).encode()),
    "an endless number": said("200 OK", json.dumps(GOOD | {"in_scope": float("inf")}).encode()),
    "deep": said("200 OK", b"[" * 50_000),
}


MORE = {
    "an endless score": GOOD | {"hits": [HIT | {"score": 1e999}]},
    "a score that is no number": GOOD | {"hits": [HIT | {"score": float("nan")}]},
    "a path of none": GOOD | {"hits": [HIT | {"path": "/x\ud800.png"}]},
    "a path that ends early": GOOD | {"hits": [HIT | {"path": "/x.png\0/y.png"}]},
    "a score in letters": GOOD | {"hits": [HIT | {"score": "nan"}]},
    "a photo of no size": GOOD | {"hits": [HIT | {"width_px": 0}]},
    "a hit without phrases": GOOD | {"hits": [HIT | {"phrases": []}]},
    "more hits than asked for": GOOD | {"hits": [HIT] * 11},
    "no word on completeness": {name: value for name, value in GOOD.items() if name != "complete"},
    "a page without end": GOOD | {"hits": [], "next": 0},
    "pages that are not full": GOOD | {"hits": [HIT], "next": 1},
}
STRANGERS |= {name: said("200 OK", json.dumps(found).encode()) for name, found in MORE.items()}


def test_an_incomplete_result_of_the_server_is_incomplete() -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(said("200 OK", json.dumps(GOOD | {"complete": False, "warnings": ["damaged"]}).encode()))

    with answering(answer) as port:
        found = ServerClient.at(f"http://127.0.0.1:{port}", None).search(RED)
    assert (len(found), found.complete, found.warnings) == (1, False, ("damaged",))


def test_a_stranger_is_one_line(run: RunCommand, subtests: pytest.Subtests) -> None:
    for name, content in STRANGERS.items():
        with subtests.test(name):

            def answer(connection: socket.socket, content: bytes = content) -> None:
                connection.recv(65536)
                connection.sendall(content)

            with answering(answer) as port:
                begun = time.perf_counter()
                done = run("query", "red", "--json", "--server", f"http://127.0.0.1:{port}")
                assert (done.code, done.out) == (1, "")
                assert f"http://127.0.0.1:{port} " in done.message
                assert time.perf_counter() - begun < 5


def test_control_characters_of_a_server_do_not_reach_the_terminal(run: RunCommand) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        told = {"warnings": ["\x1b[2J"], "unseen": ["\x1b[2J"], "hits": [HIT | {"path": "/\x1b[2J.png"}]}
        connection.sendall(said("200 OK", json.dumps(GOOD | told).encode()))

    with answering(answer) as port:
        done = run("query", "red", "--server", f"http://127.0.0.1:{port}")
    assert done.code == 0
    assert "\x1b" not in done.out + done.err


def test_an_answer_that_is_too_large(run: RunCommand) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(said("200 OK", b'{"hits": [', length=10**12))
        while True:
            connection.sendall(b" " * 1_000_000)

    with answering(answer) as port:
        done = run("query", "red", "--server", f"http://127.0.0.1:{port}")
    assert (done.code, done.out) == (1, "")
    assert "more than 64 MiB" in done.message


def drip(connection: socket.socket) -> None:
    """Send a byte now and then, each before a socket times out."""
    connection.recv(65536)
    for byte in said("200 OK", json.dumps(GOOD).encode()):
        connection.sendall(bytes([byte]))
        time.sleep(0.1)


def hang(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def pages(connection: socket.socket) -> None:
    """Send one full page after the other, and never the last."""
    connection.recv(65536)
    time.sleep(0.05)
    connection.sendall(said("200 OK", json.dumps(GOOD | {"next": 1}).encode()))


@pytest.mark.parametrize("how", [hang, drip, pages])
def test_a_server_that_never_ends_is_given_up(how: Callable[[socket.socket], None]) -> None:
    with answering(how) as port:
        begun = time.perf_counter()
        with pytest.raises(ServerError, match="not within 1 s"):
            ServerClient.at(f"http://127.0.0.1:{port}", None).search(
                SearchRequest(Query("red"), k=10**9), 1, seconds=1.0
            )
        assert time.perf_counter() - begun < 2.5


def test_a_server_that_ends_between_two_pages() -> None:
    """Half an answer counts as no answer."""

    def answer(connection: socket.socket) -> None:
        if b"offset=0" in connection.recv(65536):
            connection.sendall(said("200 OK", json.dumps(GOOD | {"next": 1}).encode()))

    with answering(answer) as port:
        server = ServerClient.at(f"http://127.0.0.1:{port}", None)
        with pytest.raises(ServerError):
            server.search(SearchRequest(Query("red"), k=3), page=1)
        found = server.search(SearchRequest(Query("red"), k=1), page=1)
    assert [hit.path for hit in found.hits] == ["/x.png"]
