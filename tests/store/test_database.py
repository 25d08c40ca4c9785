"""Catalogues of the current and of every earlier format, and files that are rejected; one test per format."""

import json
import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flairsearch import engine as engine_module
from flairsearch.core.errors import StoreError
from flairsearch.core.filters import Filter
from flairsearch.core.settings import FORMAT_VERSION, IndexSettings
from flairsearch.engine import Engine
from flairsearch.indexing.lifecycle import create_index, open_settings
from flairsearch.store.catalog import Catalog
from flairsearch.store.database import Database
from tests.support.fake import DIM, PATCHES, FakeEncoder, exif_of, expected_score, fake_engine, fake_settings, paint_red

SCRIPT = Path(__file__).parents[1] / "support" / "format1.sql"
HITS = [
    ("/disk/more photos/40 'ü'.png", 40),
    ("/photos/sub/9.png", 9),
    ("/photos/twin of 9.png", 9),
    ("/photos/3.png", 3),
]


def token_row(patches):
    """Return a view with a number of red patches as format 1 stores it in fp16: tokens, shift, scale."""
    tokens = np.full((PATCHES, DIM), -1, "<f2")
    tokens[:, 3] = 0
    tokens[:patches, 0] = 1
    return tokens.tobytes() + np.zeros(PATCHES, "<f2").tobytes() + np.ones(PATCHES, "<f2").tobytes()


def write_format_1(folder):
    """Write an index of four views, one of a removed photo. The SQL has the checksums of exactly these bytes."""
    (folder / "segments").mkdir(parents=True)
    for number, rows in ((1, (3, 9)), (2, (20, 40))):
        (folder / "segments" / f"{number:06d}.tokens").write_bytes(b"".join(map(token_row, rows)))
        pooled = [np.asarray([n / 64, -0.5, -0.5, 0.5], "<f2").tobytes() for n in rows]
        (folder / "segments" / f"{number:06d}.pooled").write_bytes(b"".join(pooled))
    connection = sqlite3.connect(folder / "catalog.sqlite")
    connection.executescript(SCRIPT.read_text(encoding="utf-8"))
    connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    values = {"model": "fake", "weights_hash": "fake-weights", "image_size": 64, "patches": 64, "dim": 4}
    values |= {"views": "squash", "codec": "fp16", "format": 1}
    (folder / "index.json").write_text(json.dumps(values, indent=2) + "\n")
    return folder


def write_format_2(folder):
    """Write the same tables with the format number in the catalogue."""
    write_format_1(folder)
    set_user_version(folder, 2)
    (folder / "index.json").write_text((folder / "index.json").read_text().replace('"format": 1', '"format": 2'))
    return folder


@pytest.fixture
def old(tmp_path):
    return write_format_1(tmp_path / "index")


def opened(folder):
    engine = Engine.open(folder, create=False)
    engine.__dict__["encoder"] = engine.__dict__["texts"] = FakeEncoder()
    return engine


def user_version(folder):
    connection = sqlite3.connect(folder / "catalog.sqlite")
    try:
        return connection.execute("PRAGMA user_version").fetchone()[0]
    finally:
        connection.close()


def formats(folder):
    """Return the format numbers in index.json and in the catalogue."""
    return json.loads((folder / "index.json").read_text())["format"], user_version(folder)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_all_there(engine):
    assert [(h.path, pytest.approx(h.score, abs=1e-3)) for h in engine.search("red")] == [
        (path, expected_score(patches)) for path, patches in HITS
    ]
    status = engine.status()
    assert (status.images, status.views, status.codec) == (4, 3, "fp16")
    assert status.roots == ("/disk/more photos", "/photos")
    assert [(one.path, one.reason) for one in status.skipped] == [("/photos/text.png", "damaged")]
    assert [found for _, _, some in engine.verify() for found in some] == []
    assert engine.search("red").warnings == ()
    frame = engine.show(HITS[0][0], "red").phrases[0].frame
    assert (frame.width, frame.height, frame.left, frame.right) == (128, 64, 32, 96)


def test_a_new_index_has_the_current_format(tmp_path):
    create_index(tmp_path / "index", fake_settings())
    assert formats(tmp_path / "index") == (FORMAT_VERSION, FORMAT_VERSION)


def test_format_1_is_migrated_without_loss(old, tmp_path):
    assert formats(old) == (1, 0)
    with opened(old) as engine:
        check_all_there(engine)
        assert engine.settings == fake_settings()
    assert formats(old) == (FORMAT_VERSION, FORMAT_VERSION)
    with opened(old) as engine:  # From here on it is used like any other index.
        engine.add(paint_red(tmp_path / "photos" / "60.png", 60).parent)
        assert [Path(h.path).name for h in engine.search("red")][:2] == ["60.png", "40 'ü'.png"]
        engine.forget("/disk/more photos")
        list(engine.compact("int8"))
        assert [Path(h.path).stem for h in engine.search("red")] == ["60", "9", "twin of 9", "3"]
        assert engine._catalog.views_at(str(tmp_path / "photos" / "60.png")) == [5]  # View ids are not reused.
        assert [found for _, _, some in engine.verify() for found in some] == []


def test_format_2_is_migrated_and_uses_the_dates_of_files(tmp_path):
    """Images indexed before the migration have no EXIF date; images indexed after it have one."""
    old = write_format_2(tmp_path / "index")
    assert formats(old) == (2, 2)
    with opened(old) as engine:
        check_all_there(engine)
        november = Filter(since="2023-11-13", until="2023-11-16")  # The time is about 1.7e9 seconds in any zone.
        assert [hit.path for hit in engine.search("red", filter=november)] == [path for path, _ in HITS]
        assert engine.search("red", filter=Filter(since="2023-11-17")).hits == ()
        file = paint_red(tmp_path / "photos" / "60.png", 60)
        Image.open(file).save(file, exif=exif_of({0x9003: "2001:02:03 04:05:06"}))
        engine.add(file.parent)
        assert [hit.path for hit in engine.search("red", filter=Filter(until="2022"))] == [str(file)]
    assert formats(old) == (FORMAT_VERSION, FORMAT_VERSION)


def shape_of(file):
    """Return columns, keys and indexes of each table, without the names of indexes."""
    with closing(sqlite3.connect(file)) as connection:

        def rows(pragma, name):
            return connection.execute(f"SELECT * FROM pragma_{pragma}(?)", (name,)).fetchall()

        tables = connection.execute("SELECT name, sql LIKE '%AUTOINCREMENT%' FROM sqlite_master WHERE type = 'table'")
        return {
            table: (
                counts,
                rows("table_info", table),
                sorted(row[2:] for row in rows("foreign_key_list", table)),
                sorted((unique, rows("index_info", index)) for _, index, unique, *_ in rows("index_list", table)),
            )
            for table, counts in tables.fetchall()
        }


@pytest.mark.parametrize("write", [write_format_1, write_format_2])
def test_a_migrated_catalogue_has_the_current_tables(write, tmp_path):
    """Tables are compared by the columns, indexes and keys that SQLite reports."""
    old = write(tmp_path / "index")
    Catalog(old).close()
    create_index(tmp_path / "new", fake_settings())
    shapes = [shape_of(folder / "catalog.sqlite") for folder in (old, tmp_path / "new")]
    assert shapes[0] == shapes[1]


def test_a_migration_killed_between_its_two_steps_is_completed(old, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "Catalog", lambda folder: os.abort)  # The second step is not reached.
        Engine.open(old, create=False)
    assert formats(old) == (FORMAT_VERSION, 0)
    with opened(old) as engine:
        check_all_there(engine)
    assert formats(old) == (FORMAT_VERSION, FORMAT_VERSION)


def test_a_catalogue_newer_than_the_settings_is_completed(old):
    """A copy of only one of the two files may be in this state."""
    Catalog(old).close()
    assert formats(old) == (1, FORMAT_VERSION)
    with opened(old) as engine:
        check_all_there(engine)
    assert formats(old) == (FORMAT_VERSION, FORMAT_VERSION)


OPEN = """
    import sys, time
    from pathlib import Path
    from flairsearch.engine import Engine

    print("ready", flush=True)
    sys.stdin.readline()
    for folder in sys.argv[1:]:
        with Engine.open(folder, create=False) as engine:
            assert engine.status().images == 4
            assert engine.settings.format == 3
"""


def test_several_processes_migrate_at_once(tmp_path):
    folders = [write_format_1(tmp_path / f"{number}") for number in range(25)]
    command = [sys.executable, "-c", textwrap.dedent(OPEN), *map(str, folders)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = [subprocess.Popen(command, text=True, **pipes) for _ in range(3)]
    assert [process.stdout.readline() for process in running] == ["ready\n"] * 3
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate()[1] for process in running] == [""] * 3
    assert {formats(folder) for folder in folders} == {(FORMAT_VERSION, FORMAT_VERSION)}


def test_two_processes_write_the_settings_at_once(old, monkeypatch):
    """The second process is killed with its file open just before the first process renames its own."""
    sync = os.fsync

    def killed_beside(descriptor):
        sync(descriptor)
        monkeypatch.setattr(os, "fsync", stop)
        with pytest.raises(KeyboardInterrupt):
            open_settings(old)

    def stop(_descriptor):
        raise KeyboardInterrupt

    plain_open = Path.open

    def open_and_stop(path, mode="r", *args, **options):
        stream = plain_open(path, mode, *args, **options)
        if os.fsync is stop and "w" in mode:
            raise KeyboardInterrupt  # The file is still empty.
        return stream

    monkeypatch.setattr(os, "fsync", killed_beside)
    monkeypatch.setattr(Path, "open", open_and_stop)
    open_settings(old)
    monkeypatch.undo()
    assert open_settings(old) == fake_settings()


def test_a_read_only_format_1_gives_one_line(open_folder, as_user):
    folder = write_format_1(open_folder / "index")
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = contents(folder)
    with as_user(), pytest.raises(StoreError, match=r"has format 1, older than this .* open it once where") as error:
        Engine.open(folder, create=False)
    assert "\n" not in str(error.value)
    assert contents(folder) == before


def set_user_version(folder, number, script=""):
    connection = sqlite3.connect(folder / "catalog.sqlite")
    connection.executescript(f"PRAGMA user_version = {number}; {script}")
    connection.close()


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 99])
def test_a_newer_catalogue_is_refused_and_not_modified(tmp_path, version):
    fake_engine(tmp_path / "index").close()
    set_user_version(tmp_path / "index", version)
    before = contents(tmp_path / "index")
    with pytest.raises(StoreError, match=f"has format {version}, this .* reads 3 - update flairsearch") as error:
        Engine.open(tmp_path / "index", create=False)
    assert "\n" not in str(error.value)
    assert contents(tmp_path / "index") == before


def test_a_newer_catalogue_with_other_tables_is_not_called_damaged(tmp_path):
    """The error must not advise to rebuild the index."""
    fake_engine(tmp_path / "index").close()
    set_user_version(tmp_path / "index", 99, "ALTER TABLE state RENAME TO facts;")
    with pytest.raises(StoreError, match=r"has format 99, this .* reads 3 - update flairsearch"):
        Catalog(tmp_path / "index")


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 99, 0, -1, 1.5, "1", None])
def test_an_unknown_format_is_refused_and_not_modified(old, version):
    values = json.loads((old / "index.json").read_text())
    (old / "index.json").write_text(json.dumps(values | {"format": version, "unheard_of": 1}))
    before = contents(old)
    with pytest.raises(StoreError, match=f"has index format {version}, this .* reads 3 - update flairsearch") as error:
        Engine.open(old, create=False)
    assert "\n" not in str(error.value)
    assert contents(old) == before


def test_settings_that_format_1_did_not_have_keep_their_values(old):
    values = json.loads((old / "index.json").read_text())
    (old / "index.json").write_text(json.dumps(values | {"codec": "q2", "views": "center"}))
    open_settings(old)
    assert json.loads((old / "index.json").read_text()) == asdict(fake_settings("center", "q2"))
    assert IndexSettings.load(old).format == FORMAT_VERSION


ROOTS = """
    import sys
    from pathlib import Path
    from flairsearch.store.catalog import Catalog

    catalog = Catalog(Path(sys.argv[1]))
    sys.stdout.write(" ".join(sorted(catalog.roots())))
    catalog.close()
"""


def test_a_catalogue_opened_twice_stays_locked_when_another_process_closes_it(index):
    """A third process sees later commits, so SQLite's log was not removed while it was in use."""

    def roots_elsewhere():
        command = [sys.executable, "-c", textwrap.dedent(ROOTS), str(index)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    first = Catalog(index)
    first.add_root("/a")
    second = Catalog(index)
    assert roots_elsewhere() == ["/a"]
    second.close()
    assert roots_elsewhere() == ["/a"]
    first.add_root("/b")
    assert roots_elsewhere() == ["/a", "/b"]
    first.close()


# -- connections


def test_threads_read_consistent_states_while_one_writes(tmp_path):
    """Each read is one transaction, and there are no more connections than concurrent reads."""
    database = Database(tmp_path, create=True)
    with database.write() as connection:
        connection.execute("INSERT INTO state VALUES ('a', 0), ('b', 0)")
    done = threading.Event()

    def read(_):
        seen = []
        while not done.is_set() or not seen:
            with database.read() as connection:
                (one,) = connection.execute("SELECT value FROM state WHERE key = 'a'").fetchone()
                (two,) = connection.execute("SELECT value FROM state WHERE key = 'b'").fetchone()
            assert one == two
            seen.append(one)
        return seen

    with ThreadPoolExecutor(8) as pool:
        reads = pool.map(read, range(8))
        for _ in range(200):
            with database.write() as connection:
                connection.execute("UPDATE state SET value = value + 1 WHERE key = 'a'")
                connection.execute("UPDATE state SET value = value + 1 WHERE key = 'b'")
        done.set()
        for seen in reads:
            assert seen == sorted(seen)
    with database.read() as connection:
        assert connection.execute("SELECT value FROM state").fetchall() == [(200,), (200,)]
    assert 1 <= len(database._free) <= 9
    database.close()


def test_a_failed_transaction_leaves_nothing_behind(tmp_path):
    database = Database(tmp_path, create=True)

    def fail(wrong):
        with database.write() as connection:
            connection.execute("INSERT INTO roots (path) VALUES ('/lost')")
            connection.execute(wrong)
            raise RuntimeError

    for error, wrong in ((RuntimeError, "SELECT 1"), (StoreError, "no SQL"), (StoreError, "SELECT * FROM nothing")):
        with pytest.raises(error):
            fail(wrong)
        with database.write() as connection:
            assert not connection.execute("SELECT * FROM roots").fetchall()
    assert len(database._free) == 1
    database.close()


def test_closing_during_a_read(tmp_path):
    database = Database(tmp_path, create=True)
    with database.read() as connection:
        database.close()
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert not database._free
    with pytest.raises(sqlite3.ProgrammingError):
        connection.execute("SELECT 1")
    assert not list(tmp_path.glob("catalog.sqlite-*")), "the last connection takes the log along"


def test_a_writer_waits_for_another_one(tmp_path):
    one, other = Database(tmp_path, create=True), Database(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        with one.write() as connection:
            connection.execute("INSERT INTO state VALUES ('a', 1)")

            def add():
                with other.write() as connection:
                    connection.execute("UPDATE state SET value = value + 1")

            waiting = pool.submit(add)
            time.sleep(0.2)
            assert not waiting.done()
        waiting.result(30)
    with one.read() as connection:
        assert connection.execute("SELECT value FROM state").fetchone() == (2,)
    one.close()
    other.close()


@pytest.mark.parametrize("content", [b"no database at all" * 500, b""], ids=["garbage", "empty"])
def test_an_invalid_file_leaves_nothing_open(tmp_path, content):
    (tmp_path / "catalog.sqlite").write_bytes(content)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(StoreError, match=r"catalog\.sqlite"):
            Database(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_format_that_never_existed(tmp_path):
    with closing(sqlite3.connect(write_format_2(tmp_path / "index") / "catalog.sqlite")) as connection:
        connection.execute("PRAGMA user_version = -5")
    with pytest.raises(StoreError, match=r"damaged \(format -5\) - run"):
        Catalog(tmp_path / "index")
