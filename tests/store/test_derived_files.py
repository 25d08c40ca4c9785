"""Derived files: intact or absent, only of the newest generation, and never an obstacle for other processes."""

import os
import threading
import zlib
from contextlib import suppress

import pytest

from flairsearch.indexing.lifecycle import create_index
from flairsearch.shortlist.shortlist import make_derived_files
from flairsearch.store.catalog import Catalog
from flairsearch.store.derived_files import DerivedFiles, checksum, checksum_matches, drop_damaged
from flairsearch.store.snapshot import Snapshot
from flairsearch.store.writer import Writer
from tests.support.fake import fake_engine, paint_red
from tests.support.indexes import SETTINGS, filled


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "prefilter"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(folder, generation, data, kind="kind"):
    with DerivedFiles(folder, generation).atomic_write(kind) as path:
        path.write_bytes(data)


def write_half(folder, error):
    with DerivedFiles(folder, 2).atomic_write("kind") as path:
        path.write_bytes(b"half")
        raise error


def name(generation, data, kind="kind"):
    return f"{generation:06d}-{zlib.crc32(data):08x}.{kind}"


@pytest.mark.parametrize("data", [b"", b"a", os.urandom(3 << 20)])
def test_a_written_file_is_found_under_its_checksum(folder, data):
    assert DerivedFiles(folder, 7).find("kind") is None
    write(folder, 7, data)
    assert names(folder) == [name(7, data)]
    file = DerivedFiles(folder, 7).find("kind")
    assert file.read_bytes() == data
    assert checksum(file) == zlib.crc32(data)
    assert checksum_matches(file)
    assert (
        DerivedFiles(folder, 7).find("other")
        is DerivedFiles(folder, 6).find("kind")
        is DerivedFiles(folder, 70).find("kind")
        is None
    )


def test_only_older_generations_of_a_kind_are_removed(folder):
    for generation in (9, 10, 999_999, 1_000_001):
        write(folder, generation, b"x")
        write(folder, generation, b"x", "other")
        kept = [name(generation, b"x"), name(generation, b"x", "other")]
        assert names(folder) == sorted(kept)
    write(folder, 1_000_000, b"late")  # This file is written late by a reader of an older snapshot.
    assert names(folder) == sorted([*kept, name(1_000_000, b"late")])
    assert DerivedFiles(folder, 1_000_001).find("kind").read_bytes() == b"x"
    write(folder, 1_000_002, b"y")
    assert names(folder) == sorted([name(1_000_001, b"x", "other"), name(1_000_002, b"y")])


def test_another_file_of_the_same_generation_is_removed(folder):
    """If a file in an older format were found first, every query would rebuild it."""
    write(folder, 7, b"old")
    write(folder, 8, b"newer")
    write(folder, 7, b"new")
    assert names(folder) == sorted([name(7, b"new"), name(8, b"newer")])


def test_unrelated_files_are_not_touched(folder):
    folder.mkdir()
    for stranger in ("notes.kind", "abc-1.kind", ".hidden"):
        (folder / stranger).write_bytes(b"mine")
    write(folder, 3, b"x")
    assert names(folder) == sorted([".hidden", name(3, b"x"), "abc-1.kind", "notes.kind"])


def test_a_failed_write_leaves_nothing(folder):
    write(folder, 1, b"x")
    for error in (OSError, KeyboardInterrupt):
        with pytest.raises(error):
            write_half(folder, error)
        assert names(folder) == [name(1, b"x")]
    with pytest.raises(OSError), DerivedFiles(folder, 2).atomic_write("kind"):  # noqa: PT011
        pass  # Nothing is written at all.
    assert names(folder) == [name(1, b"x")]


def test_a_folder_that_cannot_be_made_raises_os_error(folder, tmp_path):
    folder.write_bytes(b"a file")
    with pytest.raises(OSError):  # noqa: PT011
        write(folder, 1, b"x")
    assert DerivedFiles(folder, 1).find("kind") is None
    assert drop_damaged(folder) == drop_damaged(tmp_path / "nowhere") == []


def test_damaged_files_are_dropped(folder):
    for generation, kind in ((5, "a"), (5, "b"), (5, "c"), (5, "d")):
        write(folder, generation, b"0123456789", kind)
    whole = [name(5, b"0123456789", kind) for kind in "abcd"]
    assert drop_damaged(folder) == []
    (folder / whole[1]).write_bytes(b"0123456788")
    (folder / whole[2]).write_bytes(b"012345678")
    assert [path.name for path in drop_damaged(folder)] == whole[1:3]
    assert names(folder) == [whole[0], whole[3]]


def test_a_file_may_disappear_during_the_check(folder, monkeypatch):
    """Another process replaces it by a newer one."""
    write(folder, 1, b"x", "a")
    write(folder, 1, b"x", "b")
    plain = checksum_matches

    def slow(file):
        (folder / name(1, b"x", "b")).unlink(missing_ok=True)
        return plain(file)

    monkeypatch.setattr("flairsearch.store.derived_files.checksum_matches", slow)
    assert [file for file in drop_damaged(folder) if file.exists()] == []
    assert names(folder) == [name(1, b"x", "a")]


def test_unreadable_files_and_folders_do_not_stop_verify(open_folder, as_user):
    write(open_folder, 1, b"x", "a")
    (open_folder / "000001-00000000.b").mkdir()
    (open_folder / name(1, b"x", "a")).chmod(0)
    with as_user():
        drop_damaged(open_folder)


def test_two_writers_of_different_generations_at_once(folder):
    """The writers may be two threads, or processes with equal ids in two containers."""
    first, second = DerivedFiles(folder, 1).atomic_write("kind"), DerivedFiles(folder, 2).atomic_write("kind")
    one, other = first.__enter__(), second.__enter__()
    one.write_bytes(b"one")
    other.write_bytes(b"other")
    for atomic_write in (first, second):
        with suppress(OSError):  # A missing derived file costs time only.
            atomic_write.__exit__(None, None, None)
    for generation, data in ((1, b"one"), (2, b"other")):
        file = DerivedFiles(folder, generation).find("kind")
        assert file is None or file.read_bytes() == data


def test_many_threads_write_one_generation(folder):
    data = os.urandom(1 << 20)

    def work():
        for _ in range(20):
            with suppress(OSError):
                write(folder, 4, data)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(folder) == [name(4, data)]
    assert checksum_matches(folder / name(4, data))


# -- in an index


def test_the_next_writer_removes_files_left_by_a_power_cut(tmp_path):
    create_index(tmp_path / "index", SETTINGS)
    filled(tmp_path / "index", range(3))
    (tmp_path / "index" / "prefilter").mkdir(exist_ok=True)
    for part in ("123.faiss.part", "123.views.part"):
        (tmp_path / "index" / "prefilter" / part).write_bytes(b"half")
    Writer(tmp_path / "index", SETTINGS).close()
    assert [file for file in names(tmp_path / "index" / "prefilter") if file.endswith(".part")] == []


@pytest.mark.parametrize("ahead", [1, 5])
def test_a_restored_catalogue_does_not_use_derived_files_of_lost_generations(tmp_path, ahead):
    """The backup has index.json, catalog.sqlite and segments; the folder of derived files is not restored."""
    index = tmp_path / "index"
    create_index(index, SETTINGS)
    filled(index, range(3))
    backup = {
        path: path.read_bytes() for path in index.rglob("*") if path.is_file() and path.parent != index / "prefilter"
    }
    for number in range(ahead):
        filled(index, range(10 + number, 11 + number))
    catalog = Catalog(index)
    make_derived_files(Snapshot(index, SETTINGS, catalog))
    catalog.close()
    for path in [*index.glob("*.sqlite*"), *(index / "segments").iterdir()]:
        path.unlink()
    for path, data in backup.items():
        path.write_bytes(data)
    catalog = Catalog(index)
    for number in range(ahead):
        filled(index, range(100 + 10 * number, 105 + 10 * number))
    reader = Snapshot(index, SETTINGS, catalog)
    assert reader.damage == []
    assert reader.views.id.tolist() == list(range(1, 4 + 5 * ahead))
    catalog.close()


def test_derived_files_are_made_after_indexing_and_loaded_by_the_next_search(tmp_path, monkeypatch):
    for number in range(1, 6):
        paint_red(tmp_path / "photos" / f"{number}.png", number)
    with fake_engine(tmp_path / "index") as engine:
        engine.add(tmp_path / "photos")
        generation = engine._catalog.generation()
        made = {file.partition("-")[0] + file[file.index(".") :] for file in names(tmp_path / "index" / "prefilter")}
        assert made == {f"{generation:06d}.views"}  # All views are ranked, so there is no FAISS index.
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "index" / "prefilter").iterdir()}
        expected = [(hit.path, hit.score_global) for hit in engine.search("red")]
    monkeypatch.setattr("flairsearch.shortlist.faiss_index.FaissIndex.build", None)  # It must not be called.
    monkeypatch.setattr("flairsearch.store.catalog._live_views", None)
    with fake_engine(tmp_path / "index") as engine:
        assert [(hit.path, hit.score_global) for hit in engine.search("red")] == expected
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "index" / "prefilter").iterdir()} == before


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("age", [0, 1])  # The age is in generations.
def test_a_file_of_an_obsolete_kind_is_harmless(tmp_path, age, damaged):
    """Earlier versions kept the scores of unrelated texts in *.chance."""
    for number in range(1, 6):
        paint_red(tmp_path / "photos" / f"{number}.png", number)
    with fake_engine(tmp_path / "index") as engine:
        engine.add(tmp_path / "photos")
        expected = [(hit.path, hit.score) for hit in engine.search("red")]
        generation = engine._catalog.generation()
    data = os.urandom(1000)
    left = tmp_path / "index" / "prefilter" / f"{generation - age:06d}-{zlib.crc32(data):08x}.chance"
    left.write_bytes(data[damaged:])
    with fake_engine(tmp_path / "index") as engine:
        assert [(hit.path, hit.score) for hit in engine.search("red")] == expected
        assert [bad for _, _, bad in engine.verify() if bad] == []
        assert left.exists() is not damaged
        paint_red(tmp_path / "photos" / "6.png", 6)
        assert engine.add().added == 1
        assert engine.forget(tmp_path / "photos" / "6.png") == 1
        assert list(engine.compact())
        assert [(hit.path, hit.score) for hit in engine.search("red")] == expected
        assert engine.status().images == 5
