"""The command line's client against the real server, against none, and against others that answer instead."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from command import Run, settle
from served import Site, make_index, serving_index

from flairsearch import engine as engines
from flairsearch import remote, weights
from flairsearch.engine import Engine
from flairsearch.errors import PictureError
from flairsearch.present import to_dict
from flairsearch.question import Question
from flairsearch.records import Answer
from flairsearch.remote import Server
from flairsearch.scope import Scope
from flairsearch.serving import Record
from flairsearch.settings import SERVER_RECORD as RECORD
from flairsearch.terms import Example, Terms

PHOTOS = 15  # of 13 contents


@dataclass(frozen=True)
class Home:
    """An index, its server, and where its photos are."""

    index: Path
    site: Site

    @property
    def photos(self) -> Path:
        return self.site.photos

    @property
    def record(self) -> Record:
        return Record(self.site.port, self.site.host, os.getpid(), self.site.api.server, None)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    index = make_index(tmp_path_factory.mktemp("remote"))
    with serving_index(index) as site:
        yield Home(index, site)


@pytest.fixture
def home(running: Home) -> Iterator[Home]:
    """With its record in place."""
    running.record.save(running.index)
    yield running
    (running.index / RECORD).unlink(missing_ok=True)


@pytest.fixture
def no_cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command may not open the index itself."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("asked here, not of the server")

    monkeypatch.setattr(engines.Engine, "open", refuse)


@pytest.fixture
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model, here and of the server, which is in this process, says that it was trained on no word with a y."""

    def unseen(_: Engine, *texts: str) -> list[str]:
        return list(dict.fromkeys(word for text in texts for word in text.split() if "y" in word))

    monkeypatch.setattr(Engine, "unseen_words", unseen)


def ask_server(home: Home, question: Question) -> Answer:
    server = Server.find(home.index)
    assert server is not None
    answer = server.search(question)
    assert answer is not None
    return answer


def ask_here(home: Home, question: Question) -> Answer:
    with Engine.open(home.index, device="cpu", create=False) as engine:
        return question.ask(engine)


def alike(found: Answer, expected: Answer) -> None:
    """As JSON has them; scores of a batch of queries may differ in the last digit that is shown."""
    assert [to_dict(hit)["path"] for hit in found.hits] == [to_dict(hit)["path"] for hit in expected.hits]
    for hit, same in zip(found.hits, expected.hits, strict=True):
        one, other = to_dict(hit), to_dict(same)
        assert _without_numbers(one) == _without_numbers(other)
        assert _numbers(one) == pytest.approx(_numbers(other), abs=3e-5)
    assert (found.in_scope, found.ranked) == (expected.in_scope, expected.ranked)
    assert found.unseen == expected.unseen


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


QUESTIONS: dict[str, Callable[[Path], Question]] = {
    "text": lambda _: Question(Terms.of("a red square")),
    "phrases": lambda _: Question(Terms.of(["red", "something blue", "red"])),
    "signs": lambda _: Question(Terms.of("R&B = 100% +1; #café/犬 'it''s' \"q\"\n\t?q=x&k=9")),
    "unseen words": lambda _: Question(Terms.of("zzyzx and a qwertyuiop", without="a xylograph")),
    "one": lambda _: Question(Terms.of("red"), k=1),
    "all": lambda _: Question(Terms.of("red"), k=1000),
    "shortlist": lambda _: Question(Terms.of("red"), shortlist="5"),
    "all ranked": lambda _: Question(Terms.of("red"), shortlist="all"),
    "no hit": lambda _: Question(Terms.of("red"), min_score=0.99),
    "conditions": lambda _: Question(Terms.of(["red", "blue"], without="green", at=["left", "top"], min_area="2%")),
    "place": lambda _: Question(Terms.of("red", at="center")),
    "folder": lambda photos: Question(Terms.of("red"), scope=Scope.of(under=photos)),
    "kind": lambda _: Question(Terms.of("red"), scope=Scope.of(ext=["jpg", "bmp"])),
    "date": lambda _: Question(Terms.of("red"), scope=Scope.of(since="2001-05", until="2098-12-31T23:59:59")),
    "none from then": lambda _: Question(Terms.of("red"), scope=Scope.of(until="2001")),
    "bytes": lambda _: Question(Terms.of("red"), scope=Scope.of(larger_than="300")),
    "very many bytes": lambda _: Question(Terms.of("red"), scope=Scope.of(larger_than="1.5GB")),
    "pixels": lambda _: Question(Terms.of("red"), scope=Scope.of(larger_than="90x60")),
    "picture": lambda photos: Question(Terms.of(picture=str(photos / "red.png"))),
    "picture with box": lambda photos: Question(
        Terms.of("blue", picture=Example.of(photos / "red.png", (4, 8, 28, 40), 2.5), without="white")
    ),
    "bytes of a picture": lambda photos: Question(Terms.of(picture=Example.of((photos / "cyan.png").read_bytes()))),
}


@pytest.mark.usefixtures("few_words")
def test_the_server_answers_as_the_index_does(home: Home, subtests: pytest.Subtests) -> None:
    for name, ask in QUESTIONS.items():
        with subtests.test(name):
            question = ask(home.photos)
            found, expected = ask_server(home, question), ask_here(home, question)
            alike(found, expected)
            if name != "conditions":  # what they leave is the model's business
                assert bool(found.hits) == (name not in ("no hit", "none from then", "very many bytes"))
            assert list(found.unseen) == (["zzyzx", "qwertyuiop", "xylograph"] if name == "unseen words" else [])
            assert list(found.seconds) == ["server"]
            assert 0 < found.seconds["server"] < 60


def test_least_score_of_the_server(home: Home) -> None:
    scores = [hit.score for hit in ask_here(home, Question(Terms.of("red"))).hits]
    limit = (scores[2] + scores[3]) / 2
    question = Question(Terms.of("red"), min_score=limit)
    found = ask_server(home, question)
    alike(found, ask_here(home, question))
    assert len(found.hits) == 3 < len(scores)


def test_pages_of_the_server_are_put_together(
    home: Home, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    for most, k in itertools.product((1, 4, 16), (1, 14, 300)):
        with subtests.test(f"{most} a page, {k} in all"):
            question = Question(Terms.of("something blue"), k=k)
            expected = ask_here(home, question)
            with monkeypatch.context() as patch:
                patch.setattr(remote, "MOST_HITS", most)
                found = ask_server(home, question)
            alike(found, expected)
            assert len(found.hits) == min(k, PHOTOS)
            assert [hit.rank for hit in found.hits] == list(range(1, len(found.hits) + 1))


@pytest.mark.usefixtures("no_cold")
def test_more_than_one_request_may_give(home: Home) -> None:
    assert len(ask_server(home, Question(Terms.of("red"), k=250)).hits) == PHOTOS


BAD: dict[str, tuple[object, ...]] = {
    "since when": ("red", "--since", "May"),
    "folder of nobody": ("red", "--under", "/nowhere"),
    "shortlist": ("red", "--shortlist", "0"),
    "k 0": ("red", "-k", "0"),
    "k below 0": ("red", "-k", "-3"),
    "box outside": ("--image", "photos/red.png", "--box", "0,0,999,999"),
    "missing picture": ("--image", "photos/nothing.png"),
    "no picture": ("--image", "page.jpg"),
    "empty": (" ",),
}


def test_mistakes_end_as_they_do_without_a_server(
    home: Home, run: Run, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    settle(home.index.parent, monkeypatch)
    (home.index.parent / "page.jpg").write_bytes(b"<!doctype html>")
    for name, arguments in BAD.items():
        with subtests.test(name):
            home.record.save(home.index)
            done = run("query", *arguments, "--index", home.index)
            (home.index / RECORD).unlink()
            cold = run("query", *arguments, "--index", home.index)
            assert (done.code, done.out) == (cold.code, "")
            assert done.code == (1 if name in ("missing picture", "no picture") else 2)
            assert done.message
            assert cold.message


BEYOND: dict[str, Callable[[Path], Question]] = {
    "a long text": lambda _: Question(Terms.of("red " * 500)),
    "a text longer than any URL": lambda _: Question(Terms.of("red " * 50_000)),
    "many phrases": lambda _: Question(Terms.of(["red", "blue", "green"] * 4)),
    "many unwanted": lambda _: Question(Terms.of("red", without=["blue", "green"] * 5)),
    "a heavy picture": lambda photos: Question(Terms.of("red", picture=Example.of(photos / "red.png", weight=1e6))),
    "a light picture": lambda photos: Question(Terms.of("red", picture=Example.of(photos / "red.png", weight=1e-6))),
    "many kinds": lambda _: Question(Terms.of("red"), scope=Scope.of(ext=[f"ext{i}" for i in range(60)] + ["png"])),
}


@pytest.mark.parametrize("name", BEYOND)
def test_what_is_too_much_for_the_server_is_asked_here(home: Home, name: str) -> None:
    """Its limits are for strangers: no mistake of who asks."""
    question = BEYOND[name](home.photos)
    server = Server.find(home.index)
    assert server is not None
    found = server.search(question)
    if found is not None:
        alike(found, ask_here(home, question))


@pytest.mark.usefixtures("no_cold", "few_words")
def test_the_command_asks_the_server(home: Home, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(home.index.parent, monkeypatch)
    done = run("query", "red", "-k", "3", "--paths", "-v", "--timings", "--index", home.index)
    assert (done.code, len(done.out.splitlines())) == (0, 3)
    counted, timed = done.err.splitlines()
    assert counted == "13 of 13 views ranked exactly (100.0%)"
    assert "server" in timed
    lines = run("query", "a zzyzx", "--json", "--index", home.index)
    assert "zzyzx" in lines.err
    assert len(lines.out.splitlines()) == 10
    done = run("query", "red", "-k", "2", "--overlay", "drawn", "--paths", "--index", home.index)
    assert done.code == 0
    assert len(list((home.index.parent / "drawn").iterdir())) == 2


def test_who_asks_for_a_model_or_heat_asks_here(home: Home, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(home.index.parent, monkeypatch)
    monkeypatch.setattr(Server, "find", lambda _: pytest.fail("asked the server"))
    for options in (("--model", weights.BUNDLED), ("--device", "cpu"), ("--overlay", "heat", "--heat")):
        assert run("query", "red", "-k", "1", *options, "--index", home.index).code == 0


# -- with a token


def test_a_server_with_a_token(running: Home) -> None:
    with serving_index(running.index, "secret-token") as site:
        record = Record(site.port, site.host, os.getpid(), site.api.server, "secret-token")
        record.save(running.index)
        question = Question(Terms.of("red"))
        alike(ask_server(running, question), ask_here(running, question))
        for token in (None, "another", "", "a\nb", "é犬", "x" * 5000):
            (running.index / RECORD).unlink()
            replace(record, token=token).save(running.index)
            server = Server.find(running.index)
            assert server is None or server.search(question) is None
        record.remove(running.index)
    assert not (running.index / RECORD).exists()


def test_the_token_is_for_who_has_proved_to_be_the_server(tmp_path: Path) -> None:
    """After a server was killed its record stays, and whoever has its port now is asked who it is."""
    asked: list[bytes] = []

    def answer(connection: socket.socket, health: bytes) -> None:
        asked.append(connection.recv(65536))
        connection.sendall(said("200 OK", health if b"/health" in asked[-1] else json.dumps(GOOD).encode()))

    for name in ("another", "mine"):
        asked.clear()
        health = json.dumps({"status": "ok", "server": name}).encode()
        with answering(lambda connection, health=health: answer(connection, health)) as port:
            (tmp_path / RECORD).unlink(missing_ok=True)
            Record(port, "127.0.0.1", os.getpid(), "mine", "s3cret").save(tmp_path)
            server = Server.find(tmp_path)
            assert (server is not None) == (name == "mine")
            assert asked
            assert not any(b"s3cret" in request or b"uthorization" in request for request in asked)
            if server is not None:
                assert server.search(Question(Terms.of("red"))) is not None
                assert b"Authorization: Bearer s3cret" in asked[-1]


# -- records that are none

WRONG: dict[str, Any] = {
    "nothing": b"",
    "no JSON": b"{port: 1}",
    "not UTF-8": b"\xff\xfe\x00",
    "a list": [],
    "a number": 7,
    "null": None,
    "empty": {},
    "deep": b"[" * 9000,
    "deep objects": b'{"port":' * 1200,
    "cut": b'{"port": 8421, "host": "127.0.0.1", "serv',
    "far too long": b'{"port": 1, "x": "' + b"x" * 10**6 + b'"}',
    "a huge number": b'{"port": ' + b"9" * 8000 + b"}",
    "port as text": {"port": "1"},
    "port as truth": {"port": True},
    "port with a fraction": {"port": 8421.0},
    "port 0": {"port": 0},
    "port too large": {"port": 65536},
    "port below 0": {"port": -1},
    "no host": {"host": None},
    "host as a list": {"host": ["127.0.0.1"]},
    "host of two lines": {"host": "127.0.0.1\r\nX: y"},
    "host with a blank": {"host": "127.0.0.1 x"},
    "host of no letters": {"host": "\ud800"},
    "host with a zero byte": {"host": "127.0.0.1\0"},
    "host of dots": {"host": "..."},
    "host without end": {"host": "a" * 300},
    "host in brackets": {"host": "[::1"},
    "no name": {"server": None},
    "another name": {"server": "0" * 32},
    "name as a number": {"server": 5},
    "empty name": {"server": ""},
}


def test_a_record_that_is_none_is_passed_over(home: Home, subtests: pytest.Subtests) -> None:
    right = json.loads((home.index / RECORD).read_text())
    for name, wrong in WRONG.items():
        with subtests.test(name):
            whole = right | wrong if isinstance(wrong, dict) and wrong else wrong
            (home.index / RECORD).write_bytes(whole if isinstance(whole, bytes) else json.dumps(whole).encode())
            begun = time.perf_counter()
            assert Server.find(home.index) is None
            assert time.perf_counter() - begun < 3


def test_a_record_that_is_no_file(home: Home) -> None:
    (home.index / RECORD).unlink()
    assert Server.find(home.index) is None
    (home.index / RECORD).mkdir()
    try:
        assert Server.find(home.index) is None
    finally:
        (home.index / RECORD).rmdir()


def test_a_record_that_may_not_be_read(open_folder: Path, as_user: Any) -> None:
    path = open_folder / RECORD
    path.write_text("{}")
    path.chmod(0)
    with as_user():
        assert Server.find(open_folder) is None


def test_a_record_that_came_along_with_a_copy(home: Home, tmp_path: Path) -> None:
    """The server of another index runs, and says so truly: it knows nothing of this one."""
    shutil.copytree(home.index, tmp_path / "copy")
    assert Server.find(home.index) is not None
    assert Server.find(tmp_path / "copy") is None


def test_the_command_goes_on_where_no_server_is(home: Home, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silently, with the same answer."""
    settle(home.index.parent, monkeypatch)
    warm = run("query", "red", "--paths", "--index", home.index)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dead = taken.getsockname()[1]
    replace(home.record, port=dead).save(home.index)
    cold = run("query", "red", "--paths", "--index", home.index)
    assert (cold.code, cold.out, cold.err) == (0, warm.out, "")


# -- others that answer on the port


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Somebody who takes connections one by one; -> the port."""
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
        for connection in taken:  # who still talks, talks to nobody
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        thread.join(15)
        listener.close()


def said(status: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


HEALTH = json.dumps({"status": "ok", "server": "mine"}).encode()
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
GOOD = {"hits": [HIT], "next": None, "in_scope": 1, "ranked": 1, "unseen": [], "warnings": [], "seconds": 0.1}

STRANGERS: dict[str, bytes] = {
    "another server": said("200 OK", b'{"status": "ok", "server": "other"}'),
    "a page": said("200 OK", b"<!doctype html>"),
    "nothing": b"",
    "no HTTP": b"220 mail.example ESMTP\r\n",
    "bytes": bytes(range(256)),
    "a redirect": said("302 Found", b"{}", "Location: http://127.0.0.1:1/"),
    "forbidden": said("403 Forbidden", b'{"error": "no"}'),
    "not found": said("404 Not Found", b'{"server": "mine"}'),
    "its error": said("500 Internal Server Error", HEALTH),
    "its usage error": said("400 Bad Request", b'{"error": "what is health?"}'),
    "its validation error": said("422 Unprocessable", b'{"detail": [1, 2]}'),
    "a list": said("200 OK", b'["mine"]'),
    "null": said("200 OK", b"null"),
    "deep": said("200 OK", b"[" * 50_000),
    "cut": said("200 OK", HEALTH[:-5], length=1000),
    "no length": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}",
    "a long line": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n",
    "chunks that lie": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
}


def record_of(folder: Path, port: int) -> Path:
    folder.mkdir(exist_ok=True)
    Record(port, "127.0.0.1", os.getpid(), "mine", None).save(folder)
    return folder


def test_a_stranger_on_the_port_is_passed_over(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, (name, content) in enumerate(STRANGERS.items()):
        with subtests.test(name):

            def answer(connection: socket.socket, content: bytes = content) -> None:
                connection.recv(65536)
                connection.sendall(content)

            with answering(answer) as port:
                assert Server.find(record_of(tmp_path / str(number), port)) is None


def drip(connection: socket.socket) -> None:
    """A byte now and then: every one of them in time."""
    connection.recv(65536)
    for byte in said("200 OK", HEALTH):
        connection.sendall(bytes([byte]))
        time.sleep(0.1)


def hang(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


@pytest.mark.parametrize("how", [hang, drip])
def test_who_does_not_answer_at_once_is_passed_over(how: Callable[[socket.socket], None], tmp_path: Path) -> None:
    with answering(how) as port:
        begun = time.perf_counter()
        assert Server.find(record_of(tmp_path, port)) is None
        assert time.perf_counter() - begun < 2.5


ENDS: dict[str, bytes] = {
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


def test_a_server_that_ends_in_the_middle_has_no_answer(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, (name, end) in enumerate(ENDS.items()):
        with subtests.test(name):

            def answer(connection: socket.socket, end: bytes = end) -> None:
                asked = connection.recv(65536)
                connection.sendall(said("200 OK", HEALTH) if b"/health" in asked else end)

            with answering(answer) as port:
                server = Server.find(record_of(tmp_path / str(number), port))
                assert server is not None
                assert server.search(Question(Terms.of("red"))) is None


def test_a_server_that_ends_between_two_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an answer is none."""
    monkeypatch.setattr(remote, "MOST_HITS", 1)

    def answer(connection: socket.socket) -> None:
        asked = connection.recv(65536)
        if b"/health" in asked:
            connection.sendall(said("200 OK", HEALTH))
        elif b"offset=0" in asked:
            connection.sendall(said("200 OK", json.dumps(GOOD | {"next": 1}).encode()))

    with answering(answer) as port:
        server = Server.find(record_of(tmp_path, port))
        assert server is not None
        assert server.search(Question(Terms.of("red"), k=3)) is None
        found = server.search(Question(Terms.of("red"), k=1))
        assert found is not None
        assert [hit.path for hit in found.hits] == ["/x.png"]


def test_what_the_server_refuses_is_explained_here(home: Home, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, and in the words of the command line."""
    settle(home.index.parent, monkeypatch)
    done = run("query", "red", "--until", "2024", "--under", "/nowhere", "--index", home.index)
    assert done.code == 2
    assert "/nowhere" in done.message


def test_the_command_goes_on_when_the_server_ends(home: Home, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(home.index.parent, monkeypatch)
    warm = run("query", "red", "--paths", "--index", home.index)

    def answer(connection: socket.socket) -> None:
        asked = connection.recv(65536)
        if b"/health" in asked:
            body = json.dumps({"status": "ok", "server": home.record.server}).encode()
            connection.sendall(said("200 OK", body))
        else:
            connection.sendall(said("200 OK", b'{"hits": [', length=5000))

    with answering(answer) as port:
        replace(home.record, port=port).save(home.index)
        cold = run("query", "red", "--paths", "--index", home.index)
    assert (cold.code, cold.out, cold.err) == (0, warm.out, "")


# -- what is sent


def test_pictures_that_cannot_be_read_are_not_sent(home: Home, tmp_path: Path) -> None:
    server = Server.find(home.index)
    assert server is not None
    for path in (tmp_path / "nothing.png", tmp_path):
        with pytest.raises(PictureError) as caught:
            server.search(Question(Terms.of(picture=str(path))))
        assert str(path) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


def test_a_server_that_listens_everywhere_is_met_here(home: Home) -> None:
    replace(home.record, host="0.0.0.0").save(home.index)
    server = Server.find(home.index)
    assert server is not None
    assert server.host == "127.0.0.1"
