"""The columns of all views, read from the catalogue or from their derived file."""

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
def test_saved_columns_are_mapped(cache, count):
    assert ViewColumns.load(cache) is None
    columns(count).save(cache)
    loaded = ViewColumns.load(cache)
    assert same(loaded, columns(count))
    for name in NAMES:
        assert type(getattr(loaded, name)) is np.ndarray
        assert not getattr(loaded, name).flags.writeable  # The columns are views of the mapped file.
    assert cache.find("views").stat().st_size == 32 * count


def test_columns_without_views(cache):
    columns(0).save(cache)
    loaded = ViewColumns.load(cache)
    assert loaded is None or same(loaded, columns(0))


def test_columns_of_another_generation_are_not_found(cache, tmp_path):
    columns(5).save(cache)
    for generation in (11, 13, 1, 2, 120):
        assert ViewColumns.load(DerivedFiles(tmp_path / "prefilter", generation)) is None


def test_damaged_files_are_not_used(cache):
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
    columns(5).save(cache)  # A new file replaces the damaged one.
    assert same(ViewColumns.load(cache), columns(5))
    assert len(list(file.parent.iterdir())) == 1


def test_unreadable_files_are_not_used(open_folder, as_user):
    columns(5).save(DerivedFiles(open_folder / "prefilter", 1))
    for path in (open_folder / "prefilter").iterdir():
        path.chmod(0)
    with as_user():
        assert ViewColumns.load(DerivedFiles(open_folder / "prefilter", 1)) is None
    (open_folder / "prefilter").chmod(0o700)
    with as_user():
        assert ViewColumns.load(DerivedFiles(open_folder / "prefilter", 1)) is None


def test_only_chosen_views_are_kept():
    whole = columns(6)
    chosen = whole.only(np.asarray([True, False, True, True, False, False]))
    for name in NAMES:
        np.testing.assert_array_equal(getattr(chosen, name), getattr(whole, name)[[0, 2, 3]])
