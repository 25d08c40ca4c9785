from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import webbrowser
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason='needs pip install "flairsearch[serve]"')
pytest.importorskip("httpx", reason="needs httpx")
import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount
from starlette.testclient import TestClient

from flairsearch.core.filters import Filter
from flairsearch.core.query import ImageExample, Query
from flairsearch.core.request import MAX_BODY_BYTES
from flairsearch.engine import Engine
from flairsearch.rebuild import rebuild
from flairsearch.serve import app as app_module
from flairsearch.serve.files import PageFiles
from flairsearch.serve.original_files import open_original
from tests.support.command import RunCommand, settle
from tests.support.served import (
    BITMAP,
    EVIL,
    GONE,
    LINK,
    PAGE,
    PIPE,
    TURNED,
    open_index,
    raw,
    request,
    serving_index,
    status_of,
)

PHOTOS, VIEWS = 15, 13  # Two photos have the content of another one.
API = "/api/v1"


@pytest.fixture
def site(served):
    return served


@pytest.fixture
def index(served):
    return served.index


@pytest.fixture
def client(site):
    with httpx.Client(base_url=site.url, timeout=30) as client:
        yield client


def hits_of(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["hits"]


def error_of(answer):
    """The one line of an error, which does not tell paths of this machine."""
    assert answer.headers["content-type"] == "application/json"
    (text,) = answer.json().values()
    check_line(text)
    return text


def check_line(text):
    assert text
    assert len(text) < 700
    assert "\n" not in text
    assert not re.search(r"Traceback|File \"|/tmp/|/root|/home|site-packages|\.py\b", text), text


def png_bytes(colour="red", size=(96, 64)):
    buffer = BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


# -- search


def test_a_search_is_that_of_the_engine(client, index):
    found = client.get(f"{API}/search", params={"q": "a red square", "k": 4}).json()
    with open_index(index) as engine:
        expected = engine.search("a red square", 4)
    assert [(hit["id"], hit["path"]) for hit in found["hits"]] == [(hit.image, hit.path) for hit in expected]
    assert [hit["score"] for hit in found["hits"]] == pytest.approx([hit.score for hit in expected], abs=1e-5)
    assert [hit["regions"][0]["box"] for hit in found["hits"]] == [list(hit.regions[0].box) for hit in expected]
    assert (found["in_scope"], found["ranked"], found["next"]) == (VIEWS, VIEWS, 4)
    assert (found["warnings"], found["complete"]) == ([], True)
    assert found["seconds"] > 0


def test_pages_join_without_gap_or_repeat(client):
    seen, offset = [], 0
    while offset is not None:
        found = client.get(f"{API}/search", params={"q": "blue", "k": 3, "offset": offset}).json()
        assert [hit["rank"] for hit in found["hits"]] == list(range(offset + 1, offset + 1 + len(found["hits"])))
        seen += [hit["id"] for hit in found["hits"]]
        offset = found["next"]
    assert seen == [hit["id"] for hit in hits_of(client.get(f"{API}/search", params={"q": "blue", "k": 200}))]
    assert len(set(seen)) == len(seen) == PHOTOS
    beyond = client.get(f"{API}/search", params={"q": "blue", "offset": 1_000_000}).json()
    assert (beyond["hits"], beyond["next"]) == ([], None)


def test_conditions_and_filter_are_those_of_the_engine(client, index):
    chosen = Filter(larger_than="80x60", extension="png,jpg")
    more = {"extension": "png,jpg", "larger_than": "80x60"}
    for texts, position in ((["red", "cyan"], []), (["red"], ["left"])):
        with open_index(index) as engine:
            query = Query(texts, exclude="blue", position=position, min_area="1%")
            expected = engine.search(query, 10, shortlist="all", min_score=-0.5, filter=chosen)
        given = {"q": texts, "exclude": "blue", "position": position, "min_area": "1%"}
        given |= {"min_score": -0.5, "shortlist": "all"}
        found = hits_of(client.get(f"{API}/search", params=given | more))
        assert [hit["id"] for hit in found] == [hit.image for hit in expected]
        assert 0 < len(found) < len(hits_of(client.get(f"{API}/search", params={"q": texts})))
        assert [phrase["text"] for phrase in found[0]["phrases"]] == texts


def test_an_indexed_picture_is_looked_for(client, site, index):
    red = site.id_of("red.png")
    found = hits_of(client.get(f"{API}/search", params={"image": red, "box": "40,20,90,60", "k": 3}))
    with open_index(index) as engine:
        expected = engine.search(Query(image=ImageExample(site.photos / "red.png", "40,20,90,60")), 3)
    assert [hit["id"] for hit in found] == [hit.image for hit in expected]
    assert found[0]["phrases"][0]["text"] == "red.png"


@pytest.mark.parametrize("kind", ["application/octet-stream", "image/png", "multipart/form-data", "text/html"])
def test_a_posted_picture_is_looked_for(client, index, kind):
    data = png_bytes("blue")
    posted = client.post(f"{API}/search", params={"k": 3, "q": "blue"}, content=data, headers={"content-type": kind})
    with open_index(index) as engine:
        expected = engine.search(Query("blue", image=ImageExample(data)), 3)
    assert [hit["id"] for hit in hits_of(posted)] == [hit.image for hit in expected]


def test_two_searches_at_once_are_answered_together(client, site):
    entered, go = threading.Event(), threading.Event()
    site.api.worker.call(lambda _: (entered.set(), go.wait(20)))
    assert entered.wait(20)
    before = site.api.worker.batches[2]
    found = []
    ask = [
        threading.Thread(target=lambda q=q: found.append(httpx.get(f"{site.url}{API}/search?q={q}")))
        for q in ("red", "blue")
    ]
    for thread in ask:
        thread.start()
    while site.api.worker.waiting < 2:
        time.sleep(0.01)
    go.set()
    for thread in ask:
        thread.join()
    assert [answer.status_code for answer in found] == [200, 200]
    assert site.api.worker.batches[2] == before + 1


def test_a_full_queue_refuses_a_search_and_a_client_that_leaves_makes_room(client, site):
    entered, go = threading.Event(), threading.Event()
    worker = site.api.worker
    worker.call(lambda _: (entered.set(), go.wait(30)))
    assert entered.wait(20)
    batches = dict(worker.batches)
    ask = f"GET {API}/search?q=red HTTP/1.1\r\nHost: {site.host}\r\n\r\n".encode()
    waiting = [socket.create_connection((site.host, site.port)) for _ in range(64)]
    for one in waiting:
        one.sendall(ask)
    while worker.waiting < 64:
        time.sleep(0.01)
    refused = client.get(f"{API}/search?q=red")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert "ask again" in error_of(refused)
    for one in waiting:
        one.close()
    deadline = time.monotonic() + 20
    while worker.waiting and time.monotonic() < deadline:
        time.sleep(0.01)
    go.set()
    assert hits_of(client.get(f"{API}/search?q=red&k=1"))
    assert worker.batches[1] == batches.get(1, 0) + 1
    assert worker.batches[64] == batches.get(64, 0)


def test_regions_have_heat(client, site, index):
    image = site.id_of("blue.png")
    found = client.get(f"{API}/regions/{image}", params={"q": ["red", "blue"]}).json()
    with open_index(index) as engine:
        expected = engine.show(image, Query(["red", "blue"]))
    assert found["path"] == expected.path
    for phrase, other in zip(found["phrases"], expected.phrases, strict=True):
        np.testing.assert_allclose(phrase["heat"], other.heat, atol=1e-5)
        assert phrase["view"] == [0, 0, 96, 64]


def test_regions_of_a_posted_picture(client, site, index):
    image, data = site.id_of("blue.png"), png_bytes("blue")
    found = client.post(f"{API}/regions/{image}", params={"box": "10,10,50,50"}, content=data).json()
    with open_index(index) as engine:
        expected = engine.show(image, Query(image=ImageExample(data, "10,10,50,50")))
    np.testing.assert_allclose(found["phrases"][0]["heat"], expected.phrases[0].heat, atol=1e-5)
    assert client.post(f"{API}/regions/999999", content=data).status_code == 404
    assert client.post(f"{API}/regions/{image}", content=b"").status_code == 400


# -- photos


def test_originals_are_sent_as_they_are(client, site):
    for name, kind in (("red.png", "image/png"), (TURNED, "image/jpeg"), (EVIL, "image/png")):
        url = f"{API}/images/{site.id_of(name)}"
        answer = client.get(url)
        assert answer.content == (site.photos / name).read_bytes()
        assert answer.headers["content-type"] == kind
        assert answer.headers["content-disposition"].startswith("inline; filename=")
        assert answer.headers["cache-control"].startswith("private")
        head = client.head(url)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers == answer.headers
        again = client.get(url, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_a_photo_that_grows_while_it_is_sent_has_the_size_it_said(tmp_path):
    path = tmp_path / "growing.png"
    Image.fromarray(np.random.default_rng(0).integers(256, size=(400, 400, 3), dtype=np.uint8)).save(path)
    before, parts = path.read_bytes(), []
    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}

    async def send(message):
        parts.append(message.get("body", b""))
        if len(parts) < 4:
            with path.open("ab") as stream:
                stream.write(bytes(1 << 16))

    async def answer():
        await PageFiles().original_response(Request(scope), open_original(str(path)), str(path))(
            scope, asyncio.Event().wait, send
        )

    asyncio.run(answer())
    assert b"".join(parts) == before


def test_a_photo_of_a_strange_date_is_sent(client, site):
    path = site.photos / "red.png"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    try:
        for seconds in (-(10**10), 10**12):
            with suppress(OverflowError, OSError):  # Not every file system keeps such dates.
                os.utime(path, (seconds, seconds))
            answer = client.get(f"{API}/images/{site.id_of('red.png')}")
            assert (answer.status_code, answer.content) == (200, path.read_bytes())
    finally:
        os.utime(path, ns=times)


def test_the_page_of_an_installation_made_of_links(tmp_path):
    """`uv --link-mode=symlink` makes such links; the etag depends on the content of a file, not on its date."""
    (tmp_path / "static").mkdir()
    for file in PageFiles().directory.iterdir():
        (tmp_path / "static" / file.name).symlink_to(file)
    with TestClient(Starlette(routes=[Mount("/", PageFiles(tmp_path / "static"))])) as client:
        answer = client.get("/app.js")
        assert answer.content == (PageFiles().directory / "app.js").read_bytes()
        assert client.get("/../../app.py").status_code == 404
        again = client.get("/app.js", headers={"if-none-match": answer.headers["etag"]})
        assert again.status_code == 304
        (tmp_path / "static" / "app.js").unlink()
        (tmp_path / "static" / "app.js").write_bytes(answer.content[::-1])
        os.utime(tmp_path / "static" / "app.js", (0, 0))
        assert client.get("/app.js", headers={"if-none-match": answer.headers["etag"]}).status_code == 200


def test_parts_of_originals(client, site):
    url, data = f"{API}/images/{site.id_of('red.png')}", (site.photos / "red.png").read_bytes()
    part = client.get(url, headers={"range": "bytes=8-19"})
    assert (part.status_code, part.content) == (206, data[8:20])
    assert part.headers["content-range"] == f"bytes 8-19/{len(data)}"
    assert part.headers["content-type"] == "image/png"
    beyond = client.get(url, headers={"range": "bytes=999999-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(data)}")
    error_of(beyond)
    for text in (
        "bytes=x",
        "bytes=9-3",
        "bytes=-",
        "lines=1-2",
        "bytes",
        "bytes=1-2,x",
    ):  # RFC 9110 says that these are ignored.
        whole = client.get(url, headers={"range": text})
        assert (whole.status_code, whole.content) == (200, data)
    for path in ("/", "/static/app.js"):
        assert client.get(path, headers={"range": "bytes=0-4"}).status_code == 206
        error_of(client.get(path, headers={"range": "bytes=999999-"}))


def test_an_original_that_is_exchanged_before_it_is_sent(tmp_path):
    """The file that was checked is the one that is sent; it is closed whether it is sent or not."""
    photo, data = tmp_path / "photo.png", png_bytes()
    photo.write_bytes(data)
    originals = [open_original(str(photo)) for _ in range(2)]
    photo.unlink()
    photo.symlink_to("/etc/passwd")
    files = PageFiles()

    async def app(scope, receive, send):
        await files.original_response(Request(scope), originals.pop(), str(photo))(scope, receive, send)

    first, second = originals
    answer = TestClient(app).get("/")
    assert (answer.content, answer.headers["content-type"]) == (data, "image/png")
    assert TestClient(app).get("/", headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    assert first.stream.closed
    assert second.stream.closed


def test_what_browsers_do_not_show_is_sent_as_jpeg(client, site):
    answer = client.get(f"{API}/images/{site.id_of(BITMAP)}")
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(BytesIO(answer.content)).size == (80, 60)


@pytest.mark.parametrize(("path", "size"), [("images/{}?size=48", (32, 48)), ("thumbnails/{}?size=256", (64, 96))])
def test_smaller_ones_are_upright(client, site, path, size):
    answer = client.get(f"{API}/{path.format(site.id_of(TURNED))}")
    picture = Image.open(BytesIO(answer.content))
    assert (picture.format, picture.size) == ("JPEG", size)
    pixels = np.asarray(picture).astype(int)
    assert pixels[size[1] // 4, size[0] // 2, 0] > 200  # The top is red.
    assert pixels[-size[1] // 4, size[0] // 2, 2] > 200
    again = client.get(str(answer.url), headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.head(str(answer.url)).status_code == 200


PATHS = ["images/{}", "images/{}?size=100", "thumbnails/{}", "search?image={}", "regions/{}?image={}"]
SPOILT = [(GONE, {410}), (PIPE, {410}), (PAGE, {422}), (LINK, {422})]


def test_photos_that_are_no_photos_any_more(client, site, subtests):
    for (name, statuses), path in itertools.product(SPOILT, PATHS):
        with subtests.test(f"{name} {path}"):
            answer = client.get(f"{API}/{path.replace('{}', str(site.id_of(name)))}")
            assert answer.status_code in statuses
            error_of(answer)
            assert b"root:" not in answer.content
            assert b"<script>" not in answer.content


def test_unknown_images(client):
    for path in ("images/999999", "thumbnails/999999", "regions/999999?q=red", "search?image=999999"):
        answer = client.get(f"{API}/{path}")
        assert answer.status_code == 404
        assert "999999" in error_of(answer)


# -- the rest


def test_status_health_and_metrics(client, site):
    status = client.get(f"{API}/status").json()
    assert (status["photos"], status["views"], status["index"]) == (PHOTOS, VIEWS, "index")
    assert status["folders"] == [{"path": str(site.photos), "photos": PHOTOS}]
    assert (status["model"], status["device"], status["skipped"]) == ("fake", "cpu", 0)
    assert client.get(f"{API}/health").json() == {"status": "ok"}
    client.get(f"{API}/search?q=red")
    answer = client.get(f"{API}/metrics")
    values = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert float(values["flairsearch_photos"]) == PHOTOS
    assert float(values["flairsearch_queue"]) == 0
    assert float(values["flairsearch_batch_size_count"]) >= 1
    assert float(values["flairsearch_search_seconds_count"]) >= 1
    assert float(values[f'flairsearch_requests_total{{route="{API}/search",status="200"}}']) >= 1


KINDS = {
    "index.html": "text/html; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


def test_the_page_and_its_files(client):
    """Media types do not depend on the registry of the machine."""
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert client.get("/", headers={"if-none-match": page.headers["etag"]}).status_code == 304
    folder = Path(app_module.__file__).parent / "static"
    files = {file.name for file in folder.iterdir()}
    assert files >= KINDS.keys()
    for name in files:
        answer = client.get(f"/static/{name}")
        assert answer.content == (folder / name).read_bytes()
        if name in KINDS:
            assert answer.headers["content-type"] == KINDS[name]
        assert answer.headers["cache-control"] == "no-cache"
        again = client.get(f"/static/{name}", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content, again.headers["cache-control"]) == (304, b"", "no-cache")
        head = client.head(f"/static/{name}")
        assert (head.status_code, head.content, head.headers["content-length"]) == (
            200,
            b"",
            answer.headers["content-length"],
        )
    for path in ("/static/nothing.js", "/static/nothing", "/static/", "/static"):
        missing = client.get(path)
        assert missing.status_code == 404
        error_of(missing)
    assert client.post("/static/app.js").status_code == 405
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


def test_the_token_is_described_where_one_is_needed(site):
    for token in (None, "s3cret"):
        app = app_module.create_app(site.api, "127.0.0.1", token)
        found = TestClient(app, "http://127.0.0.1", headers={"authorization": "Bearer s3cret"}).get(
            f"{API}/openapi.json"
        )
        description = found.json()
        asked = {path: "security" in one for path, several in description["paths"].items() for one in several.values()}
        assert asked == {path: token is not None and path != f"{API}/health" for path in asked}
        schemes = description["components"].get("securitySchemes", {})
        assert [one["scheme"] for one in schemes.values()] == (["bearer"] if token else [])


def test_errors_name_parameters_as_http_does(client):
    for given, name in (({"q": " "}, "q"), ({"q": "red", "min_area": "2"}, "min_area")):
        assert error_of(client.get(f"{API}/search", params=given)).startswith(f"{name}: ")


def test_advised_commands_keep_their_options(site):
    advice = "segments/1.tokens is short - run flairsearch verify --repair, or index --rebuild"
    assert site.api.errors.plain(f"{site.api.worker.folder}/{advice}") == f"the index/{advice}"


def test_long_headers_that_come_in_pieces(site):
    data = f"GET {API}/health HTTP/1.1\r\nHost: {site.host}\r\nX-Long: {'a' * 33_000}\r\n\r\n".encode()
    with socket.create_connection((site.host, site.port), 10) as connection:
        for start in range(0, len(data), 1400):
            connection.sendall(data[start : start + 1400])
            time.sleep(0.001)
        assert connection.recv(100).startswith(b"HTTP/1.1 431 ")


def test_a_form_is_no_picture(client):
    answer = client.post(f"{API}/search", files={"file": ("a.png", b"x" * 50, "image/png")})
    assert answer.status_code == 400
    assert "form" in error_of(answer)


def test_opening_the_page_loads_torch(client, site, monkeypatch):
    loaded = []
    monkeypatch.setattr("flairsearch.serve.app.import_module", loaded.append)
    monkeypatch.setattr(site.api, "_prepared", False)
    client.get(f"{API}/search?q=red")
    assert loaded == []
    for _ in range(2):
        client.get("/")
    end = time.monotonic() + 10
    while not loaded and time.monotonic() < end:
        time.sleep(0.01)
    assert loaded == ["flairsearch.model.encoder"]


def test_the_description_lists_the_values_of_options(client: TestClient) -> None:
    given = client.get(f"{API}/openapi.json").json()["paths"][f"{API}/search"]["get"]["parameters"]
    schemas = {parameter["name"]: parameter["schema"] for parameter in given}
    assert schemas["position"]["items"]["enum"] == ["left", "right", "top", "bottom", "center"]
    assert schemas["score"]["anyOf"][0]["enum"] == ["flair", "global", "sum"]


def test_the_description_names_every_parameter_and_answer(client):
    found = client.get(f"{API}/openapi.json").json()
    for path, operations in found["paths"].items():
        assert path.startswith(API)
        for operation in operations.values():
            assert operation["summary"]
            assert operation["description"]
            assert all(parameter.get("description") for parameter in operation.get("parameters", []))
            assert "HTTPValidationError" not in json.dumps(operation)
    assert "HTTPValidationError" not in found["components"]["schemas"]


def test_answers_are_as_they_are_described(client, site):
    """The fields of an answer are exactly the described ones, of the described types."""
    jsonschema = pytest.importorskip("jsonschema_rs", reason="needs schemathesis")
    found = client.get(f"{API}/openapi.json").json()
    components = found["components"]
    for schema in components["schemas"].values():
        if "properties" in schema:
            schema["additionalProperties"] = False
    red = site.id_of("red.png")
    asked = [
        ("search", f"search?q=red&q=blue&image={red}&k=3"),
        ("search", "search?q=red&min_score=0.99"),
        ("regions/{id}", f"regions/{red}?q=red&q=blue"),
        ("status", "status"),
        ("health", "health"),
    ]
    for path, target in asked:
        answers = found["paths"][f"{API}/{path}"]["get"]["responses"]
        wrong = f"{target}{'&' if '?' in target else '?'}k=x"
        for status, address in (("200", target), ("400", wrong)):
            if status in answers:
                schema = answers[status]["content"]["application/json"]["schema"] | {"components": components}
                answer = client.get(f"{API}/{address}")
                assert answer.status_code == int(status)
                jsonschema.validator_for(schema).validate(answer.json())
                with pytest.raises(jsonschema.ValidationError):
                    jsonschema.validator_for(schema).validate(answer.json() | {"x": 1})


def test_head_is_get_without_the_body(client, site):
    for path in ("search?q=red", "regions/1?q=red", f"thumbnails/{site.id_of('red.png')}", "status", "openapi.json"):
        answer, head = client.get(f"{API}/{path}"), client.head(f"{API}/{path}")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers.keys() == answer.headers.keys()
    assert client.head("/").status_code == client.head(f"{API}/metrics").status_code == 200
    assert "head" not in client.get(f"{API}/openapi.json").json()["paths"][f"{API}/status"]


def test_no_answer_names_the_software_of_the_server(client):
    for path in ("/", f"{API}/health", f"{API}/search", "/nothing"):
        headers = client.get(path).headers
        assert not {"server", "date", "x-powered-by", "access-control-allow-origin"} & headers.keys()
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


WRONG = {
    "q": ["", " ", "a" * 1001],
    "k": ["0", "-1", "201", "x", "1e3", "", "9" * 5000],
    "offset": ["-1", "x", "9" * 30],
    "shortlist": ["none", "0", "-5", ""],
    "min_score": ["x", "nan", "inf", ""],
    "min_area": ["x", "-1", "2", "nan"],
    "position": ["up", ""],
    "folder": ["", "photos", "../..", "~", "~root", "/nowhere/at/all", "/etc", "/\0"],
    "since": ["x", "", "2024-13", "99999"],
    "until": ["x"],
    "larger_than": ["x", "", "-1MB"],
    "extension": ["", "../jpg", "a b"],
    "score": ["", "cosine", "Flair"],
    "image": ["0", "-1", "x", "9" * 30, "../1", "1.5"],
    "box": ["0,0,1,1", "x"],
    "image_weight": ["2", "0", "-1", "x", "inf"],
    "unknown": ["1"],
    "at": ["left"],
    "under": ["/"],
    "not": ["blue"],
    "ext": ["png"],
}


def test_wrong_parameters_are_one_line(client, subtests):
    for name, value in ((name, value) for name, several in WRONG.items() for value in several):
        with subtests.test(f"{name}={value[:30]!r}"):
            given = {"q": "red"} | {name: value}
            answer = client.get(f"{API}/search", params=given)
            assert answer.status_code == 400, answer.text
            assert "--" not in error_of(answer)


def test_too_many_phrases_and_none(client):
    assert client.get(f"{API}/search", params={"q": ["red"] * 8}).status_code == 200
    assert client.get(f"{API}/search", params={"q": ["red"] * 9}).status_code == 400
    assert client.get(f"{API}/search").status_code == 400
    assert "200" in error_of(client.get(f"{API}/search", params={"q": "red", "k": 201}))


def test_a_path_of_this_machine_is_no_part_of_an_error(client, site):
    answer = client.get(f"{API}/search", params={"image": site.id_of("red.png"), "box": "0,0,5000,5000"})
    assert answer.status_code == 400
    assert "96 x 64" in error_of(answer)


# -- hostile requests


def bomb(width=60_000, height=60_000):
    """A small PNG whose header says that it has `width` times `height` pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1_000_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def hostile(site):
    """Tuples of a description, the statuses that are right, and the answer."""

    def get(what, path, *headers, right=(400, 404), method="GET", host=None):
        return what, right, request(site, f"{method} {path}", *headers, host=host)

    for way in (
        "..",
        "%2e%2e",
        "..%2f..%2fetc%2fpasswd",
        "....//etc/passwd",
        "%00",
        "1%00.jpg",
        "1%0d%0aX:%20y",
        "%ff",
        "-1",
    ):
        for route in ("images", "thumbnails", "regions"):
            yield get(f"traversal: {route}/{way}", f"{API}/{route}/{way}?q=red")
        yield get(f"traversal: static/{way}", f"/static/{way}")
    for way in ("/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py"):
        yield get(f"traversal: {way}", way)
    yield get("traversal: /etc/passwd as path", "/etc/passwd")
    yield get("absolute-form target of another host", "http://evil.example/", right=(200, 400, 404))
    yield get("NUL in q", f"{API}/search?q=red%00blue", right=(200, 400))
    yield get("no UTF-8 in q", f"{API}/search?q=%ff%fe", right=(200, 400))
    yield get("lone surrogate in q", f"{API}/search?q=%ed%a0%80", right=(200, 400))
    yield get("bytes that are no ASCII in the target", f"{API}/search?q=\udcff", right=(200, 400))
    yield get("q of 1,000 emoji", f"{API}/search?q={'%F0%9F%98%80' * 1000}", right=(200,))
    yield get("a long URL", f"{API}/search?q={'a' * 20_000}", right=(414,))
    yield get("a huge URL", f"{API}/search?q={'a' * 200_000}", right=(400, 414))
    yield get("huge headers", f"{API}/health", f"X-Long: {'a' * 200_000}", right=(400, 431))
    yield get("10,000 headers", f"{API}/health", *[f"X-{n}: a" for n in range(10_000)], right=(400, 431))
    yield get("two Hosts", f"{API}/health", "Host: evil.example", right=(400,))
    yield get("Host of another site", f"{API}/search?q=red", host="evil.example", right=(400,))
    yield get("Host rebound", f"{API}/search?q=red", host=f"127.0.0.1.nip.example:{site.port}", right=(400,))
    yield "no Host, HTTP/1.0", (400,), raw(site, f"GET {API}/health HTTP/1.0\r\n\r\n".encode())
    yield get("fetch by another site", f"{API}/search?q=red", "Sec-Fetch-Site: cross-site", right=(403,))
    yield get("image tag of another site", f"{API}/images/1", "Sec-Fetch-Site: cross-site", right=(403,))
    yield get("fetch by another port of this machine", f"{API}/status", "Sec-Fetch-Site: same-site", right=(403,))
    yield get("Origin of another site", f"{API}/status", "Origin: http://evil.example", right=(403,))
    yield get("preflight of another site", f"{API}/search", "Origin: null", method="OPTIONS", right=(403,))
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PROPFIND", "GET\tX"):
        yield get(f"method {method!r}", f"{API}/search?q=red", method=method, right=(400, 405))
    yield get("POST to a route that has none", f"{API}/status", "Content-Length: 0", method="POST", right=(405,))
    yield from hostile_bodies(site)
    yield "not HTTP", (400, 0), raw(site, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200))
    yield "HTTP/2 preface", (400, 0), raw(site, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    yield "half a request", (400, 0), raw(site, b"GET /api/v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-", half=True)
    yield get("upgrade to a websocket", f"{API}/health", "Upgrade: websocket", "Connection: upgrade", right=(200, 400))


def hostile_bodies(site):
    """The hostile requests with a body."""

    def post(what, body, *headers, right=(400, 422), target=f"{API}/search?k=1", half=False):
        said = any(header.startswith(("Content-Length", "Transfer")) for header in headers)
        length = () if said else (f"Content-Length: {len(body)}",)
        return what, right, request(site, f"POST {target}", *headers, *length, body=body, half=half)

    png = png_bytes()
    chunked = "Transfer-Encoding: chunked"
    yield post("body: empty", b"")
    yield post("body: JSON", b'{"q": ["red"', "Content-Type: application/json")
    yield post(
        "body: broken multipart",
        b"--x\r\nContent-Disposition: form-data; name=",
        "Content-Type: multipart/form-data; boundary=x",
    )
    yield post("body: HTML", b"<!doctype html><script>alert(1)</script>")
    yield post("body: SVG", b'<svg xmlns="http://www.w3.org/2000/svg"/>')
    yield post("body: half a PNG", png[: len(png) // 2])
    yield post("body: decompression bomb, 3,600 megapixels", bomb())
    yield post("body: PNG of 170 megapixels, cut", bomb(17_000, 10_000))
    yield post("body: no picture, box", b"x", target=f"{API}/search?box=0,0,1,1")
    yield post("body: box outside", png, target=f"{API}/search?box=0,0,999,999")
    yield post("body and image", png, target=f"{API}/search?image=1")
    yield post("body: 33 MB", bytes(33_000_000), right=(413, 0))
    yield post("body: 33 MB, chunked", b"1f78a40\r\n" + bytes(33_000_000) + b"\r\n0\r\n\r\n", chunked, right=(413, 0))
    yield post("length: 10^30", b"x", f"Content-Length: {10**30}", right=(400, 413))
    yield post("length: 1 TB promised", b"x", f"Content-Length: {10**12}", right=(413,))
    yield post("length: negative", b"x", "Content-Length: -1", right=(400,))
    yield post("length: no number", b"x", "Content-Length: x", right=(400,))
    yield post("length: two that differ", b"xx", "Content-Length: 1", "Content-Length: 2", right=(400,))
    yield post("length: more than comes", png, f"Content-Length: {len(png) + 9}", right=(400, 0), half=True)
    yield post("length: less than comes", png, "Content-Length: 10", right=(400, 422))
    yield post("length and chunks", png, "Content-Length: 3", chunked, right=(400,))
    yield post("chunk of a wrong size", b"zz\r\nabc\r\n0\r\n\r\n", chunked, right=(400,))


def test_hostile_requests_get_a_line_and_no_more(site, client):
    rows = []
    for what, right, answer in hostile(site):
        head, _, body = answer.partition(b"\r\n\r\n")
        status = status_of(answer)
        text = body.decode("utf-8", "replace")
        if status >= 400:
            length = int(
                re.search(rb"content-length: ([0-9]+)", head)[1]
            )  # The first answer counts, where there are two.
            (text,) = json.loads(body[:length]).values()
        rows.append((what, status or "connection closed", text[:110].replace("|", "\\|").replace("\n", " ")))
        assert status in right, (what, answer[:500])
        assert status < 500
        assert b"root:" not in answer
        if status >= 400:
            check_line(text)
        assert client.get(f"{API}/health").status_code == 200, what
    lines = ["", "| request | status | answer |", "|---|---|---|", *("| {} | {} | {} |".format(*row) for row in rows)]
    sys.stdout.write("\n".join(lines) + "\n")  # `pytest -s` shows the table.


def test_the_server_still_answers_after_all_that(client):
    assert len(hits_of(client.get(f"{API}/search?q=red"))) == 10


def test_slow_requests_delay_no_other_and_end(index):
    with serving_index(index, head_seconds=1.0) as site:
        slow = [socket.create_connection((site.host, site.port), timeout=20) for _ in range(100)]
        for one in slow:
            one.sendall(b"GET /api/v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-")
        began = time.monotonic()
        assert hits_of(httpx.get(f"{site.url}{API}/search?q=red", timeout=30))
        assert time.monotonic() - began < 5
        for one in slow:
            assert one.recv(100) == b""
            one.close()
        assert time.monotonic() - began < 10


def test_a_connection_that_stays_answers_again_and_again(site):
    with httpx.Client(base_url=site.url) as client:
        assert {client.get(f"{API}/health").status_code for _ in range(20)} == {200}


def test_with_a_token_only_health_and_the_bare_page_answer_without(index):
    with serving_index(index, token="s3cret") as site, httpx.Client(base_url=site.url) as client:
        for path in (
            f"{API}/search?q=red",
            f"{API}/images/1",
            f"{API}/thumbnails/1",
            f"{API}/regions/1?q=red",
            f"{API}/status",
            "/?token=wrong",
        ):
            answer = client.get(path)
            assert answer.status_code == 401
            assert "s3cret" not in error_of(answer)
        assert {client.get(path).status_code for path in (f"{API}/health", "/", "/static/app.js")} == {200}
        assert client.get(f"{API}/status", headers={"authorization": "Bearer s3cret"}).status_code == 200
        assert client.get(f"{API}/status", headers={"authorization": "Bearer s3creT"}).status_code == 401
        visit = client.get("/?token=s3cret")
        assert (visit.status_code, visit.headers["location"]) == (303, "/")
        assert client.get(f"{API}/status").status_code == 200  # The cookie is the token.


def test_an_unforeseen_error_is_one_line(site, client, monkeypatch, caplog):
    monkeypatch.setattr(site.api.worker, "_current_engine", lambda: 1 // 0)
    answer = client.get(f"{API}/search?q=red")
    assert answer.status_code == 500
    assert "log" in error_of(answer)
    deadline = time.monotonic() + 10
    while "ZeroDivisionError" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.01)  # The log is written after the answer.
    assert "ZeroDivisionError" in caplog.text


def test_a_stop_while_searches_take_long_answers_them(index, monkeypatch, caplog, capfd):
    entered, go, answers = threading.Event(), threading.Event(), []
    search_many = Engine.search_many

    def slow(*given):
        entered.set()
        go.wait(20)
        return search_many(*given)

    def ask(path):
        answers.append(httpx.get(f"{site.url}{API}/{path}", timeout=20))

    def stop_waiting():
        for one in asking:
            one.join()
        go.set()

    with serving_index(index, shutdown_seconds=1) as site:
        monkeypatch.setattr(Engine, "search_many", slow)
        asking = [threading.Thread(target=ask, args=("search?q=red",))]
        asking += [
            threading.Thread(target=ask, args=(path,)) for path in ("search?q=blue", "regions/1?q=red", "status")
        ]
        asking[0].start()
        assert entered.wait(20)  # One is under way, and the others wait for their turn.
        for one in asking[1:]:
            one.start()
        while site.api.worker.waiting < 3:
            time.sleep(0.01)
        threading.Thread(target=stop_waiting).start()
    assert [answer.status_code for answer in answers] == [503] * 4
    assert {error_of(answer) for answer in answers} == {"the server stops - ask again later"}
    assert not [record for record in caplog.records if record.exc_info]
    assert "Traceback" not in caplog.text + "".join(capfd.readouterr())


# -- the command


def start(index, *arguments, **environment):
    command = [
        sys.executable,
        "-m",
        "flairsearch",
        "serve",
        "--index",
        str(index),
        "--device",
        "cpu",
        *arguments,
    ]
    env = {**os.environ, "FLAIRSEARCH_CACHE": str(index.parent / "cache"), **environment}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stderr
    return process, process.stderr.readline().strip()


@pytest.mark.parametrize("sign", ["SIGINT", "SIGTERM"])
def test_a_server_prints_its_address_and_leaves_nothing(real_index, tmp_path, sign):
    own = shutil.copytree(real_index, tmp_path / "index")
    before = {path.name for path in own.iterdir()}
    process, url = start(own, "--port", "0", FLAIRSEARCH_TOKEN="s3cret")
    try:
        found = re.fullmatch(r"(http://127\.0\.0\.1:([0-9]+))/\?token=s3cret", url)
        assert found
        assert httpx.get(f"{found[1]}{API}/health").json() == {"status": "ok"}
        taken, line = start(own, "--port", found[2])
        assert taken.wait(60) == 2
        assert line.startswith(f"flairsearch: 127.0.0.1:{found[2]} cannot be listened on")
        assert taken.stderr.read() == ""
    finally:
        process.send_signal(getattr(signal, sign))
    assert process.wait(60) in (0, 130)
    assert process.stderr.read() == "flairsearch: the server has stopped\n"
    assert {path.name for path in own.iterdir()} - {"catalog.sqlite-wal", "catalog.sqlite-shm"} == before


@pytest.fixture
def serve(run: RunCommand, monkeypatch):
    """Run the command in this process; `visit` gets the address in place of the browser, then comes Ctrl-C."""
    terminate = signal.getsignal(signal.SIGTERM)

    def serve(index, visit, *arguments):
        visits = []

        def browse(url):
            visits.append(pool.submit(visit, url))
            visits[0].add_done_callback(lambda _: os.kill(os.getpid(), signal.SIGINT))

        monkeypatch.setattr(webbrowser, "open", browse)
        done = run("serve", "--index", index, "--port", 0, "--device", "cpu", "--open", *arguments)
        assert done.code == 0
        (visited,) = visits
        return visited.result(), done.err.splitlines()

    with ThreadPoolExecutor(1) as pool:
        yield serve
    signal.signal(signal.SIGTERM, terminate)


def test_a_token_of_any_letters_is_quoted_in_the_address(real_index, serve):
    token = "ab+c/d&e=%41#x y?z;\\\"'<>"

    def visit(url):
        with httpx.Client(timeout=60) as client:
            answer = client.get(url)
            return url, answer, client.get(f"{url.partition('?')[0]}api/v1/status")

    (url, visited, status), lines = serve(real_index, visit, "--token", token)
    assert lines == [url, "flairsearch: the server has stopped"]
    assert (visited.status_code, visited.headers["location"]) == (303, "/")
    assert "set-cookie" in visited.headers
    assert status.status_code == 200  # The cookie is the token.


def test_a_rebuilt_index_is_searched(real_index, serve, tmp_path):
    own = shutil.copytree(real_index, tmp_path / "index")

    def visit(url):
        before = hits_of(httpx.get(f"{url}{API}/search?q=red", timeout=60))
        (own.parent / "more").mkdir()
        (own.parent / "more" / "new.png").write_bytes(png_bytes())
        list(rebuild(own, [own.parent / "more"], device="cpu"))
        return before, hits_of(httpx.get(f"{url}{API}/search?q=red", timeout=60))

    (before, after), _ = serve(own, visit)
    assert len(after) == len(before) + 1
    assert str(own.parent / "more" / "new.png") in {hit["path"] for hit in after}


def test_a_name_of_a_proxy_needs_a_token(real_index, serve, run: RunCommand):
    def visit(url):
        address, _, token = url.partition("/?token=")
        headers = {"host": "photos.example", "origin": "https://photos.example", "authorization": f"Bearer {token}"}
        others = headers | {"host": "other.example", "origin": "https://other.example"}
        ask = f"{address}{API}/search?q=red"
        return [httpx.get(ask, headers=given, timeout=60).status_code for given in (headers, others)]

    assert serve(real_index, visit, "--name", "photos.example", "--token", "s3cret")[0] == [200, 400]
    done = run("serve", "--index", real_index, "--name", "photos.example")
    assert done.code == 2
    assert "photos.example" in done.message
    for name in ("photos.example:8443", "https://photos.example"):
        done = run("serve", "--index", real_index, "--token", "s3cret", "--name", name)
        assert done.code == 2
        assert "without scheme and port" in done.message


def test_wrong_options_are_one_line(real_index, run: RunCommand, monkeypatch):
    settle(real_index.parent, monkeypatch)
    for host in ("0.0.0.0", "192.168.1.2", "::", "photos.example"):
        done = run("serve", "--index", real_index, "--host", host)
        assert done.code == 2
        assert "--token" in done.message
    for token in ("", "a b\n", "é"):
        assert run("serve", "--index", real_index, "--token", token).code == 2
    assert run("serve", "--index", real_index, "--host", "no.such.host.invalid", "--token", "x").code == 2
    assert "is no place for an index" in run("serve", "--index", real_index.parent / ("a" * 300), "--port", 0).message
    missing = run("serve", "--index", real_index.parent / "nothing", "--port", 0)
    assert missing.code == 1
    assert "no index" in missing.message


def test_without_the_extra_it_says_what_to_install(real_index, run: RunCommand, monkeypatch):
    settle(real_index.parent, monkeypatch)
    monkeypatch.delitem(sys.modules, "flairsearch.serve.app", raising=False)
    monkeypatch.delattr("flairsearch.serve.app", raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    done = run("serve", "--index", real_index, "--port", 0)
    assert (done.code, 'pip install "flairsearch[serve]"' in done.message) == (2, True)


def test_the_limit_of_a_body_is_that_of_the_contract():
    assert MAX_BODY_BYTES == 32_000_000
