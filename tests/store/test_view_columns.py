"""The columns of all views: as the catalogue has them, from the catalogue or from their file."""

import numpy as np
import pytest

from flairsearch.store.derived_files import DerivedFiles
from flairsearch.store.view_columns import ViewColumns

NAMES = ("id", "content", "segment", "row")


def columns(count):
    rng = np.random.default_rng(count)
    return ViewColumns(np.cumsum(rng.integers(1, 9, count)), *rng.integers(0, 2**40, (3, count)))


def same(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in NAMES)


@pytest.fixture
def cache(tmp_path):
    return DerivedFiles(tmp_path / "prefilter", 12)


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_what_was_saved_is_loaded_and_mapped(cache, count):
    assert ViewColumns.load(cache) is None
    columns(count).save(cache)
    loaded = ViewColumns.load(cache)
    assert same(loaded, columns(count))
    for name in NAMES:
        assert type(getattr(loaded, name)) is np.ndarray
        assert not getattr(loaded, name).flags.writeable  # the file's own memory
    assert cache.find("views").stat().st_size == 32 * count


def test_of_no_view_at_all(cache):
    columns(0).save(cache)
    loaded = ViewColumns.load(cache)
    assert loaded is None or same(loaded, columns(0))


def test_of_another_state_there_are_none(cache, tmp_path):
    columns(5).save(cache)
    for generation in (11, 13, 1, 2, 120):
        assert ViewColumns.load(DerivedFiles(tmp_path / "prefilter", generation)) is None


def test_what_is_not_what_was_written_is_not_used(cache):
    columns(5).save(cache)
    file = cache.find("views")
    whole = file.read_bytes()
    flipped = bytearray(whole)
    for bit in range(0, 8 * len(whole), 7):
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        assert ViewColumns.load(cache) is None
        flipped[bit // 8] ^= 1 << bit % 8
    for broken in (whole[:-1], whole[:-32], whole[:32], whole + bytes(32), b""):
        file.write_bytes(broken)
        assert ViewColumns.load(cache) is None
    columns(5).save(cache)  # and written anew it takes the place of the damaged one
    assert same(ViewColumns.load(cache), columns(5))
    assert len(list(file.parent.iterdir())) == 1


def test_what_may_not_be_read_is_not_used(open_folder, as_user):
    columns(5).save(DerivedFiles(open_folder / "prefilter", 1))
    for path in (open_folder / "prefilter").iterdir():
        path.chmod(0)
    with as_user():
        assert ViewColumns.load(DerivedFiles(open_folder / "prefilter", 1)) is None
    (open_folder / "prefilter").chmod(0o700)
    with as_user():
        assert ViewColumns.load(DerivedFiles(open_folder / "prefilter", 1)) is None


def test_only_those_chosen():
    whole = columns(6)
    chosen = whole.only(np.asarray([True, False, True, True, False, False]))
    for name in NAMES:
        np.testing.assert_array_equal(getattr(chosen, name), getattr(whole, name)[[0, 2, 3]])
