import gc
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from flairsearch.core.types import EncodedViews, ImageFile
from flairsearch.indexing.lifecycle import create_index
from flairsearch.shortlist.shortlist import make_derived_files
from flairsearch.store.catalog import Catalog
from flairsearch.store.changeset import Changeset
from flairsearch.store.derived_files import DerivedFiles
from flairsearch.store.segments import MappedRows
from flairsearch.store.snapshot import Snapshot
from flairsearch.store.writer import Writer
from tests.support.fake import DIM, PATCHES, fake_engine, paint_red
from tests.support.indexes import (
    FRAME,
    SETTINGS,
    add,
    candidate_count,
    commit,
    compact,
    digest,
    encoded,
    filled,
    open_shortlist,
)


def test_views_are_read_by_id_in_any_order(index, catalog):
    filled(index, range(5), range(5, 6), range(6, 150), range(150, 160))
    reader = Snapshot(index, SETTINGS, catalog)
    expected = encoded(range(160))
    order = np.random.default_rng(0).permutation(160)
    views = reader.views.id[order]
    np.testing.assert_array_equal(reader.encoded(views).tokens, expected.tokens[order])
    np.testing.assert_array_equal(reader.pooled(views), expected.pooled[order])
    np.testing.assert_array_equal(np.concatenate(list(reader.all_pooled())), expected.pooled)
    assert len(reader) == 160
    assert len(set(reader.contents(views))) == 160


def test_rows_are_read_in_pieces(index, catalog):
    filled(index, range(5), range(5, 11))
    reader = Snapshot(index, SETTINGS, catalog)
    views = np.random.default_rng(0).permutation(reader.views.id)
    pieces = [piece.copy() for piece in reader.rows(views, piece_views=4)]  # The next piece overwrites the one before.
    assert [len(piece) for piece in pieces] == [4, 4, 3]
    np.testing.assert_array_equal(np.concatenate(pieces), reader.coded(views))


def test_by_segment_has_each_view_once(index, catalog):
    filled(index, range(5), range(5, 6), range(6, 150), range(150, 160))
    reader = Snapshot(index, SETTINGS, catalog)
    views = np.random.default_rng(0).permutation(reader.views.id)[:90]
    parts = list(reader.by_segment(views))
    numbers = [number for number, _, _, _ in parts]
    assert numbers == sorted(set(numbers))
    found, seen = reader.coded(views), []
    for number, rows, here, places in parts:
        assert (reader.views.segment[np.searchsorted(reader.views.id, views[here])] == number).all()
        np.testing.assert_array_equal(rows[places], found[here])
        seen += here.tolist()
        assert (np.diff(here) > 0).all()
    assert sorted(seen) == list(range(90))
    assert list(reader.by_segment(views[:0])) == []


@pytest.mark.parametrize("kind", ["tokens", "pooled"])
def test_damaged_views_are_found(index, catalog, kind):
    filled(index, range(4), range(4, 7))
    views = Snapshot(index, SETTINGS, catalog).views.id
    expected = checksums(catalog, views)
    assert not Snapshot(index, SETTINGS, catalog).damaged(views, expected).any()
    for number, row in ((1, 1), (2, 2)):
        file = index / "segments" / f"{number:06d}.{kind}"
        data = bytearray(file.read_bytes())
        data[row * len(data) // (4 if number == 1 else 3)] ^= 1
        file.write_bytes(data)
    reader = Snapshot(index, SETTINGS, catalog)
    assert reader.damaged(views, expected).tolist() == [view in (2, 7) for view in views]
    assert reader.damaged(views[::-1], expected[::-1]).tolist() == [view in (2, 7) for view in views[::-1]]
    assert reader.damaged(views[[3, 1]], expected[[3, 1]]).tolist() == [False, True]


def checksums(catalog, views):
    """Return the catalogue's checksums i64[K] of views."""
    found = catalog.checksums(views.tolist())
    return np.array([found[view] for view in views.tolist()], np.int64)


@pytest.mark.parametrize("name", ["000001.tokens", "000001.pooled"])
def test_a_missing_or_truncated_segment_is_left_out_with_one_line(index, catalog, name):
    filled(index, range(3), range(3, 8))
    assert Snapshot(index, SETTINGS, catalog).damage == []
    file = index / "segments" / name
    data = file.read_bytes()
    for broken in (data[:-1], data + b"\0", b""):
        file.write_bytes(broken)
        reader = Snapshot(index, SETTINGS, catalog)
        what = f"{file} has {len(broken)} bytes, expected {len(data)}"
        assert reader.damage == [f"{what} - run flairsearch verify --repair"]
        check_that_the_second_segment_is_left(reader)
    file.unlink()
    reader = Snapshot(index, SETTINGS, catalog)
    assert reader.damage == [f"{file} is missing - run flairsearch verify --repair"]
    check_that_the_second_segment_is_left(reader)
    file.write_bytes(data)
    assert len(Snapshot(index, SETTINGS, catalog)) == 8


def check_that_the_second_segment_is_left(reader):
    assert reader.unreadable_views.id.tolist() == [1, 2, 3]
    assert reader.views.id.tolist() == [4, 5, 6, 7, 8]
    np.testing.assert_array_equal(reader.encoded(reader.views.id).tokens, encoded(range(3, 8)).tokens)
    np.testing.assert_array_equal(np.concatenate(list(reader.all_pooled())), encoded(range(3, 8)).pooled)


def test_an_unused_segment_may_be_missing(index, catalog):
    filled(index, range(3), range(3, 8))
    catalog.commit(Changeset(removed=[1, 2, 3]))
    (index / "segments" / "000001.tokens").unlink()
    reader = Snapshot(index, SETTINGS, catalog)
    assert (reader.damage, len(reader.unreadable_views.id), len(reader)) == ([], 0, 5)


def test_opening_is_repeated_if_a_segment_has_just_been_removed(index, catalog, monkeypatch):
    """A segment may be rewritten between reading the catalogue and opening the files."""
    filled(index, range(3), range(3, 5))
    old = catalog.state()
    writer = Writer(index, SETTINGS)
    writer.remove_images([1, 2, 3])
    commit(writer)
    writer.close()
    for name in ("000001.tokens", "000001.pooled"):
        (index / "segments" / name).unlink()
    states = iter([old, old, catalog.state(), catalog.state()])
    monkeypatch.setattr(catalog, "state", lambda with_views=True: next(states))
    assert len(Snapshot(index, SETTINGS, catalog)) == 2


def test_an_open_snapshot_does_not_change(index, catalog):
    filled(index, range(3))
    reader = Snapshot(index, SETTINGS, catalog)
    writer = Writer(index, SETTINGS)
    writer.remove_images([1, 2])
    add(writer, range(3, 9))
    commit(writer)
    writer.close()
    assert len(reader) == 3
    np.testing.assert_array_equal(reader.encoded(reader.views.id).tokens, encoded(range(3)).tokens)
    assert len(Snapshot(index, SETTINGS, catalog)) == 7


READER = """
    import sys, time
    from pathlib import Path
    import numpy as np
    from flairsearch.store.catalog import Catalog
    from flairsearch.core.settings import IndexSettings
    from flairsearch.store.snapshot import Snapshot
    from flairsearch.shortlist.shortlist import Shortlist, make_derived_files

    assert "torch" not in sys.modules
    folder = Path(sys.argv[1])
    settings, catalog = IndexSettings.load(folder), Catalog(folder)
    seen, last, end = set(), -1, time.monotonic() + 30
    while last < int(sys.argv[2]) and time.monotonic() < end:
        reader = Snapshot(folder, settings, catalog)
        count = len(reader)
        assert count % 3 == 0, f"{count} views: part of a commit"
        assert count >= last, f"{count} views after {last}"
        assert reader.damage == [], reader.damage
        make_derived_files(reader)
        found = Shortlist(reader).search(np.ones(settings.dim, np.float32), count + 9)
        assert len(found.views) == count
        if count:
            np.testing.assert_array_equal(reader.views.id, np.arange(1, count + 1))
            tokens = reader.encoded(reader.views.id).tokens
            np.testing.assert_array_equal(tokens[:, 0, 0].astype(int), np.arange(count) % 1000)
        if count != last:
            sys.stdout.write(f"{count} {reader.generation}\\n")
            sys.stdout.flush()
        last = count
"""


def recording(catalog, name, states):
    """Wrap a method of a catalogue so that it records the number of views of the new generation."""
    plain = getattr(catalog, name)

    def method(*args):
        plain(*args)
        states[catalog.generation()] = catalog.counts()[1]

    return method


def test_a_reader_in_another_process_sees_only_whole_states(index, monkeypatch):
    commits, command = 40, [sys.executable, "-c", textwrap.dedent(READER), str(index)]
    reader = subprocess.Popen([*command, str(3 * commits)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert reader.stdout.readline() == "0 0\n"
    writer = Writer(index, SETTINGS)
    writer.catalog.add_root("/photos")
    states = {0: 0}  # The number of views of each generation.
    for name in ("commit", "rewrite"):
        monkeypatch.setattr(writer.catalog, name, recording(writer.catalog, name, states))
    for first in range(0, 3 * commits, 3):
        numbers = range(first, first + 3)
        tokens = np.stack([np.full((PATCHES, DIM), n % 1000, np.float16) for n in numbers])
        flat = np.zeros((3, PATCHES), np.float16)
        writer.add_views([digest(n) for n in numbers], [FRAME] * 3, EncodedViews(tokens[:, 0], tokens, flat, flat))
        for n in numbers:
            writer.add_image(ImageFile("/photos", f"{n}.jpg", 1, 1), digest(n))
        commit(writer)
    writer.close()
    assert len(states) > commits + 1  # Merges are commits, too, but change no view.
    out, err = reader.communicate(timeout=60)
    assert (reader.returncode, err) == (0, "")
    seen = [tuple(map(int, line.split())) for line in out.splitlines()]
    assert all(states[generation] == count for count, generation in seen)
    assert seen[-1][0] == 3 * commits
    assert len(seen) > 2  # The reader read several states during the writes.


# -- derived files: columns and FAISS index


def kinds(index):
    return sorted(path.suffix for path in (index / "prefilter").glob("*"))


def by_hand(catalog):
    """Return id, content, segment and row of each view that an image uses, by SQL."""
    query = "SELECT v.id, v.content, segment, row FROM views v WHERE content IN (SELECT content FROM images) ORDER BY 1"
    with catalog._database.read() as connection:
        return np.asarray(connection.execute(query).fetchall(), np.int64).reshape(-1, 4)


def check_reader(index, catalog, numbers):
    """Check columns, vectors and FAISS index against what was written; `numbers` are in the order of view ids."""
    reader, expected = Snapshot(index, SETTINGS, catalog), encoded(numbers)
    columns = np.stack((reader.views.id, reader.views.content, reader.views.segment, reader.views.row), axis=1)
    np.testing.assert_array_equal(columns, by_hand(catalog))
    np.testing.assert_array_equal(np.concatenate(list(reader.all_pooled())), expected.pooled)
    shortlist = open_shortlist(reader)
    assert candidate_count(shortlist) == len(numbers)
    for text in np.random.default_rng(0).normal(size=(5, DIM)).astype(np.float32):
        scores = expected.pooled.astype(np.float64) @ text / np.linalg.norm(text)
        order = np.lexsort((reader.views.id, -scores))[:7]
        found = shortlist.search(text, 7)
        assert found.views.tolist() == reader.views.id[order].tolist()
        np.testing.assert_allclose(found.scores, scores[order], rtol=1e-3)
    return reader


def test_derived_files_match_the_index(index, catalog):
    filled(index, range(50), range(50, 60))
    writer = Writer(index, SETTINGS)
    writer.remove_images([1, 7, 55])
    commit(writer)
    writer.close()
    numbers = [n for n in range(60) if n not in (0, 6, 54)]
    for _ in range(3):  # The files are made first and loaded then.
        check_reader(index, catalog, numbers)
        assert kinds(index) == [".faiss", ".views"]


@pytest.mark.parametrize("kind", ["faiss", "views"])
@pytest.mark.parametrize(
    "damage", ["cut", "empty", "longer", "deleted", "a folder", "no such format", "of other views"]
)
def test_a_damaged_derived_file_is_rebuilt(index, catalog, tmp_path, kind, damage):
    filled(index, range(40))
    check_reader(index, catalog, range(40))
    (file,) = (index / "prefilter").glob(f"*.{kind}")
    data = file.read_bytes()
    if damage in ("deleted", "a folder"):
        file.unlink()
        if damage == "a folder":
            file.mkdir()
    elif damage == "of other views":
        create_index(tmp_path / "other", SETTINGS)
        filled(tmp_path / "other", range(100, 139))
        other = Catalog(tmp_path / "other")
        make_derived_files(Snapshot(tmp_path / "other", SETTINGS, other))
        other.close()
        (stranger,) = (tmp_path / "other" / "prefilter").glob(f"*.{kind}")
        file.write_bytes(stranger.read_bytes())
    else:
        broken = {"cut": data[:-1], "empty": b"", "longer": data + bytes(32), "no such format": b"none" + data[4:]}
        file.write_bytes(broken[damage])
    check_reader(index, catalog, range(40))
    if damage != "a folder":
        assert file.read_bytes() == data
    check_reader(index, catalog, range(40))


@pytest.mark.parametrize("kind", ["faiss", "views"])
def test_verify_removes_a_derived_file_with_a_flipped_bit(tmp_path, kind):
    for number in range(1, 9):
        paint_red(tmp_path / "photos" / f"{number}.png", number)
    with fake_engine(tmp_path / "index") as engine:
        engine.add(tmp_path / "photos")
        expected = [(hit.path, hit.score, hit.score_global) for hit in engine.search("red")]
        make_derived_files(Snapshot(tmp_path / "index", engine.settings, engine._catalog))
        few = [hit.path for hit in engine.search("red", 1, shortlist=2)]  # This search uses FAISS.
    (file,) = (tmp_path / "index" / "prefilter").glob(f"*.{kind}")
    data = bytearray(file.read_bytes())
    data[-3] ^= 0x40  # This byte belongs to the last view.
    file.write_bytes(data)
    with fake_engine(tmp_path / "index") as engine:
        assert [(hit.path, hit.score) for hit in engine.search("red")] == [hit[:2] for hit in expected]
        assert [hit.path for hit in engine.search("red", 1, shortlist=2)] == few
        assert [found for _, _, some in engine.verify() for found in some] == []
    with fake_engine(tmp_path / "index") as engine:
        assert [(hit.path, hit.score, hit.score_global) for hit in engine.search("red")] == expected
        make_derived_files(Snapshot(tmp_path / "index", engine.settings, engine._catalog))
        assert [hit.path for hit in engine.search("red", 1, shortlist=2)] == few
    data[-3] ^= 0x40
    assert file.read_bytes() == bytes(data)  # The file was rebuilt.


@pytest.mark.parametrize("obstacle", ["a file", "read-only", "locked"])
def test_an_index_without_writable_derived_files_works(open_folder, as_user, obstacle):
    index = open_folder / "index"
    create_index(index, SETTINGS)
    filled(index, range(20))
    (index / "prefilter").write_bytes(b"") if obstacle == "a file" else (index / "prefilter").mkdir()
    if obstacle == "read-only":
        for path in [index, *index.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
    elif obstacle == "locked":
        (index / "prefilter").chmod(0)
        for path in (index, *index.glob("catalog.*")):
            path.chmod(0o777)
    with as_user():
        catalog = Catalog(index)
        for _ in range(2):
            check_reader(index, catalog, range(20))
        catalog.close()
    if obstacle == "a file":
        filled(index, range(20, 22))  # Writers work, too.
        catalog = Catalog(index)
        check_reader(index, catalog, range(22))
        catalog.close()


def test_older_derived_files_are_removed(index, catalog):
    for number in range(5):
        filled(index, range(4 * number, 4 * number + 4))
        check_reader(index, catalog, range(4 * number + 4))
        assert kinds(index) == [".faiss", ".views"]


def test_a_reader_of_an_older_state_may_write_its_derived_files_late(index, catalog):
    filled(index, range(10))
    old = Snapshot(index, SETTINGS, catalog)
    filled(index, range(10, 14))
    check_reader(index, catalog, range(14))
    assert candidate_count(open_shortlist(old)) == 10
    assert np.concatenate(list(old.all_pooled())).shape == (10, DIM)
    check_reader(index, catalog, range(14))
    filled(index, range(14, 15))
    check_reader(index, catalog, range(15))
    assert kinds(index) == [".faiss", ".views"]


def test_an_index_without_a_view(index, catalog):
    for _ in range(2):
        reader = Snapshot(index, SETTINGS, catalog)
        assert (len(reader), reader.damage, candidate_count(open_shortlist(reader))) == (0, [], 0)
        assert list(reader.all_pooled()) == []
        assert len(open_shortlist(reader).search(np.ones(DIM, np.float32), 5).views) == 0
    filled(index, range(3))
    check_reader(index, catalog, range(3))
    writer = Writer(index, SETTINGS)
    writer.remove_images([1, 2, 3])
    commit(writer)
    for _ in range(2):
        reader = Snapshot(index, SETTINGS, catalog)
        assert (len(reader), reader.damage, candidate_count(open_shortlist(reader))) == (0, [], 0)
        compact(writer)
    writer.close()
    filled(index, range(3, 5))
    check_reader(index, catalog, range(3, 5))


def test_derived_files_of_an_incomplete_index_are_not_saved(index, catalog):
    filled(index, range(5), range(5, 9))
    file = index / "segments" / "000001.pooled"
    file.rename(index / "away")
    reader = Snapshot(index, SETTINGS, catalog)
    assert (len(reader), candidate_count(open_shortlist(reader))) == (4, 4)
    (index / "away").rename(file)
    check_reader(index, catalog, range(9))
    file.unlink()  # The complete file that is saved now is not used for the remaining views.
    reader = Snapshot(index, SETTINGS, catalog)
    found = open_shortlist(reader).search(np.ones(DIM, np.float32), 99)
    assert sorted(found.views.tolist()) == [6, 7, 8, 9]


MAKE = """
    import sys
    from pathlib import Path
    from flairsearch.store.catalog import Catalog
    from flairsearch.store.snapshot import Snapshot
    from flairsearch.core.settings import IndexSettings
    from flairsearch.shortlist.shortlist import Shortlist, make_derived_files

    folder, catalogs = Path(sys.argv[1]), []
    settings, catalog = IndexSettings.load(folder), Catalog(folder)
    print("ready", flush=True)
    for line in sys.stdin:
        reader = Snapshot(folder, settings, catalog)
        make_derived_files(reader)
        shortlist, text = Shortlist(reader), reader.pooled(reader.views.id[:1])[0].astype("f4")
        found, every = shortlist.search(text, 1), shortlist.search(text, len(reader) + 9).views
        print(len(reader), len(every), found.views[0] in reader.views.id, len(reader.damage), flush=True)
"""


def test_two_processes_make_derived_files_at_once(index):
    filled(index, range(2000))
    catalog, numbers = Catalog(index), list(range(2000))
    command = [sys.executable, "-c", textwrap.dedent(MAKE), str(index)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    for number in range(2000, 2010):
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        expected = f"{len(numbers)} {len(numbers)} True 0\n"
        assert [process.stdout.readline() for process in processes] == [expected] * 2
        assert len(list((index / "prefilter").iterdir())) == 2
        filled(index, [number])
        numbers.append(number)
    for process in processes:
        assert process.communicate()[1] == ""
    check_reader(index, catalog, numbers)
    catalog.close()


# -- many small commits


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc")
def test_a_reader_of_many_commits_holds_few_files_open(index, catalog):
    writer = Writer(index, SETTINGS)
    for number in range(100):
        add(writer, [number])
        commit(writer)
    writer.close()
    before = open_files()
    reader = check_reader(index, catalog, range(100))
    assert open_files() - before <= 40
    del reader
    gc.collect()
    assert open_files() - before <= 8  # SQLite and the system open some files.


def test_opening_while_a_writer_merges_loses_no_view(index):
    """A segment may be removed between reading the catalogue and opening it, even repeatedly."""
    stop, wrong, opened = threading.Event(), [], []

    def look():
        catalog = Catalog(index)
        while not stop.is_set():
            reader = Snapshot(index, SETTINGS, catalog)
            opened.append(len(reader))
            if reader.damage:
                wrong.append(reader.damage[0])
        catalog.close()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for number in range(80):
            filled(index, [number])
    finally:
        stop.set()
        thread.join()
    assert wrong == []
    assert opened == sorted(opened)
    assert len(opened) > 10


def test_a_reader_slower_than_two_merges_sees_a_whole_state(index, catalog, monkeypatch):
    """Both its first and its second reading of the catalogue are out of date when it opens the files."""
    filled(index, range(3), range(3, 5))
    plain, left = catalog.state, [2]

    def outrun(with_views=True):
        state = plain(with_views)
        if with_views and left[0]:  # This is the last reading before the files are opened.
            left[0] -= 1
            writer = Writer(index, SETTINGS)
            add(writer, [100 + left[0]])
            commit(writer)
            compact(writer)
            writer.close()
        return state

    monkeypatch.setattr(catalog, "state", outrun)
    reader = Snapshot(index, SETTINGS, catalog)
    assert reader.damage == []
    assert len(reader) == 7


def test_a_derived_file_of_a_lost_generation_is_not_used(index, catalog):
    """A backup is restored while another process writes a derived file of a later generation."""
    filled(index, range(3))
    writer = Writer(index, SETTINGS)
    stale = Snapshot(index, SETTINGS, catalog).views.only(np.asarray([True, False, False]))
    for ahead in range(1, 4):
        stale.save(DerivedFiles(index / "prefilter", catalog.generation() + ahead))
    for number in range(10, 13):
        add(writer, [number])
        commit(writer)
        reader = Snapshot(index, SETTINGS, catalog)
        assert len(reader) == len(range(3)) + number - 9
    writer.close()


@pytest.mark.parametrize("cached", [True, False])
def test_rows_are_prefetched_unless_they_are_in_memory(index, catalog, monkeypatch, cached):
    filled(index, range(5), range(5, 300))
    told = []
    monkeypatch.setattr(MappedRows, "in_page_cache", lambda file, rows: cached)
    monkeypatch.setattr(MappedRows, "prefetch", lambda file, rows: told.extend(rows.tolist()))
    reader = Snapshot(index, SETTINGS, catalog)
    views = reader.views.id[::2]
    assert sum(map(len, reader.rows(views))) == len(views)
    assert told == ([] if cached else reader.views.row[::2].tolist())
