import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from fake import DIM, PATCHES, fake_settings

from flairsearch.catalog import Catalog, Changeset
from flairsearch.errors import StoreError
from flairsearch.records import Encoded, Frame, ImageFile
from flairsearch.settings import IndexSettings
from flairsearch.store import Reader, Writer, create_index, index_bytes, replace_index

SETTINGS = fake_settings()
FRAME = Frame(10, 10, 0.0, 0.0, 10.0, 10.0)


def digest(number):
    return number.to_bytes(16, "big")


def encoded(numbers):
    """Random vectors that a number stands for."""
    shapes = ((DIM,), (PATCHES, DIM), (PATCHES,), (PATCHES,))
    rngs = [np.random.default_rng(number) for number in numbers]
    return Encoded(*(np.stack([rng.normal(size=shape) for rng in rngs]).astype(np.float16) for shape in shapes))


def add(writer, numbers, root="/photos"):
    writer.catalog.add_root(root)
    writer.add_views([digest(n) for n in numbers], [FRAME] * len(numbers), encoded(numbers))
    for number in numbers:
        writer.add_image(ImageFile(root, f"{number}.jpg", 1, 1), digest(number))


def files(folder):
    return sorted(path.name for path in (folder / "segments").iterdir())


@pytest.fixture
def index(tmp_path):
    folder = tmp_path / "index"
    create_index(folder, SETTINGS)
    return folder


@pytest.fixture
def catalog(index):
    catalog = Catalog(index)
    yield catalog
    catalog.close()


def filled(index, *batches):
    writer = Writer(index, SETTINGS)
    for numbers in batches:
        add(writer, numbers)
        writer.commit()
    writer.close()


def test_every_view_comes_back_by_its_id_in_any_order(index, catalog):
    filled(index, range(5), range(5, 6), range(6, 150), range(150, 160))
    reader = Reader(index, SETTINGS, catalog)
    expected = encoded(range(160))
    order = np.random.default_rng(0).permutation(160)
    views = reader.views.id[order]
    np.testing.assert_array_equal(np.concatenate(list(reader.tokens(views))), expected.tokens[order])
    np.testing.assert_array_equal(reader.pooled(views), expected.pooled[order])
    for ids, pooled in reader.all_pooled():
        np.testing.assert_array_equal(pooled, expected.pooled[np.searchsorted(reader.views.id, ids)])
    assert sorted(np.concatenate([ids for ids, _ in reader.all_pooled()])) == sorted(views)
    assert len(reader) == 160
    assert len(set(reader.contents(views))) == 160


def test_checksums_in_the_catalogue_are_those_of_the_bytes(index, catalog):
    filled(index, range(4))
    with catalog._engine.connect() as connection:
        expected = np.asarray([c for (c,) in connection.exec_driver_sql("SELECT checksum FROM views ORDER BY row")])
    segment = Reader(index, SETTINGS, catalog)._segments[1]
    assert not segment.damaged(np.arange(4), expected).any()
    file = index / "segments" / "000001.pooled"
    data = bytearray(file.read_bytes())
    data[2 * DIM] ^= 1
    file.write_bytes(data)
    segment = Reader(index, SETTINGS, catalog)._segments[1]
    assert segment.damaged(np.arange(4), expected).tolist() == [False, True, False, False]


def test_what_is_not_committed_leaves_no_trace(index, catalog):
    filled(index, range(3))
    before = catalog.generation(), files(index)
    writer = Writer(index, SETTINGS)
    add(writer, range(3, 6))
    assert len(Reader(index, SETTINGS, catalog)) == 3
    writer.close()
    assert (catalog.generation(), files(index)) == before
    assert catalog.counts() == (3, 3)
    assert catalog.hashes() == {digest(n) for n in range(3)}


def test_an_empty_commit_changes_nothing(index, catalog):
    filled(index, range(3))
    writer = Writer(index, SETTINGS)
    writer.commit()
    writer.close()
    assert catalog.generation() == 1


def test_the_next_writer_removes_what_no_row_speaks_of(index, catalog):
    filled(index, range(3))
    live = files(index)
    for name in ("000002.tokens", "000002.pooled", "000003.tokens.part", "000001.pooled.part", "000099.fitted"):
        (index / "segments" / name).write_bytes(b"left over")
    assert len(Reader(index, SETTINGS, catalog)) == 3  # a reader minds them not
    Writer(index, SETTINGS).close()
    assert files(index) == live
    filled(index, range(3, 5))
    np.testing.assert_array_equal(
        next(Reader(index, SETTINGS, catalog).tokens(np.arange(1, 6))), encoded(range(5)).tokens
    )


def test_two_writers_at_once_are_refused(index):
    writer = Writer(index, SETTINGS)
    with pytest.raises(StoreError, match=r"is being written by another process - wait") as caught:
        Writer(index, SETTINGS)
    assert "\n" not in str(caught.value)
    other = (
        "from flairsearch.store import Writer; from flairsearch.settings import IndexSettings; from pathlib import Path"
    )
    code = f"{other}; f = Path({str(index)!r}); Writer(f, IndexSettings.load(f)).close()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "StoreError" in ended.stderr
    assert "is being written by another process" in ended.stderr
    writer.close()
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("damage", ["catalogue", "segments", "settings"])
def test_a_writer_that_cannot_begin_lets_the_lock_go(index, damage):
    place = index / {"catalogue": "catalog.sqlite", "segments": "segments", "settings": "index.json"}[damage]
    settings = SETTINGS if damage != "settings" else IndexSettings("fake", "", 64, PATCHES, DIM, codec="int9")
    if damage != "settings":
        place.rename(index.parent / "away")
    with pytest.raises(StoreError) as caught:
        Writer(index, settings)
    assert "\n" not in str(caught.value)
    if damage != "settings":
        (index.parent / "away").rename(place)
    Writer(index, SETTINGS).close()


@pytest.mark.parametrize("name", ["000001.tokens", "000001.pooled"])
def test_a_lost_or_cut_segment_is_left_out_with_one_line(index, catalog, name):
    filled(index, range(3), range(3, 8))
    assert Reader(index, SETTINGS, catalog).damage == []
    file = index / "segments" / name
    data = file.read_bytes()
    for broken in (data[:-1], data + b"\0", b""):
        file.write_bytes(broken)
        reader = Reader(index, SETTINGS, catalog)
        what = f"{file} has {len(broken)} bytes, expected {len(data)}"
        assert reader.damage == [f"{what} - run flairsearch verify --repair"]
        check_that_the_second_segment_is_left(reader)
    file.unlink()
    reader = Reader(index, SETTINGS, catalog)
    assert reader.damage == [f"{file} is missing - run flairsearch verify --repair"]
    check_that_the_second_segment_is_left(reader)
    file.write_bytes(data)
    assert len(Reader(index, SETTINGS, catalog)) == 8


def check_that_the_second_segment_is_left(reader):
    assert reader.lost.id.tolist() == [1, 2, 3]
    assert reader.views.id.tolist() == [4, 5, 6, 7, 8]
    np.testing.assert_array_equal(next(reader.tokens(reader.views.id)), encoded(range(3, 8)).tokens)
    ((ids, pooled),) = reader.all_pooled()
    assert ids.tolist() == [4, 5, 6, 7, 8]
    np.testing.assert_array_equal(pooled, encoded(range(3, 8)).pooled)


def test_a_segment_that_nobody_uses_may_be_lost(index, catalog):
    filled(index, range(3), range(3, 8))
    catalog.commit(Changeset(removed=[1, 2, 3]))
    (index / "segments" / "000001.tokens").unlink()
    reader = Reader(index, SETTINGS, catalog)
    assert (reader.damage, len(reader.lost.id), len(reader)) == ([], 0, 5)


def test_a_reader_looks_again_when_a_segment_has_just_gone(index, catalog, monkeypatch):
    """As when a segment was rewritten between the look into the catalogue and the opening of its files."""
    filled(index, range(3), range(3, 5))
    old = catalog.state()
    writer = Writer(index, SETTINGS)
    writer.remove_images([1, 2, 3])
    writer.commit()
    writer.close()
    for name in ("000001.tokens", "000001.pooled"):
        (index / "segments" / name).unlink()
    states = iter([old, catalog.state()])
    monkeypatch.setattr(catalog, "state", lambda: next(states))
    assert len(Reader(index, SETTINGS, catalog)) == 2


def test_an_open_reader_keeps_its_state(index, catalog):
    filled(index, range(3))
    reader = Reader(index, SETTINGS, catalog)
    writer = Writer(index, SETTINGS)
    writer.remove_images([1, 2])
    add(writer, range(3, 9))
    writer.commit()
    writer.close()
    assert len(reader) == 3
    np.testing.assert_array_equal(next(reader.tokens(reader.views.id)), encoded(range(3)).tokens)
    assert len(Reader(index, SETTINGS, catalog)) == 7


def test_an_index_that_may_not_be_written(open_folder, as_user):
    index = open_folder / "index"
    create_index(index, SETTINGS)
    filled(index, range(3))
    (index / "writer.lock").unlink(missing_ok=True)
    for path in [index, *index.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    with as_user():
        catalog = Catalog(index)
        reader = Reader(index, SETTINGS, catalog)
        np.testing.assert_array_equal(next(reader.tokens(reader.views.id)), encoded(range(3)).tokens)
        catalog.close()
        with pytest.raises(StoreError, match="cannot be written") as caught:
            Writer(index, SETTINGS)
        assert "\n" not in str(caught.value)


READER = """
    import sys, time
    from pathlib import Path
    import numpy as np
    from flairsearch.catalog import Catalog
    from flairsearch.settings import IndexSettings
    from flairsearch.store import Reader

    assert "torch" not in sys.modules
    folder = Path(sys.argv[1])
    settings, catalog = IndexSettings.load(folder), Catalog(folder)
    seen, last, end = set(), -1, time.monotonic() + 30
    while last < int(sys.argv[2]) and time.monotonic() < end:
        reader = Reader(folder, settings, catalog)
        count = len(reader)
        assert count % 3 == 0, f"{count} views: part of a commit"
        assert count >= last, f"{count} views after {last}"
        assert count == 3 * reader.generation, f"{count} views in generation {reader.generation}"
        for tokens in reader.tokens(reader.views.id):
            pass
        if count:
            np.testing.assert_array_equal(tokens[-1].astype(int), (count - 1) % 1000)
        if count != last:
            sys.stdout.write(f"{count}\\n")
            sys.stdout.flush()
        last = count
"""


def test_a_reader_in_another_process_sees_whole_states_only(index):
    commits, command = 40, [sys.executable, "-c", textwrap.dedent(READER), str(index)]
    reader = subprocess.Popen([*command, str(3 * commits)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert reader.stdout.readline() == "0\n"
    writer = Writer(index, SETTINGS)
    writer.catalog.add_root("/photos")
    for commit in range(commits):
        numbers = range(3 * commit, 3 * commit + 3)
        tokens = np.stack([np.full((PATCHES, DIM), n % 1000, np.float16) for n in numbers])
        flat = np.zeros((3, PATCHES), np.float16)
        writer.add_views([digest(n) for n in numbers], [FRAME] * 3, Encoded(tokens[:, 0], tokens, flat, flat))
        for n in numbers:
            writer.add_image(ImageFile("/photos", f"{n}.jpg", 1, 1), digest(n))
        writer.commit()
    writer.close()
    out, err = reader.communicate(timeout=60)
    assert (reader.returncode, err) == (0, "")
    assert out.splitlines()[-1] == str(3 * commits)
    assert len(out.splitlines()) > 2  # it did look while the writer was at work


def test_replace_index_leaves_only_the_new_one(tmp_path):
    old, fresh = tmp_path / "photos", tmp_path / "photos.rebuilding"
    for folder, numbers in ((old, range(3)), (fresh, range(7))):
        create_index(folder, SETTINGS)
        filled(folder, numbers)
    replace_index(old, fresh)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    catalog = Catalog(old)
    assert len(Reader(old, SETTINGS, catalog)) == 7
    catalog.close()


def test_index_bytes_counts_every_file(index):
    filled(index, range(10))
    expected = sum(os.stat(Path(at, name)).st_size for at, _, names in os.walk(index) for name in names)
    assert index_bytes(index) == expected > 10 * (2 * PATCHES * DIM + 4 * PATCHES + 2 * DIM)
