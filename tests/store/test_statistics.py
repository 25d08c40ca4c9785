"""`flairsearch status`: the statistics of an index as text and as JSON."""

import json
import os
import time
from dataclasses import asdict, replace

import pytest

from flairsearch.core.reports import IndexReport, IndexRun, Skipped, Status
from flairsearch.engine import Engine
from flairsearch.output.status import to_lines, to_text
from flairsearch.store.statistics import PARTS
from tests.support.command import run  # noqa: F401 - This is a fixture.
from tests.support.fake import fake_engine, paint_red

STATUS = Status(
    folder="/i",
    model="flair-small",
    weights_hash="ab" * 32,
    views_policy="tiles:4",
    codec="q1",
    roots=("/p", "/q"),
    images=1200,
    views=6000,
    bytes=12_000_000,
    skipped=(),
    photos={"/p": 1000, "/q": 200},
    sizes={"tokens": 11_000_000, "pooled_vectors": 1_000_000, "fitted_vectors": 0},
)


def lines(status, all_skipped=False):
    return [" ".join(line.split()) for line in to_lines(status, all_skipped)]


def test_a_run_in_one_line():
    report = IndexReport(added=1200, unchanged=3, skipped=(Skipped("a", "b"),))
    assert to_text(report) == "1,200 added, 3 unchanged, 1 skipped"
    assert to_text(IndexReport()) == "nothing to do"


def test_contents_and_sizes():
    assert lines(STATUS) == [
        "index /i",
        "photos 1,200, 6,000 views",
        "1,000 in /p",
        "200 in /q",
        "size 12.0 MB, 10.0 kB a photo",
        "tokens 11.0 MB, pooled vectors 1.0 MB",
        "model flair-small (weights abababababab)",
        "views tiles:4, kept as q1",
    ]
    assert "views" not in lines(replace(STATUS, views=1200))[1]
    assert lines(replace(STATUS, images=0, views=0, photos={}, roots=()))[1] == "photos 0"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((-3600, "just now"), (59, "just now"), (60, "1 minute ago"), (7199, "1 hour ago"), (7200, "2 hours ago")),
        (3 * 86400 + 5, "3 days ago"),
    ],
)
def test_the_last_run(seconds, text):
    last = IndexRun(time.time() - seconds - 0.5, 12.34, 3, 0, 0, 1, 1196, 2, 12)
    found = lines(replace(STATUS, last_run=last))[-2:]
    assert found == [
        f"last run {text}, in 12.3 s: 3 added, 1 removed, 1,196 unchanged, 2 skipped",
        "videos 12 left out: flairsearch indexes photos",
    ]


def test_skipped_files_are_grouped_by_reason():
    needs = 'HEIC needs: pip install "flairsearch[heif]"'
    skipped = (
        Skipped("/p/a.jpg", "damaged (image file is truncated (3 bytes not processed))"),
        *(Skipped(f"/p/{i}.heic", needs) for i in range(5)),
        Skipped("/p/b\n.jpg", "damaged (broken data stream)"),
    )
    status = replace(STATUS, skipped=skipped)
    assert lines(status)[8:] == [
        "skipped 7 in the last run",
        f"5: {needs}",
        *("/p/0.heic", "/p/1.heic", "/p/2.heic", "and 2 more: flairsearch status --skipped"),
        "2: damaged",
        "/p/a.jpg (image file is truncated (3 bytes not processed))",
        r"/p/b\u000a.jpg (broken data stream)",
    ]
    assert lines(status, all_skipped=True)[12:15] == ["/p/2.heic", "/p/3.heic", "/p/4.heic"]


@pytest.fixture
def photos(tmp_path):
    for area in (3, 9):
        paint_red(tmp_path / "photos" / f"{area}.png", area)
    (tmp_path / "photos" / "m.mp4").write_bytes(b"")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    return tmp_path / "photos"


def test_the_status_has_the_last_run(tmp_path, photos):
    more = paint_red(tmp_path / "more" / "20.png", 20).parent
    with fake_engine(tmp_path / "index") as engine:
        assert engine.status().last_run is None
        began = time.time()
        engine.add([photos, more])
        status = engine.status()
        assert status.photos == {str(photos): 2, str(more): 1}
        assert tuple(status.sizes) == PARTS
        assert status.bytes == sum(status.sizes.values()) > status.sizes["tokens"] > 0
        last = status.last_run
        assert replace(last, finished=0, seconds=0) == IndexRun(0, 0, 3, 0, 0, 0, 0, 1, 1)
        assert began <= last.finished <= time.time()
        assert 0 < last.seconds <= time.time() - began
        (photos / "3.png").unlink()
        engine.add()
        assert replace(engine.status().last_run, finished=0, seconds=0) == IndexRun(0, 0, 0, 0, 0, 1, 2, 1, 1)
        engine.forget(photos)  # Forgetting does not count as a run.
        assert engine.status().last_run.unchanged == 2


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"finished": 1}', "\xff", "[" * 100_000])
def test_a_damaged_record_of_the_last_run_is_ignored(tmp_path, photos, text):
    with fake_engine(tmp_path / "index") as engine:
        engine.add(photos)
        whole = asdict(engine.status().last_run)
        (tmp_path / "index" / "last-run.json").write_text(text, encoding="latin-1")
        assert engine.status().last_run is None
        (tmp_path / "index" / "last-run.json").write_text(json.dumps({**whole, "added": "many"}))
        assert engine.status().last_run is None


def test_on_read_only_media(open_folder, photos, as_user):
    with fake_engine(open_folder / "index") as engine:
        engine.add(photos)
    for path in [open_folder / "index", *(open_folder / "index").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    with as_user(), Engine.open(open_folder / "index", create=False) as engine:
        assert engine.status().last_run.added == 2


def test_an_unwritable_record_does_not_fail_the_run(tmp_path, photos):
    with fake_engine(tmp_path / "index") as engine:
        os.mkdir(tmp_path / "index" / "last-run.json")
        assert engine.add(photos).added == 2
        assert engine.status().last_run is None


def test_the_command(tmp_path, photos, run, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    with fake_engine(tmp_path / "index") as engine:
        engine.add(photos)
        status = engine.status()
    text = run("status", "--index", "./index").out
    assert "2 in " in text
    assert "last run  just now" in text
    assert "not a picture in a known format\n             photos/broken.jpg" in text
    assert "videos    1 left out: flairsearch indexes photos" in text
    (line,) = run("status", "--index", "./index", "--json").out.splitlines()
    found = json.loads(line)
    assert found.pop("bytes") == pytest.approx(status.bytes, rel=0.5)  # The size of SQLite's log varies.
    sizes = found.pop("sizes")
    assert sizes["tokens"] == status.sizes["tokens"]
    expected = asdict(replace(status, roots=list(status.roots), skipped=list(status.skipped)))
    assert found == {name: value for name, value in expected.items() if name not in ("bytes", "sizes")}


def test_the_status_of_many_photos_is_fast(tmp_path, catalog, index):
    """With 100,000 images in the catalogue, the status takes less than half a second."""
    import sqlite3

    with sqlite3.connect(index / "catalog.sqlite") as connection:
        connection.execute("INSERT INTO roots VALUES (1, '/p')")
        connection.execute("INSERT INTO segments VALUES (1, 100000, 'fp16')")
        numbers = range(1, 100_001)
        connection.executemany(
            "INSERT INTO contents VALUES (?, ?, NULL)", ((i, i.to_bytes(16, "big")) for i in numbers)
        )
        connection.executemany("INSERT INTO images VALUES (?, 1, ?, 1, 1, ?)", ((i, f"{i}.jpg", i) for i in numbers))
        connection.executemany(
            "INSERT INTO views VALUES (?, ?, 1, ?, 0, 1, 1, 0, 0, 1, 1)", ((i, i, i) for i in numbers)
        )
    connection.close()
    with fake_engine(index) as engine:
        engine.status()
        began = time.perf_counter()
        status = engine.status()
        took = time.perf_counter() - began
    assert (status.images, status.views, status.photos) == (100_000, 100_000, {"/p": 100_000})
    assert took < 0.5  # It takes 0.04 seconds on two idle cores.
